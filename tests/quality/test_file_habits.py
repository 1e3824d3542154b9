"""What files say a model can be asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny_models import tiny_llama
from weigh.model.gguf import read_gguf
from weigh.quality.file_habits import FileHabits, file_habits
from weigh.synth import write_gguf

QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
LADDER = min((Path(__file__).parents[2] / "ladder" / "models").glob("*-Q8_0.gguf"))


def test_a_gguf_file_is_asked_for_a_template_and_tokens(tmp_path: Path) -> None:
    write_gguf(tiny_llama(), tmp_path / "tiny.gguf")
    assert file_habits(read_gguf(tmp_path / "tiny.gguf")) == FileHabits(chats=False, fills_middle=False)
    assert file_habits(read_gguf(LADDER)) == FileHabits(chats=False, fills_middle=True)


@pytest.mark.parametrize(
    ("words", "config", "template", "found"),
    [
        (QWEN, {}, False, FileHabits(chats=False, fills_middle=True)),
        (QWEN[:2], {"chat_template": "{{ messages }}"}, False, FileHabits(chats=True, fills_middle=False)),
        (("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), {}, True, FileHabits(True, True)),
    ],
)
def test_a_folder_is_asked_by_its_tokenizer(
    tmp_path: Path, words: tuple[str, ...], config: dict[str, str], template: bool, found: FileHabits
) -> None:
    vocabulary = json.dumps({"added_tokens": [{"content": word} for word in words]}, ensure_ascii=False)
    (tmp_path / "tokenizer.json").write_text(vocabulary, encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if template:
        (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    spec = replace(tiny_llama(), file=tmp_path, format="safetensors")
    assert file_habits(spec) == found
    assert file_habits(replace(spec, file=tmp_path / "model.safetensors")) == found


def test_where_there_is_nothing_to_read_nothing_is_said(tmp_path: Path) -> None:
    spec = tiny_llama()
    assert file_habits(spec) is None
    assert file_habits(replace(spec, file=tmp_path, format="safetensors")) is None
    assert file_habits(replace(spec, file=tmp_path / "gone.gguf", format="gguf")) is None
