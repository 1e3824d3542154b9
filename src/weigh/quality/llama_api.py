"""llama.cpp's C functions inside the embedded package, called through ctypes: logits of every token of a text.

The package's Python face and its server give no log-probabilities of prompt tokens; the C functions that its shared
object exports do. Structs that cross by value have no version of their own, and llama.cpp changes them often. So
nothing is called before the defaults that the library itself returns have shown every known value at its place.

Only a child process imports this (`scoring_child.py`): a bad file can make the library abort.

Source of the layouts: include/llama.h and src/llama-context.cpp of llama.cpp as xllamacpp 2026.10.11549 carries them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weigh.errors import EngineCrashed, EngineMissing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Logits = NDArray[np.float32]

PACKAGE = "xllamacpp"
KNOWN = "2026.10.11549"  # the package whose header the layouts below are from
PIECE_BYTES = 32 << 20  # of logits held at once, for each model
_NONE = -1  # LLAMA_TOKEN_NULL
_SPARE_BYTES = 512  # room behind a struct, should a later version have put fields at its end

# field, type, what llama_model_default_params() has there
_MODEL_PARAMS: tuple[tuple[str, Any, Any], ...] = (
    ("devices", c_void_p, None),
    ("tensor_buft_overrides", c_void_p, None),
    ("n_gpu_layers", c_int32, -1),
    ("split_mode", c_int32, 1),
    ("load_mode", c_int32, -1),
    ("lazy_mode", c_int32, 1),
    ("main_gpu", c_int32, 0),
    ("tensor_split", c_void_p, None),
    ("progress_callback", c_void_p, None),
    ("progress_callback_user_data", c_void_p, None),
    ("kv_overrides", c_void_p, None),
    ("vocab_only", c_bool, False),
    ("check_tensors", c_bool, False),
    ("use_extra_bufts", c_bool, True),
    ("no_host", c_bool, False),
    ("no_alloc", c_bool, False),
    ("load_mtp", c_bool, False),
)
# … and llama_context_default_params()
_CONTEXT_PARAMS: tuple[tuple[str, Any, Any], ...] = (
    ("n_ctx", c_uint32, 512),
    ("n_batch", c_uint32, 2048),
    ("n_ubatch", c_uint32, 512),
    ("n_seq_max", c_uint32, 1),
    ("n_rs_seq", c_uint32, 0),
    ("n_outputs_max", c_uint32, 0),
    ("n_outputs_max_per_seq", c_uint32, 1),
    ("n_threads", c_int32, 4),
    ("n_threads_batch", c_int32, 4),
    ("ctx_type", c_int32, 0),
    ("rope_scaling_type", c_int32, -1),
    ("pooling_type", c_int32, -1),
    ("attention_type", c_int32, -1),
    ("flash_attn_type", c_int32, -1),
    ("rope_freq_base", c_float, 0.0),
    ("rope_freq_scale", c_float, 0.0),
    ("yarn_ext_factor", c_float, -1.0),
    ("yarn_attn_factor", c_float, -1.0),
    ("yarn_beta_fast", c_float, -1.0),
    ("yarn_beta_slow", c_float, -1.0),
    ("yarn_orig_ctx", c_uint32, 0),
    ("defrag_thold", c_float, -1.0),
    ("cb_eval", c_void_p, None),
    ("cb_eval_user_data", c_void_p, None),
    ("type_k", c_int32, 1),
    ("type_v", c_int32, 1),
    ("moe_cache_size", c_size_t, 0),
    ("abort_callback", c_void_p, None),
    ("abort_callback_data", c_void_p, None),
    ("embeddings", c_bool, False),
    ("offload_kqv", c_bool, True),
    ("no_perf", c_bool, True),
    ("op_offload", c_bool, True),
    ("swa_full", c_bool, True),
    ("kv_unified", c_bool, False),
    ("samplers", c_void_p, None),
    ("n_samplers", c_size_t, 0),
    ("ctx_other", c_void_p, None),
)


class ModelParams(ctypes.Structure):
    """`llama_model_params`, and spare room behind it."""

    _fields_ = (*((name, kind) for name, kind, _ in _MODEL_PARAMS), ("spare", ctypes.c_ubyte * _SPARE_BYTES))


class ContextParams(ctypes.Structure):
    """`llama_context_params`, and spare room behind it."""

    _fields_ = (
        *((name, kind) for name, kind, _ in _CONTEXT_PARAMS),
        ("spare", ctypes.c_ubyte * _SPARE_BYTES),
    )


class Batch(ctypes.Structure):
    """`llama_batch`."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", c_void_p),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", c_void_p),
    )


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_model_default_params": (ModelParams, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParams)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParams)),
    "llama_free": (None, (c_void_p,)),
    "llama_n_ctx": (c_uint32, (c_void_p,)),
    "llama_n_batch": (c_uint32, (c_void_p,)),
    "llama_n_threads": (c_int32, (c_void_p,)),
    "llama_n_threads_batch": (c_int32, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_model_n_ctx_train": (c_int32, (c_void_p,)),
    "llama_model_meta_val_str": (c_int32, (c_void_p, c_char_p, c_char_p, c_size_t)),
    "llama_model_has_encoder": (c_bool, (c_void_p,)),
    "llama_model_is_diffusion": (c_bool, (c_void_p,)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_clear": (None, (c_void_p, c_bool)),
    "llama_batch_get_one": (Batch, (c_void_p, c_int32)),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_get_logits_ith": (POINTER(c_float), (c_void_p, c_int32)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_get_add_bos": (c_bool, (c_void_p,)),
    "llama_vocab_get_text": (c_char_p, (c_void_p, c_int32)),
    "llama_tokenize": (c_int32, (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool)),
    "llama_token_to_piece": (c_int32, (c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool)),
    **{
        f"llama_vocab_{name}": (c_int32, (c_void_p,))
        for name in ("bos", "eos", "fim_pre", "fim_suf", "fim_mid")
    },
}


def shared_object() -> Path:
    """The package's compiled part.

    Raises:
        EngineMissing: the package is not installed, or has none.
    """
    found = find_spec(PACKAGE)
    folders = found.submodule_search_locations if found else None
    parts = sorted(part for folder in folders or () for part in Path(folder).glob(f"{PACKAGE}*.so"))
    if not parts:
        raise EngineMissing(f"the package `{PACKAGE}` is not installed", hint=f"pip install {PACKAGE}")
    return parts[0]


@cache
def library() -> Any:
    """The C functions, with what they take and give, once its structs are known to lie as here.

    Raises:
        EngineMissing: the package is not installed, lacks a function, or lays out a struct in another way.
    """
    loaded = ctypes.CDLL(str(shared_object()))
    for name, (result, arguments) in _SIGNATURES.items():
        try:
            function = getattr(loaded, name)
        except AttributeError:
            raise _refusal(f"exports no {name}") from None
        function.restype, function.argtypes = result, arguments
    _require(loaded.llama_model_default_params(), _MODEL_PARAMS, "llama_model_params")
    _require(loaded.llama_context_default_params(), _CONTEXT_PARAMS, "llama_context_params")
    _require_batch(loaded)
    loaded.llama_backend_init()
    return loaded


def _require(made: ctypes.Structure, known: Sequence[tuple[str, Any, Any]], name: str) -> None:
    """Every default must stand at its place; raises EngineMissing."""
    for field, _, default in known:
        if getattr(made, field) != default:
            raise _refusal(f"lays out {name} in another way: {field} is {getattr(made, field)!r}")


def _require_batch(loaded: Any) -> None:
    tokens = (c_int32 * 3)(1, 2, 3)
    made = loaded.llama_batch_get_one(tokens, 3)
    pointers = (made.embd, made.pos, made.n_seq_id, made.seq_id, made.logits)
    if made.n_tokens != 3 or made.token != ctypes.addressof(tokens) or any(pointers):
        raise _refusal("lays out llama_batch in another way")


def _refusal(what: str) -> EngineMissing:
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        found = "of unknown version"
    return EngineMissing(
        f"{PACKAGE} {found} {what}, so weigh does not score text with it",
        hint=f"pip install {PACKAGE}=={KNOWN}",
    )


@dataclass(frozen=True, slots=True)
class Special:
    """Token ids with a meaning of their own; None where the vocabulary has none."""

    bos: int | None
    eos: int | None
    fim_prefix: int | None
    fim_suffix: int | None
    fim_middle: int | None


class LlamaModel:
    """A GGUF file and a context of one sequence, for the logits of a text's tokens.

    Attributes:
        vocab: token ids there are; the width of a row of logits.
        adds_bos: whether the model wants its beginning-of-sequence token before a text.
    """

    def __init__(self, path: Path, *, context_tokens: int, threads: int) -> None:
        """Load the file; `context_tokens` are the most of one window.

        Raises:
            EngineMissing: as `library`.
            EngineCrashed: llama.cpp does not take the file, or it is no model that continues text.
        """
        self._lib = library()
        params = self._lib.llama_model_default_params()
        self._model = self._lib.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise EngineCrashed(f"llama.cpp does not load {path.name}")
        if self._lib.llama_model_has_encoder(self._model) or self._lib.llama_model_is_diffusion(self._model):
            raise EngineCrashed(f"{path.name} does not continue text token by token")
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self.vocab: int = self._lib.llama_vocab_n_tokens(self._vocab)
        self.context_train: int = self._lib.llama_model_n_ctx_train(self._model)
        self.adds_bos: bool = self._lib.llama_vocab_get_add_bos(self._vocab)
        self.piece_tokens = max(1, min(512, context_tokens, PIECE_BYTES // (4 * self.vocab)))
        self._context = self._new_context(context_tokens, threads)
        self._memory = self._lib.llama_get_memory(self._context)

    def _context_params(self) -> Any:
        """Where a model that is looked at in another way says so."""
        return self._lib.llama_context_default_params()

    def _new_context(self, context_tokens: int, threads: int) -> Any:
        params = self._context_params()
        batch_tokens = min(512, context_tokens)
        params.n_ctx, params.n_batch, params.n_ubatch = context_tokens, batch_tokens, batch_tokens
        params.n_outputs_max = params.n_outputs_max_per_seq = self.piece_tokens
        params.n_threads = params.n_threads_batch = threads
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise EngineCrashed("llama.cpp does not make a context for the model")
        took = (self._lib.llama_n_batch(context), self._lib.llama_n_threads_batch(context))
        if took != (batch_tokens, threads) or self._lib.llama_n_ctx(context) < context_tokens:
            raise _refusal("does not take its parameters where weigh puts them")
        return context

    @property
    def special(self) -> Special:
        ids = {name: getattr(self._lib, f"llama_vocab_{name}")(self._vocab) for name in _SPECIAL}
        # where the file names none, llama.cpp takes GPT-2's and LLaMA's ids, which mean nothing here
        if not self._says("tokenizer.ggml.bos_token_id") and not self.adds_bos:
            ids["bos"] = _NONE
        if not self._says("tokenizer.ggml.eos_token_id"):
            ids["eos"] = _NONE
        return Special(*(None if token == _NONE else token for token in ids.values()))

    def _says(self, key: str) -> bool:
        """Whether the file's metadata has it."""
        buffer = ctypes.create_string_buffer(64)
        return bool(self._lib.llama_model_meta_val_str(self._model, key.encode(), buffer, 64) >= 0)

    def tokens(self, text: str) -> list[int]:
        """The text's token ids, nothing added; words that look like special tokens are read as plain text."""
        data = text.encode()
        room = len(data) + 16
        ids = (c_int32 * room)()
        count = self._lib.llama_tokenize(self._vocab, data, len(data), ids, room, False, False)
        if count < 0:
            raise EngineCrashed("llama.cpp does not tokenize the text")
        return list(ids[:count])

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for; nothing for control tokens."""
        room = 256
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = self._lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            room = -length

    def vocabulary(self) -> Iterator[bytes]:
        """Each token as the file spells it."""
        for token in range(self.vocab):
            yield self._lib.llama_vocab_get_text(self._vocab, token) or b""

    def logits(self, tokens: Sequence[int], first: int) -> Iterator[Logits]:
        """Logits of the token after each of `tokens[first - 1 : -1]`, a piece at a time: (up to a piece, vocab).

        So row by row they judge `tokens[first:]`. A piece is overwritten by the next.

        Raises:
            EngineCrashed: llama.cpp fails under way.
        """
        import numpy as np

        ids = np.asarray(tokens[:-1], dtype=np.int32)
        self._lib.llama_memory_clear(self._memory, True)
        for start, end in self._pieces(len(ids), first - 1):
            wanted = start >= first - 1
            self._decode(ids, start, end, wanted)
            if wanted:
                rows = [self._lib.llama_get_logits_ith(self._context, n) for n in (0, end - start - 1)]
                if not all(rows):
                    raise EngineCrashed("llama.cpp gives no logits")
                yield np.ctypeslib.as_array(rows[0], (end - start, self.vocab))

    def _pieces(self, count: int, judged: int) -> Iterator[tuple[int, int]]:
        """Tokens that only fill the context in batches as long as may be, then those that give logits."""
        at = 0
        while at < count:
            end = min(at + 512, judged) if at < judged else min(at + self.piece_tokens, count)
            yield at, end
            at = end

    def _decode(self, ids: NDArray[np.int32], start: int, end: int, wanted: bool) -> None:
        import numpy as np

        count = end - start
        piece = np.ascontiguousarray(ids[start:end])
        positions = np.arange(start, end, dtype=np.int32)
        one_each = np.ones(count, dtype=np.int32)
        sequence = np.zeros(1, dtype=np.int32)
        sequences = np.full(count, sequence.ctypes.data, dtype=np.uintp)
        outputs = np.full(count, wanted, dtype=np.int8)
        batch = Batch(
            count,
            piece.ctypes.data,
            None,
            positions.ctypes.data,
            one_each.ctypes.data,
            sequences.ctypes.data,
            outputs.ctypes.data,
        )
        code = self._lib.llama_decode(self._context, batch)
        if code:
            raise EngineCrashed(f"llama.cpp fails on tokens {start} to {end} of a window (status {code})")

    def close(self) -> None:
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)


_SPECIAL = ("bos", "eos", "fim_pre", "fim_suf", "fim_mid")
