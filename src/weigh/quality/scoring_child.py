"""The process that scores text: `python scoring_child.py GIVEN`, with GIVEN as JSON.

GIVEN holds `kind` (`gguf` or `safetensors`), `models` (one path, or reference and candidate), `context_tokens`,
`threads` (or null) and, of safetensors, `exact` (compute in float32). When the models are loaded, stderr says on
which port of loopback. A connection carries requests and answers, a line of JSON each, until it is closed. Logits
stay in here: what goes out is a few numbers a token. What goes wrong ends the process with one line, but for
requests that are refused.

On an interpreter that has transformers and not weigh it imports nothing of weigh; torch and llama.cpp, which bring
an OpenMP each, never meet in one process.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"}
os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}

HOST = "127.0.0.1"
PIECE_BYTES = 32 << 20  # of logits held at once, for each model
ROWS = 16  # of logits worked on at once, so that they stay in the processor's caches


class Refusal(Exception):
    """The request cannot be answered; the process lives on."""


class Model(Protocol):
    """What is asked of a model, whatever runs it."""

    vocab: int
    adds_bos: bool
    context_train: int

    @property
    def special(self) -> dict[str, int | None]: ...

    def tokens(self, text: str) -> tuple[list[int], list[int], bool]:
        """Ids, where in the text's UTF-8 each ends, and whether they spell the text."""
        ...

    def vocabulary(self) -> Sequence[bytes]: ...

    def logits(self, tokens: Sequence[int], first: int) -> Iterator[Any]: ...


# --- what is computed --------------------------------------------------------------------------------


def scores(logits: Any, tokens: Any) -> dict[str, Any]:
    """Of logits (rows, vocab) in float32, each row judging one of `tokens`: log-probability, and likeliest or not.

    Exponentials are float32 of differences from the row's peak; their sums and logarithms are float64.
    """
    found = [_scores(logits[at : at + ROWS], tokens[at : at + ROWS]) for at in range(0, len(tokens), ROWS)]
    return {key: np.concatenate([one[key] for one in found]) for key in found[0]}


def _scores(logits: Any, tokens: Any) -> dict[str, Any]:
    rows = np.arange(len(tokens))
    shifted, log_sums, _ = _normalised(logits)
    return {
        "log_probs": shifted[rows, tokens].astype(np.float64) - log_sums,
        "top": logits.argmax(axis=1) == tokens,
    }


def comparison(reference: Any, candidate: Any, tokens: Any) -> dict[str, Any]:
    """Of two models' logits for the same rows: both log-probabilities, KL(reference || candidate), the same top.

    KL is sum p (ln p - ln q) over the whole vocabulary, in nats; the terms are float32, their sum is float64.
    """
    blocks = range(0, len(tokens), ROWS)
    found = [
        _comparison(reference[at : at + ROWS], candidate[at : at + ROWS], tokens[at : at + ROWS])
        for at in blocks
    ]
    return {key: np.concatenate([one[key] for one in found]) for key in found[0]}


def _comparison(reference: Any, candidate: Any, tokens: Any) -> dict[str, Any]:
    rows = np.arange(len(tokens))
    p, log_p_sums, weights = _normalised(reference)
    q, log_q_sums, _ = _normalised(candidate)
    gaps = np.multiply(weights, p - q).sum(axis=1, dtype=np.float64) / weights.sum(axis=1, dtype=np.float64)
    return {
        "reference_log_probs": p[rows, tokens].astype(np.float64) - log_p_sums,
        "log_probs": q[rows, tokens].astype(np.float64) - log_q_sums,
        # below nought by rounding alone
        "kl_nats": np.maximum(gaps - log_p_sums + log_q_sums, 0.0),
        "same_top": reference.argmax(axis=1) == candidate.argmax(axis=1),
    }


def _normalised(logits: Any) -> tuple[Any, Any, Any]:
    """Logits from their row's peak, the logarithm of the sum of their exponentials, and those."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    if not np.isfinite(shifted).all():
        raise Refusal("the model gives logits that are no numbers")
    exponentials = np.exp(shifted)
    return shifted, np.log(exponentials.sum(axis=1, dtype=np.float64)), exponentials


# --- what runs the models ----------------------------------------------------------------------------


class GgufModel:
    """A GGUF file on llama.cpp; see `weigh.quality.llama_api`."""

    def __init__(self, path: str, given: dict[str, Any]) -> None:
        from pathlib import Path

        from weigh.quality.llama_api import LlamaModel

        self._model = LlamaModel(
            Path(path),
            context_tokens=given["context_tokens"],
            threads=given["threads"] or len(os.sched_getaffinity(0)),
        )
        self.vocab, self.adds_bos = self._model.vocab, self._model.adds_bos
        self.context_train = self._model.context_train
        self._bytes: dict[int, bytes] = {}

    @property
    def special(self) -> dict[str, int | None]:
        found = self._model.special
        return {name: getattr(found, name) for name in found.__slots__}

    def tokens(self, text: str) -> tuple[list[int], list[int], bool]:
        ids = self._model.tokens(text)
        for token in set(ids) - self._bytes.keys():
            self._bytes[token] = self._model.token_bytes(token)
        each = [self._bytes[token] for token in ids]
        whole = b"".join(each) in (text.encode(), b" " + text.encode())
        return ids, np.cumsum(list(map(len, each)), dtype=np.int64).tolist(), whole

    def vocabulary(self) -> Sequence[bytes]:
        return list(self._model.vocabulary())

    def logits(self, tokens: Sequence[int], first: int) -> Iterator[Any]:
        return self._model.logits(tokens, first)


class TransformersModel:
    """A checkpoint folder on PyTorch; code that comes with it is not run."""

    def __init__(self, path: str, given: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if given["threads"]:
            torch.set_num_threads(given["threads"])
        own = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = AutoTokenizer.from_pretrained(path, **own)
        self._model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32 if given["exact"] else "auto", use_safetensors=True, **own
        ).eval()
        self.vocab = self._model.get_output_embeddings().weight.shape[0]
        self.special = {name: _special(path, self._tokenizer, name) for name in ("bos", "eos")}
        bos = self.special["bos"]
        self.adds_bos = bos is not None and self._tokenizer("a")["input_ids"][:1] == [bos]
        self.context_train = getattr(self._model.config, "max_position_embeddings", 0) or 0
        self._piece_tokens = max(1, min(512, PIECE_BYTES // (4 * self.vocab)))

    def tokens(self, text: str) -> tuple[list[int], list[int], bool]:
        made = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        ends = [0, *np.cumsum([len(letter.encode()) for letter in text]).tolist()]
        at = np.array([ends[end] for _, end in made["offset_mapping"]], dtype=np.int64)
        ids = list(made["input_ids"])
        said = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        whole = said.removeprefix(" ") == text.removeprefix(" ")
        return ids, np.maximum.accumulate(at).tolist() if len(at) else [], whole

    def vocabulary(self) -> Sequence[bytes]:
        names = self._tokenizer.convert_ids_to_tokens(range(len(self._tokenizer)))
        return [str(name).encode() for name in names]

    def logits(self, tokens: Sequence[int], first: int) -> Iterator[Any]:
        import torch

        cache: dict[str, Any] = {}
        at, judged, count = 0, first - 1, len(tokens) - 1
        with torch.inference_mode():
            while at < count:
                end = judged if at < judged else min(at + self._piece_tokens, count)
                kept = 1 if at < judged else end - at
                ids = torch.tensor([tokens[at:end]])
                made = self._model(ids, use_cache=True, logits_to_keep=kept, **cache)
                name = "cache" if "cache" in made else "past_key_values"  # called `cache` since 5.24
                cache = {name: made[name]}
                if at >= judged:
                    yield made["logits"][0, -kept:].float().numpy()
                at = end


def _special(path: str, tokenizer: Any, name: str) -> int | None:
    """A token id by the tokenizer, else by `config.json`: a GGUF file made of the folder has the same.

    The file, since transformers puts its own ids where that names none.
    """
    own: int | None = getattr(tokenizer, f"{name}_token_id")
    if own is not None:
        return own
    with open(os.path.join(path, "config.json"), encoding="utf-8") as file:  # noqa: PTH118, PTH123
        said = json.load(file).get(f"{name}_token_id")
    first = said[0] if isinstance(said, list) and said else said
    return first if type(first) is int and 0 <= first < len(tokenizer) else None


KINDS: dict[str, Callable[[str, dict[str, Any]], Model]] = {
    "gguf": GgufModel,
    "safetensors": TransformersModel,
}


# --- requests ----------------------------------------------------------------------------------------


class Scoring:
    """The loaded models, and the answers."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._context_tokens = given["context_tokens"]
        self._models = [KINDS[given["kind"]](path, given) for path in given["models"]]
        if len(self._models) == 2:
            _require_same_vocabulary(*self._models)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["ask"]:
            case "facts":
                return self._facts()
            case "tokens":
                ids, ends, whole = self._models[0].tokens(request["text"])
                return {"tokens": ids, "ends_bytes": ends, "whole": whole}
            case "score":
                return self._score(*self._window(request))
            case "compare":
                return self._compare(*self._window(request))
        raise Refusal(f"there is no `{request['ask']}`")

    def _facts(self) -> dict[str, Any]:
        model = self._models[0]
        return {
            "vocab": model.vocab,
            "adds_bos": model.adds_bos,
            "context_train": model.context_train,
            "special": model.special,
        }

    def _window(self, request: dict[str, Any]) -> tuple[list[int], int]:
        tokens, first, vocab = request["tokens"], request["first"], self._models[0].vocab
        if not 1 <= first < len(tokens):
            raise Refusal(f"of {len(tokens)} tokens none is judged from place {first} on")
        if len(tokens) > self._context_tokens + 1:
            raise Refusal(f"{len(tokens)} tokens exceed the window of {self._context_tokens + 1}")
        if not 0 <= min(tokens) <= max(tokens) < vocab:
            raise Refusal(f"a token id is outside the vocabulary of {vocab}")
        return tokens, first

    def _score(self, tokens: list[int], first: int) -> dict[str, Any]:
        judged = np.array(tokens[first:])
        at, found = 0, []
        for piece in self._models[0].logits(tokens, first):
            found.append(scores(piece, judged[at : at + len(piece)]))
            at += len(piece)
        return _joined(found)

    def _compare(self, tokens: list[int], first: int) -> dict[str, Any]:
        judged = np.array(tokens[first:])
        at, found = 0, []
        reference, candidate = (model.logits(tokens, first) for model in self._models)
        for one, other in zip(reference, candidate, strict=True):
            found.append(comparison(one, other, judged[at : at + len(one)]))
            at += len(one)
        return _joined(found)


def _joined(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: np.concatenate([one[key] for one in found]).tolist() for key in found[0]}


def _require_same_vocabulary(one: Model, other: Model) -> None:
    if one.vocab != other.vocab:
        raise RuntimeError(f"the models have vocabularies of {one.vocab:,} and {other.vocab:,} tokens")
    pairs = zip(one.vocabulary(), other.vocabulary(), strict=True)
    differing = sum(a != b for a, b in pairs)
    if differing:
        raise RuntimeError(f"the models' vocabularies differ in {differing:,} of {one.vocab:,} tokens")


def serve(scoring: Scoring, lines: Any) -> None:
    while line := lines.readline():
        try:
            answer = scoring.answer(json.loads(line))
        except Refusal as refusal:
            answer = {"refused": str(refusal)}
        lines.write(json.dumps(answer) + "\n")
        lines.flush()


def main(given: dict[str, Any]) -> None:
    scoring = Scoring(given)
    with socket.create_server((HOST, 0)) as server:
        print(f"listening on {HOST}:{server.getsockname()[1]}", file=sys.stderr, flush=True)
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rw", encoding="utf-8") as lines:
                serve(scoring, lines)


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except Exception as error:  # one line, which weigh finds in the log by its first word
        said = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        hint = getattr(error, "hint", None)
        sys.exit("error: " + " ".join(f"{said}; {hint}".split() if hint else said.split()))
