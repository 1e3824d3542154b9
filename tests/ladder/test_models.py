"""The small models of the repository: they load, read as they were trained to, and the larger know more."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from ladder.shapes import RUNGS
from weigh.engines.engine import Limits
from weigh.model.resolve import resolve
from weigh.quality.scorer import Scorer, open_scorer
from weigh.quality.text import Text, score_text

MODELS = Path(__file__).parents[2] / "ladder" / "models"
BY_SIZE = [path for rung in RUNGS for path in MODELS.glob(f"ladder-{rung.name}-*.gguf")]
HELD_OUT = Path(sysconfig.get_path("stdlib"), "pprint.py").read_text(encoding="utf-8")
MOST_BYTES = 8 << 20  # of the repository


@pytest.fixture(scope="module", params=BY_SIZE, ids=lambda path: path.stem)
def scorer(request: pytest.FixtureRequest) -> Iterator[Scorer]:
    with open_scorer(resolve(str(request.param)), context_tokens=512, limits=Limits()) as opened:
        yield opened


def bits_per_byte(path: Path) -> float:
    with open_scorer(resolve(str(path)), context_tokens=512, limits=Limits()) as opened:
        score = score_text(opened, Text("pprint.py", 0, HELD_OUT))
    return score.bits / score.text_bytes


def test_several_sizes_are_kept_and_they_are_small() -> None:
    assert len(BY_SIZE) >= 4
    assert sum(path.stat().st_size for path in BY_SIZE) < MOST_BYTES


def test_the_larger_foretell_held_out_code_better() -> None:
    found = [bits_per_byte(path) for path in BY_SIZE]
    assert found == sorted(found, reverse=True)
    assert found[0] < 3  # bits per byte; text of letters drawn at random has more than 6


def test_llama_cpp_and_tokenizers_cut_text_alike(scorer: Scorer) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    ours = tokenizers.Tokenizer.from_file(str(MODELS / "tokenizer.json"))
    odd = "x = 1024\r\n\tif 'Zürich' in 東京:\n\n\n    pass  # it's  \t 🎲\x00\n"
    for text in (HELD_OUT, odd):
        assert scorer.tokenize(text).tokens == ours.encode(text).ids
