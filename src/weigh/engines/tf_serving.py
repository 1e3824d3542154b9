"""TensorFlow Serving: exported models of any kind, asked to predict by REST or gRPC; inputs made from the signature.

gRPC needs the extra `tf-serving`, which is grpcio and protobuf alone: the few messages that are used are declared
in `tf_messages.py`, so that TensorFlow with its 2 GB need not be installed to measure it.
"""

from __future__ import annotations

import math
import random
import re
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

from weigh import units
from weigh.engines.closing import ClosedAfterUse
from weigh.engines.endpoint import MOST_ANSWER_BYTES, Endpoint, Refused, split_url
from weigh.engines.engine import Limits, ProcessMemory
from weigh.engines.served import Listener
from weigh.errors import (
    BadInput,
    EngineCrashed,
    EngineMissing,
    EngineTimeout,
    NotSupported,
    UnknownName,
    Unreachable,
    WeighError,
)

if TYPE_CHECKING:
    from weigh.engines.tf_messages import Messages

NAME = "tf-serving"
SIGNATURE = "serving_default"
LENGTH = 128  # of dimensions that are open besides the batch's, as a text's
MOST_VALUES = 1 << 26  # of one input
_MOST_TENSORS = 1000
_GRPC_PORT, _REST_PORT = 8500, 8501
_SERVICE = "/tensorflow.serving.PredictionService/"


@dataclass(frozen=True, slots=True)
class DataType:
    """`id` as in tensorflow/core/framework/types.proto; `code` as in Python's `array`, "" for others."""

    name: str
    id: int
    bytes: int
    code: str = ""


DATA_TYPES = {
    one.name: one
    for one in (
        DataType("DT_FLOAT", 1, 4, "f"),
        DataType("DT_DOUBLE", 2, 8, "d"),
        DataType("DT_INT32", 3, 4, "i"),
        DataType("DT_UINT8", 4, 1, "B"),
        DataType("DT_INT16", 5, 2, "h"),
        DataType("DT_INT8", 6, 1, "b"),
        DataType("DT_STRING", 7, 0),
        DataType("DT_INT64", 9, 8, "q"),
        DataType("DT_BOOL", 10, 1, "B"),
        DataType("DT_BFLOAT16", 14, 2),
        DataType("DT_UINT16", 17, 2, "H"),
        DataType("DT_HALF", 19, 2),
        DataType("DT_UINT32", 22, 4, "I"),
        DataType("DT_UINT64", 23, 8, "Q"),
    )
}


@dataclass(frozen=True, slots=True)
class TensorShape:
    """One input or output; `shape` is None for an open dimension, and wholly for an open rank."""

    name: str
    data_type: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    name: str
    inputs: tuple[TensorShape, ...]
    outputs: tuple[TensorShape, ...]

    @property
    def fixed_batch(self) -> int | None:
        """The batch that it was exported for; None when it takes any."""
        firsts = [one.shape[0] for one in self.inputs if one.shape]
        return next((first for first in firsts if first is not None), None)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One request: `latency_s` from when it was sent, on a connection that stood, to the last byte of its answer."""

    batch: int
    latency_s: float
    output_names: tuple[str, ...]


class _Way(Protocol):
    """REST or gRPC."""

    host: str
    port: int
    is_local: bool

    def metadata(self, model: str) -> tuple[str, Mapping[str, Signature]]:
        """The model's version, and its signatures."""
        ...

    def made(self, model: str, signature: Signature, inputs: Sequence[Made]) -> Any:
        """A request, ready to be sent."""
        ...

    def predict(self, model: str, request: Any) -> tuple[float, tuple[str, ...]]:
        """Seconds it took, and the names of the outputs."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Made:
    """An input with values: numbers in `values`, or strings when there are none."""

    tensor: TensorShape
    shape: tuple[int, ...]
    values: array[Any] | None

    @property
    def count(self) -> int:
        return math.prod(self.shape)


class TfServing(ClosedAfterUse):
    """A model in a running TensorFlow Serving.

    Attributes:
        version: of the model; the server does not tell its own.
        signatures: what it can be asked.
    """

    engine = NAME

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        """Ask for the model's signatures.

        Args:
            url: `http://HOST:8501` or `grpc://HOST:8500`, with `/v1/models/NAME` or `/NAME` unless `model` is given.

        Raises:
            BadInput: no address, or no model is named. UnknownName: the server has not that model.
            EngineMissing: gRPC without the extra. Unreachable, EngineError: it cannot be asked.
        """
        parts = split_url(url)
        named = re.fullmatch(r"(?:/v1/models)?/([^/:]+)/?", parts.path)
        chosen = model or (named[1] if named else "")
        if not chosen or not chosen.isprintable() or "/" in chosen:
            raise BadInput(
                "TensorFlow Serving lists no models", hint="name it: http://HOST:8501/v1/models/NAME"
            )
        self.model = chosen
        address = f"{parts.scheme}://{parts.netloc}"
        self._way: _Way = (
            _Grpc(address, limits.silence_s) if parts.scheme == "grpc" else _Rest(address, limits.silence_s)
        )
        version, self.signatures = self._way.metadata(chosen)
        self.version = f"TensorFlow Serving of unknown version, model version {version or 'unknown'}"
        self.command = ("Predict" if parts.scheme == "grpc" else "POST", f"{address}/{chosen}")
        self._listener = Listener(self._way.port) if self._way.is_local else None

    def signature(self, name: str = SIGNATURE) -> Signature:
        """By name; the only one where there is just one.

        Raises:
            UnknownName: there is no such signature.
        """
        shown = {key: one for key, one in self.signatures.items() if one.inputs}
        if name not in shown and name == SIGNATURE and len(shown) == 1:
            return next(iter(shown.values()))
        if name not in shown:
            raise UnknownName("signature", name, hint=f"it has {', '.join(list(shown)[:5]) or 'none'}")
        return shown[name]

    def request(self, signature: Signature, batch: int, *, length: int = LENGTH, seed: int = 0) -> Any:
        """A request of `batch` rows with made-up values, ready to be sent again and again.

        Numbers are between 0 and 1, whole ones 0 or 1, strings empty. Open dimensions are `length` long.

        Raises:
            BadInput: the model was exported for another batch, or the input would be too large.
            NotSupported: an input of a kind that cannot be made.
        """
        fixed = signature.fixed_batch
        if fixed is not None and fixed != batch:
            raise BadInput(f"{self.model} was exported for batches of {fixed}, not {batch}")
        made = [made_input(tensor, batch, length, seed) for tensor in signature.inputs]
        return self._way.made(self.model, signature, made)

    def predict(self, request: Any, batch: int) -> Prediction:
        """Send it and wait for the whole answer.

        Raises:
            Refused: the model does not take these inputs. EngineTimeout, EngineCrashed: no answer came.
        """
        latency_s, names = self._way.predict(self.model, request)
        return Prediction(batch, latency_s, names)

    def memory(self) -> ProcessMemory | None:
        """Of the server's processes; None when they are not on this machine, or not for us to see."""
        return self._listener.memory() if self._listener else None

    def close(self) -> None:
        self._way.close()


def made_input(tensor: TensorShape, batch: int, length: int, seed: int) -> Made:
    """Values for an input, by its type and shape."""
    kind = DATA_TYPES.get(tensor.data_type)
    if kind is None:
        raise NotSupported(f"the input `{tensor.name}` is of {tensor.data_type}, which cannot be made up")
    dims = tensor.shape if tensor.shape is not None else (None,)
    shape = tuple(
        size if size is not None else (batch if place == 0 else length) for place, size in enumerate(dims)
    )
    count = math.prod(shape)
    if count > MOST_VALUES:
        raise BadInput(
            f"the input `{tensor.name}` would have {count:,} values", hint="ask for smaller batches"
        )
    if not kind.code:  # strings are empty; halves are zeros, whose bits are the same in every format
        return Made(
            tensor, shape, None if kind.name == "DT_STRING" else array("B", bytes(count * kind.bytes))
        )
    draw = random.Random(seed)
    if kind.code in "fd":
        return Made(tensor, shape, array(kind.code, (draw.random() for _ in range(count))))
    bits = draw.getrandbits(count) if count else 0
    return Made(tensor, shape, array(kind.code, (bits >> place & 1 for place in range(count))))


# --- REST --------------------------------------------------------------------------------------------------


class _Rest:
    """Source: tensorflow_serving/g3doc/api_rest.md."""

    def __init__(self, url: str, silence_s: float) -> None:
        parts = urlsplit(url)
        with_port = url if parts.port or parts.scheme == "https" else f"{url}:{_REST_PORT}"
        self._api = Endpoint(with_port, silence_s=silence_s)
        self.host, self.port, self.is_local = self._api.host, self._api.port, self._api.is_local

    def metadata(self, model: str) -> tuple[str, Mapping[str, Signature]]:
        try:
            said = self._api.get(f"/v1/models/{quote(model, safe='')}/metadata")
        except Refused as error:
            if error.status == 404:
                raise UnknownName(f"model at {self._api.what}", model) from None
            raise
        spec = _at(said, "model_spec")
        signatures = _at(said, "metadata", "signature_def", "signature_def")
        version = spec.get("version")
        return _word(version), {
            _word(name): Signature(
                _word(name), _json_tensors(_at(one, "inputs")), _json_tensors(_at(one, "outputs"))
            )
            for name, one in list(signatures.items())[:_MOST_TENSORS]
        }

    def made(self, model: str, signature: Signature, inputs: Sequence[Made]) -> Any:
        columns = {one.tensor.name: _nested(one) for one in inputs}
        return {"signature_name": signature.name, "inputs": columns}

    def predict(self, model: str, request: Any) -> tuple[float, tuple[str, ...]]:
        with self._api.open("POST", f"/v1/models/{quote(model, safe='')}:predict", request) as reply:
            said = reply.json()
            took_s = reply.ended_s
        outputs = said.get("outputs") if isinstance(said, dict) else None
        if outputs is None:
            raise EngineCrashed(f"{self._api.what} answers without outputs")
        return took_s, tuple(map(_word, outputs)) if isinstance(outputs, dict) else ()

    def close(self) -> None:
        """Nothing is held between requests."""


def _json_tensors(said: Mapping[str, Any]) -> tuple[TensorShape, ...]:
    found = []
    for name, one in list(said.items())[:_MOST_TENSORS]:
        shape = _at(one, "tensor_shape")
        dims = shape.get("dim", [])
        known = isinstance(dims, list) and shape.get("unknown_rank") is not True
        sizes = tuple(_size(_at(dim).get("size")) for dim in dims[:_MOST_TENSORS]) if known else None
        data_type = one.get("dtype") if isinstance(one, dict) else None
        found.append(TensorShape(_word(name), _word(data_type), sizes))
    return tuple(found)


def _size(said: Any) -> int | None:
    """Sizes come as text; -1 is open."""
    text = str(said) if isinstance(said, str | int) and not isinstance(said, bool) else ""
    return int(text) if re.fullmatch(r"\d{1,10}", text) else None


def _nested(made: Made) -> Any:
    """Values as nested lists, the way REST takes tensors."""
    is_bool, is_text = made.tensor.data_type == "DT_BOOL", made.values is None
    if made.values is not None and made.tensor.data_type in ("DT_HALF", "DT_BFLOAT16"):
        flat: list[Any] = [0.0] * made.count
    else:
        flat = [""] * made.count if is_text else list(made.values or ())
    if is_bool:
        flat = [bool(value) for value in flat]
    for size in made.shape[:0:-1]:
        flat = [flat[place : place + size] for place in range(0, len(flat), size)] if size else []
    return flat if made.shape else flat[0]


def _at(said: Any, *path: str) -> Mapping[str, Any]:
    for key in path:
        said = said.get(key) if isinstance(said, dict) else None
    return said if isinstance(said, dict) else {}


def _word(said: Any) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(said or "")[:300])


# --- gRPC --------------------------------------------------------------------------------------------------


class _Grpc:
    """Source: tensorflow_serving/apis/prediction_service.proto."""

    def __init__(self, url: str, silence_s: float) -> None:
        try:
            import grpc

            from weigh.engines.tf_messages import messages
        except ImportError:
            raise EngineMissing(
                "gRPC needs the packages grpcio and protobuf", hint="pip install 'weigh[tf-serving]'"
            ) from None
        self._grpc: Any = grpc
        self._messages: Messages = messages()
        address = Endpoint(f"http{url.removeprefix('grpc')}")  # checks it, and opens nothing
        given = urlsplit(url).port
        self.host, self.port, self.is_local = address.host, given or _GRPC_PORT, address.is_local
        self._what = f"{address.host}:{self.port}"
        self._silence_s = silence_s
        options = [
            ("grpc.max_receive_message_length", MOST_ANSWER_BYTES),
            ("grpc.max_send_message_length", -1),
        ]
        self._channel = grpc.insecure_channel(self._what, options=options)

    def metadata(self, model: str) -> tuple[str, Mapping[str, Signature]]:
        kinds = self._messages
        request = kinds.MetadataRequest(model_spec={"name": model}, metadata_field=["signature_def"])
        try:
            _, said = self._call("GetModelMetadata", request, kinds.MetadataResponse)
        except Refused as error:
            if error.status == 404:
                raise UnknownName(f"model at {self._what}", model) from None
            raise
        packed = next((entry.value.value for entry in said.metadata if entry.key == "signature_def"), b"")
        try:
            listed = kinds.SignatureDefMap.FromString(packed).signature_def
        except Exception as error:  # protobuf's DecodeError, which differs between its builds
            raise EngineCrashed(f"{self._what} answers with what is no signature") from error
        version = said.model_spec.version.value
        return str(version or ""), {
            _word(one.key): Signature(
                _word(one.key), self._tensors(one.value.inputs), self._tensors(one.value.outputs)
            )
            for one in listed[:_MOST_TENSORS]
        }

    @staticmethod
    def _tensors(entries: Sequence[Any]) -> tuple[TensorShape, ...]:
        names = {one.id: one.name for one in DATA_TYPES.values()}
        found = []
        for entry in entries[:_MOST_TENSORS]:
            info = entry.value
            sizes = tuple(dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim)
            shape = None if info.tensor_shape.unknown_rank else sizes
            kind = names.get(info.dtype, f"type {info.dtype}")
            found.append(TensorShape(_word(entry.key), kind, shape))
        return tuple(found)

    def made(self, model: str, signature: Signature, inputs: Sequence[Made]) -> Any:
        spec = {"name": model, "signature_name": signature.name}
        entries = [{"key": one.tensor.name, "value": self._tensor(one)} for one in inputs]
        return self._messages.PredictRequest(model_spec=spec, inputs=entries)

    @staticmethod
    def _tensor(made: Made) -> dict[str, Any]:
        shape = {"dim": [{"size": size} for size in made.shape]}
        base = {"dtype": DATA_TYPES[made.tensor.data_type].id, "tensor_shape": shape}
        if made.values is None:
            return base | {"string_val": [b""] * made.count}
        return base | {"tensor_content": made.values.tobytes()}

    def predict(self, model: str, request: Any) -> tuple[float, tuple[str, ...]]:
        took_s, said = self._call("Predict", request, self._messages.PredictResponse)
        if not said.outputs:
            raise EngineCrashed(f"{self._what} answers without outputs")
        return took_s, tuple(_word(entry.key) for entry in said.outputs)

    def _call(self, method: str, request: Any, answer: Any) -> tuple[float, Any]:
        """Seconds that it took, with packing and unpacking, and the answer."""
        call = self._channel.unary_unary(
            _SERVICE + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        sent_s = time.perf_counter()
        try:
            said = call(request, timeout=self._silence_s)
        except self._grpc.RpcError as error:
            raise self._failure(error) from None
        return time.perf_counter() - sent_s, said

    def _failure(self, error: Any) -> WeighError:
        codes, code = self._grpc.StatusCode, error.code()
        said = " ".join(str(error.details() or "").split())[:300]
        if code is codes.UNAVAILABLE:
            return Unreachable(f"{self._what} cannot be reached ({said})")
        if code is codes.DEADLINE_EXCEEDED:
            return EngineTimeout(f"{self._what} was silent for {units.seconds(self._silence_s)}")
        if code is codes.NOT_FOUND:
            return Refused(f"{self._what} does not have it: {said}", 404)
        if code in (codes.INVALID_ARGUMENT, codes.FAILED_PRECONDITION, codes.UNIMPLEMENTED):
            return Refused(f"{self._what} refused the request: {said}", 400)
        return EngineCrashed(f"{self._what} failed ({code.name.lower()}): {said}")

    def close(self) -> None:
        self._channel.close()
