"""The adapter against the real TensorFlow runtime and messages, behind the thin front of `tf_front.py`; and, for what
needs no TensorFlow, against messages that TensorFlow Serving publishes.

TensorFlow takes 2 GB, so it lives in an environment of its own: `WEIGH_TEST_TENSORFLOW=FOLDER` names it, and has it
made there when there is none.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.stand_in import StandIn, say
from weigh.engines.endpoint import Refused
from weigh.engines.engine import Limits
from weigh.engines.tf_serving import Signature, TensorShape, TfServing, made_input
from weigh.errors import BadInput, EngineCrashed, EngineTimeout, NotSupported, UnknownName, Unreachable

VARIABLE = "WEIGH_TEST_TENSORFLOW"
PACKAGES = ("tensorflow-cpu==2.21.0", "grpcio>=1.66")


@pytest.fixture(scope="module")
def tensorflow() -> Path:
    """The Python that has it."""
    if not os.environ.get(VARIABLE):
        pytest.skip(f"TensorFlow is not at hand: {VARIABLE}=FOLDER names its environment, or has it made")
    folder = Path(os.environ[VARIABLE])
    python = folder / "bin" / "python"
    if not python.exists():
        pip = (python, "-m", "pip", "install", "--quiet")
        for command in (
            (sys.executable, "-m", "venv", folder),
            (*pip, *PACKAGES),
            (*pip, "--no-deps", "tensorflow-serving-api==2.21.0"),  # asks for all of `tensorflow` besides
        ):
            subprocess.run(command, check=True)
    return python


@pytest.fixture(scope="module")
def front(tensorflow: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    script, folder = Path(__file__).with_name("tf_front.py"), tmp_path_factory.mktemp("saved")
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    arguments = [str(tensorflow), str(script), str(folder / "small")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=quiet) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline()) | {"pid": process.pid}
        finally:
            process.kill()


@pytest.fixture(params=["rest", "grpc"])
def small(front: dict[str, Any], request: pytest.FixtureRequest) -> Iterator[TfServing]:
    if request.param == "grpc":
        pytest.importorskip("grpc", reason="grpcio is not installed (extra tf-serving)")
    path = {"rest": "/v1/models/small", "grpc": "/small"}[request.param]
    scheme = {"rest": "http", "grpc": "grpc"}[request.param]
    with TfServing(f"{scheme}://127.0.0.1:{front[request.param]}{path}") as found:
        yield found


# --- the real runtime --------------------------------------------------------------------------------


def test_signatures_are_read_off_the_exported_model(small: TfServing) -> None:
    assert small.model == "small"
    assert small.version.endswith("model version 7")
    found = small.signature()
    assert {one.name: (one.data_type, one.shape) for one in found.inputs} == {
        "ids": ("DT_INT64", (None, None)),
        "bias": ("DT_FLOAT", (None, 32)),
    }
    assert {one.name for one in found.outputs} == {"scores", "length"}
    assert found.fixed_batch is None
    with pytest.raises(UnknownName, match="nothing"):
        small.signature("nothing")


@pytest.mark.parametrize("batch", [1, 8])
def test_batches_of_any_size_are_predicted(small: TfServing, batch: int) -> None:
    request = small.request(small.signature(), batch, length=20)
    made = small.predict(request, batch)
    assert made.batch == batch
    assert 0 < made.latency_s < 60
    assert set(made.output_names) == {"scores", "length"}


def test_a_batch_that_was_fixed_when_exported_stays_so(small: TfServing) -> None:
    four = small.signature("four")
    assert four.fixed_batch == 4
    assert small.predict(small.request(four, 4), 4).latency_s > 0
    with pytest.raises(BadInput, match="batches of 4, not 5"):
        small.request(four, 5)


def test_texts_are_made_too(small: TfServing) -> None:
    assert small.predict(small.request(small.signature("lengths"), 3), 3).latency_s > 0


def test_inputs_that_the_model_does_not_take_are_refused_in_one_line(small: TfServing) -> None:
    other = Signature("serving_default", (TensorShape("ids", "DT_INT64", (None, 3)),), ())
    with pytest.raises(Refused) as error:
        small.predict(small.request(other, 2), 2)
    assert "\n" not in error.value.message


def test_memory_is_that_of_the_process_behind_the_port(small: TfServing, front: dict[str, Any]) -> None:
    assert small._listener is not None
    assert small._listener.pid == front["pid"]
    memory = small.memory()
    assert memory is not None
    assert memory.private_bytes > 50 << 20  # TensorFlow itself
    assert memory.peak_bytes >= memory.private_bytes


def test_a_model_that_is_not_there_is_named(front: dict[str, Any]) -> None:
    with pytest.raises(UnknownName, match="large"):
        TfServing(f"http://127.0.0.1:{front['rest']}/v1/models/large")
    pytest.importorskip("grpc", reason="grpcio is not installed (extra tf-serving)")
    with pytest.raises(UnknownName, match="large"):
        TfServing(f"grpc://127.0.0.1:{front['grpc']}/large")


def test_a_server_that_hangs_is_given_up(front: dict[str, Any]) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed (extra tf-serving)")
    for url in (f"http://127.0.0.1:{front['rest']}/small", f"grpc://127.0.0.1:{front['grpc']}/small"):
        with TfServing(url, limits=Limits(silence_s=0.5)) as small:
            request = small.request(small.signature("four"), 4)
            os.kill(front["pid"], signal.SIGSTOP)
            try:
                with pytest.raises(EngineTimeout, match="silent for 500 ms"):
                    small.predict(request, 4)
            finally:
                os.kill(front["pid"], signal.SIGCONT)


# --- without TensorFlow ------------------------------------------------------------------------------

METADATA = {
    "model_spec": {"name": "half_plus_three", "signature_name": "", "version": "123"},
    "metadata": {
        "signature_def": {
            "signature_def": {
                "serving_default": {
                    "inputs": {
                        "x": {
                            "dtype": "DT_FLOAT",
                            "tensor_shape": {
                                "dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}],
                                "unknown_rank": False,
                            },
                            "name": "x:0",
                        }
                    },
                    "outputs": {
                        "y": {"dtype": "DT_FLOAT", "tensor_shape": {"unknown_rank": True}, "name": "y:0"}
                    },
                    "method_name": "tensorflow/serving/predict",
                }
            }
        }
    },
}
PATH = "/v1/models/half_plus_three"


def test_rest_is_spoken_as_published() -> None:
    """Source: tensorflow_serving/g3doc/api_rest.md in github.com/tensorflow/serving, "Make REST API calls"."""
    answers = {f"{PATH}/metadata": say(METADATA), f"{PATH}:predict": say({"outputs": [[3.5], [4.0]]})}
    with StandIn(answers) as server:
        served = TfServing(f"{server.url}{PATH}")
        signature = served.signature()
        assert signature.inputs == (TensorShape("x", "DT_FLOAT", (None, 1)),)
        assert signature.outputs[0].shape is None
        assert served.predict(served.request(signature, 2), 2).latency_s > 0
        (asked,) = server.bodies(f"{PATH}:predict")
        assert asked["signature_name"] == "serving_default"
        assert [len(row) for row in asked["inputs"]["x"]] == [1, 1]
        server.answers[f"{PATH}/metadata"] = say(
            {"error": "Servable not found for request: Latest(half)"}, 404
        )
        with pytest.raises(UnknownName, match="half_plus_three"):
            TfServing(f"{server.url}{PATH}")


@pytest.mark.parametrize(
    "said", [[], {}, {"metadata": {"signature_def": []}}, {"metadata": 5, "model_spec": "x"}]
)
def test_strange_metadata_is_one_clear_line(said: Any) -> None:
    with StandIn({f"{PATH}/metadata": say(said)}) as server:
        served = TfServing(f"{server.url}{PATH}")
        with pytest.raises(UnknownName, match="serving_default"):
            served.signature()


def test_an_answer_without_outputs_is_a_failure() -> None:
    with StandIn({f"{PATH}/metadata": say(METADATA), f"{PATH}:predict": say({"predictions": [1]})}) as server:
        served = TfServing(f"{server.url}{PATH}")
        with pytest.raises(EngineCrashed, match="without outputs"):
            served.predict(served.request(served.signature(), 1), 1)


def test_a_model_has_to_be_named() -> None:
    with pytest.raises(BadInput, match="lists no models"):
        TfServing("http://127.0.0.1:8501")


def test_values_are_made_by_type_and_shape() -> None:
    numbers = made_input(TensorShape("x", "DT_FLOAT", (None, 3)), batch=4, length=9, seed=1)
    assert numbers.shape == (4, 3)
    assert numbers.values is not None
    assert all(0 <= value < 1 for value in numbers.values)
    ids = made_input(TensorShape("x", "DT_INT64", (None, None)), batch=2, length=9, seed=1)
    assert ids.shape == (2, 9)
    assert ids.values is not None
    assert set(ids.values) == {0, 1}
    assert made_input(TensorShape("x", "DT_STRING", None), batch=3, length=9, seed=1).shape == (3,)
    halves = made_input(TensorShape("x", "DT_HALF", (None, 5)), batch=2, length=9, seed=1)
    assert halves.values is not None
    assert len(halves.values) == 2 * 5 * 2
    with pytest.raises(NotSupported, match="DT_RESOURCE"):
        made_input(TensorShape("x", "DT_RESOURCE", ()), batch=1, length=1, seed=1)
    with pytest.raises(BadInput, match="values"):
        made_input(TensorShape("x", "DT_FLOAT", (None, 1 << 20)), batch=1 << 20, length=1, seed=1)


def test_messages_are_on_the_wire_as_their_fields_are_numbered() -> None:
    """By hand: field << 3 | wire type, then a length or a varint, as protobuf encodes."""
    pytest.importorskip("google.protobuf", reason="protobuf is not installed (extra tf-serving)")
    from weigh.engines.tf_messages import messages

    tensor = {"dtype": 3, "tensor_shape": {"dim": [{"size": 1}]}, "tensor_content": b"\x07\x00\x00\x00"}
    request = messages().PredictRequest(model_spec={"name": "m"}, inputs=[{"key": "x", "value": tensor}])
    packed_tensor = b"\x08\x03" + b"\x12\x04\x12\x02\x08\x01" + b"\x22\x04\x07\x00\x00\x00"
    entry = b"\x0a\x01x" + b"\x12" + bytes([len(packed_tensor)]) + packed_tensor
    assert request.SerializeToString() == b"\x0a\x03\x0a\x01m" + b"\x12" + bytes([len(entry)]) + entry


def test_nobody_at_a_port_is_said_so() -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed (extra tf-serving)")
    with StandIn() as gone:
        port = gone.url.rpartition(":")[2]
    with pytest.raises(Unreachable, match="cannot be reached") as error:
        TfServing(f"grpc://127.0.0.1:{port}/small")
    assert "\n" not in error.value.message
