"""The process that measures an importance matrix: `python importance_child.py GIVEN`, with GIVEN as JSON.

GIVEN holds `model`, `windows` (a JSON file of lists of token ids), `out` (an .npz to write), `context_tokens` and
`threads`. llama.cpp shows each step of its work to a function; of multiplications with a layer's weights, the squares
of what is multiplied with are summed by column. Only this process has the model loaded.

Source of the tensor's layout: `ggml/include/ggml.h` of llama.cpp, checked here on tensors that the library makes.
"""

from __future__ import annotations

import ctypes
import json
import sys
from ctypes import c_bool, c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from weigh.errors import EngineCrashed, EngineMissing
from weigh.quality import llama_api

_F32 = 0
_CALLBACK = ctypes.CFUNCTYPE(c_bool, c_void_p, c_bool, c_void_p)


class Tensor(ctypes.Structure):
    """`ggml_tensor`, as far as it is read."""

    _fields_ = (
        ("type", c_int),
        ("buffer", c_void_p),
        ("ne", c_int64 * 4),
        ("nb", c_size_t * 4),
        ("op", c_int),
        ("op_params", c_int32 * 16),
        ("flags", c_int32),
        ("src", c_void_p * 10),
    )


class _InitParams(ctypes.Structure):
    """`ggml_init_params`."""

    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_init": (c_void_p, (_InitParams,)),
    "ggml_free": (None, (c_void_p,)),
    "ggml_new_tensor_2d": (c_void_p, (c_void_p, c_int, c_int64, c_int64)),
    "ggml_mul_mat": (c_void_p, (c_void_p, c_void_p, c_void_p)),
    "ggml_get_name": (c_char_p, (c_void_p,)),
    "ggml_op_name": (c_char_p, (c_int,)),
    "ggml_is_contiguous": (c_bool, (c_void_p,)),
    "ggml_backend_tensor_get": (None, (c_void_p, c_void_p, c_size_t, c_size_t)),
}


def tensor_at(address: int) -> Tensor:
    return Tensor.from_address(address)


def library() -> Any:
    """The C functions, once tensors are known to lie as here; raises EngineMissing."""
    lib = llama_api.library()
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(lib, name, None)
        if function is None:
            raise EngineMissing(f"this {llama_api.PACKAGE} exports no {name}")
        function.restype, function.argtypes = result, arguments
    context = lib.ggml_init(_InitParams(1 << 20, None, True))
    weights, inputs = (lib.ggml_new_tensor_2d(context, _F32, 3, rows) for rows in (5, 7))
    product = tensor_at(lib.ggml_mul_mat(context, weights, inputs))
    found = (
        (product.src[0], product.src[1], list(product.ne), lib.ggml_op_name(product.op)),
        (tensor_at(inputs).type, list(tensor_at(inputs).ne), list(tensor_at(inputs).nb[:2])),
    )
    lib.ggml_free(context)
    if found != ((weights, inputs, [5, 7, 1, 1], b"MUL_MAT"), (_F32, [3, 7, 1, 1], [4, 12])):
        raise EngineMissing(f"this {llama_api.PACKAGE} lays out ggml_tensor in another way")
    return lib


class Watched(llama_api.LlamaModel):
    """A model whose multiplications are watched.

    Attributes:
        sums: by the weights' name, sums of squares of each column.
        counts: by the same, how many rows they are of.
    """

    def __init__(self, path: Path, *, context_tokens: int, threads: int) -> None:
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, int] = {}
        self.problem = ""
        self._ggml = library()
        self._callback = _CALLBACK(self._watch)  # kept: the library calls it as long as the context lives
        super().__init__(path, context_tokens=context_tokens, threads=threads)

    def _context_params(self) -> Any:
        params = super()._context_params()
        params.cb_eval = ctypes.cast(self._callback, c_void_p).value
        return params

    def _watch(self, address: int, asked: bool, _user: object) -> bool:
        """Asked first whether a step is of interest, then called again when it is done."""
        try:
            step = tensor_at(address)
            operation = self._ggml.ggml_op_name(step.op)
            if operation not in (b"MUL_MAT", b"MUL_MAT_ID"):
                return not asked
            name = (self._ggml.ggml_get_name(step.src[0]) or b"").decode(errors="replace")
            if not name.endswith(".weight"):
                return not asked
            if operation == b"MUL_MAT_ID":
                self.problem = "it has experts, whose importance weigh does not measure"
            elif not asked:
                self._add(name, step.src[1])
        except Exception as error:  # nothing may be raised through C
            self.problem = f"{type(error).__name__}: {error}"
        return True

    def _add(self, name: str, address: int) -> None:
        inputs = tensor_at(address)
        columns, *others = inputs.ne
        rows = int(np.prod(others))
        if inputs.type != _F32 or not self._ggml.ggml_is_contiguous(address):
            self.problem = f"what `{name}` is multiplied with is no plain float32"
            return
        held = np.empty((rows, columns), dtype=np.float32)
        self._ggml.ggml_backend_tensor_get(address, held.ctypes.data, 0, held.nbytes)
        squares = np.square(held, dtype=np.float64).sum(axis=0)
        self.sums[name] = self.sums.get(name, 0.0) + squares
        self.counts[name] = self.counts.get(name, 0) + rows


def main(given: dict[str, Any]) -> None:
    model = Watched(Path(given["model"]), context_tokens=given["context_tokens"], threads=given["threads"])
    windows = json.loads(Path(given["windows"]).read_text())
    for number, tokens in enumerate(windows, 1):
        for _ in model.logits(tokens, 1):
            pass
        if model.problem:
            raise EngineCrashed(model.problem)
        print(f"window {number}", flush=True)
    means = {name: (sums / model.counts[name]).astype(np.float32) for name, sums in model.sums.items()}
    np.savez(given["out"], **means)


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except Exception as error:  # one line, which weigh finds in the log by its first word
        said = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        sys.exit("error: " + " ".join(said.split()))
