"""The same question asked again is answered from what the first call weighed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from weigh.advise import weighed as module
from weigh.advise.weighed import Weighings
from weigh.bench.here import Here
from weigh.engines.engine import Settings
from weigh.estimate import setup
from weigh.estimate.learned import Learned
from weigh.estimate.setup import weigh
from weigh.estimate.speed import Workload
from weigh.model.catalog import catalog
from weigh.model.resolve import resolve

ENTRY = catalog().by_id["meta-llama/Llama-3.2-1B-Instruct"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "weighed"
    monkeypatch.setattr(module, "_folder", lambda: found)
    return found


def weighings(here: Here, context_tokens: int = 4096, prompt_tokens: int = 2000) -> Weighings:
    return Weighings(here, Settings(context_tokens), Workload(), prompt_tokens)


def test_a_setup_weighs_what_fit_says(calibrated: Here, folder: Path) -> None:
    found = weighings(calibrated).of(ENTRY, "Q4_K_M")
    alone = weigh(resolve("llama-3.2-1b:Q4_K_M"), calibrated)
    assert found is not None
    assert replace(found.memory, available_bytes=alone.available_bytes) == alone.memory
    assert found.speed == alone.speed
    assert found.parameters == alone.spec.parameters
    assert found.first_token_s == alone.ttft_s(2000)


def test_the_second_call_weighs_nothing(
    calibrated: Here, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = weighings(calibrated)
    found = first.of(ENTRY, "Q4_K_M")
    first.keep()
    monkeypatch.setattr(setup, "weigh", lambda *a, **k: pytest.fail("weighed again"))
    assert weighings(calibrated).of(ENTRY, "Q4_K_M") == found
    with pytest.raises(pytest.fail.Exception):
        weighings(calibrated).of(ENTRY, "Q8_0")


def test_another_question_or_calibration_is_weighed_apart(calibrated: Here, folder: Path) -> None:
    assert calibrated.calibration is not None
    slower = replace(calibrated, calibration=replace(calibrated.calibration, layer_s=1.0))
    for one in (
        weighings(calibrated),
        weighings(calibrated, context_tokens=8192),
        weighings(calibrated, prompt_tokens=10),
        weighings(slower),
        weighings(replace(calibrated, target=replace(calibrated.target, cpu_features=()))),
        weighings(replace(calibrated, learned=Learned(()))),
    ):
        one.of(ENTRY, "Q4_K_M")
        one.keep()
    assert len(list(folder.iterdir())) == 6


def test_what_cannot_be_read_is_weighed_again(calibrated: Here, folder: Path) -> None:
    first = weighings(calibrated)
    found = first.of(ENTRY, "Q4_K_M")
    first.keep()
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert weighings(calibrated).of(ENTRY, "Q4_K_M") == found


def test_a_folder_that_cannot_be_written_does_no_harm(
    calibrated: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(module, "_folder", lambda: tmp_path / "file")
    one = weighings(calibrated)
    assert one.of(ENTRY, "Q4_K_M") is not None
    one.keep()


def test_old_answers_make_room(calibrated: Here, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILES_KEPT", 2)
    for tokens in (1024, 2048, 4096):
        one = weighings(calibrated, context_tokens=tokens)
        one.of(ENTRY, "Q4_K_M")
        one.keep()
    assert len(list(folder.iterdir())) == 2


def test_a_model_of_unknown_shapes_is_none(calibrated: Here, folder: Path) -> None:
    entry = replace(ENTRY, id="nobody/knows", config={**ENTRY.config, "model_type": "unheard-of"})
    assert weighings(calibrated).of(entry, "Q4_K_M") is None
