"""Tokenizer files that are damaged, of another model, or of a kind that is not converted."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.shrink.models import LLAMA
from weigh.errors import BadFile, BadInput, NotSupported
from weigh.model.config import spec_from_config
from weigh.shrink.gguf_file import value_of
from weigh.shrink.tokenizer import tokenizer_entries

SPEC = spec_from_config("small", LLAMA | {"vocab_size": 8})
WHOLE: dict[str, Any] = {
    "added_tokens": [{"id": 4, "content": "<|end|>", "special": True}],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|end|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
    },
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3}, "merges": [["a", "b"]]},
}


def entries(folder: Path, said: object, config: dict[str, object] | None = None) -> dict[str, bytes]:
    text = said if isinstance(said, str) else json.dumps(said)
    (folder / "tokenizer.json").write_text(text)
    return tokenizer_entries(folder, config or {}, SPEC)


def test_tokens_kinds_and_what_is_put_before_a_text(tmp_path: Path) -> None:
    told = {"bos_token": {"content": "<|end|>"}, "chat_template": "{{ messages }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    found = entries(tmp_path, WHOLE, {"eos_token_id": [4, 3]})
    values = {key.removeprefix("tokenizer."): value_of(found, key) for key in found}
    assert values == {
        "ggml.model": "gpt2",
        "ggml.pre": "gpt-2",
        "ggml.tokens": ("a", "b", "ab", "c", "<|end|>", "[PAD5]", "[PAD6]", "[PAD7]"),
        "ggml.token_type": (1, 1, 1, 1, 3, 5, 5, 5),
        "ggml.merges": ("a b",),
        "ggml.bos_token_id": 4,
        "ggml.eos_token_id": 4,
        "ggml.add_bos_token": True,
        "ggml.add_eos_token": False,
        "chat_template": "{{ messages }}",
    }


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is no JSON object"),
        (WHOLE | {"model": {"type": "BPE", "vocab": ["a"]}}, "no list of numbers by text"),
        (WHOLE | {"model": {"type": "BPE", "vocab": {"a": -1}}}, "no list of numbers by text"),
        (WHOLE | {"model": {"type": "BPE", "vocab": {"a": 8}}}, "beyond the 8 of the model"),
        (WHOLE | {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [1]}}, "no pair of texts"),
        (WHOLE | {"added_tokens": [{"id": "4", "content": "x"}]}, "without text or number"),
    ],
)
def test_damaged_files_are_told(said: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=words):
        entries(tmp_path, said)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"type": "WordPiece", "vocab": {}}}, "its model is `WordPiece`"),
        ({"normalizer": {"type": "Lowercase"}}, "normalises text by `Lowercase`"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "does not cut words byte by byte"),
        (
            {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
            "does not cut words byte by byte",
        ),
        ({"model": WHOLE["model"] | {"end_of_word_suffix": "</w>"}}, "has a `end_of_word_suffix`"),
    ],
)
def test_kinds_that_are_not_converted_are_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match=words):
        entries(tmp_path, WHOLE | change)


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no `tokenizer\.json`"):
        tokenizer_entries(tmp_path, {}, SPEC)
