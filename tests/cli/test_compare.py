"""Side by side: only what was measured, under equal conditions, and no difference that noise explains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.store.quality import ON_CODE, figure, later
from tests.store.samples import BENCH, bench, faster
from weigh.cli import main
from weigh.store import Store
from weigh.store.exchange import export, take_in
from weigh.store.measurement import Measured, Measurement, save
from weigh.store.quality_result import MeasuredModel
from weigh.store.quality_result import save as save_quality


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["compare", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


OTHER = faster(
    1.5,
    10,
    model="org/Other-3B",
    engine="vLLM",
    settings={"threads": 1},
    measured=tuple(
        replace(one, samples=tuple(2 * s for s in one.samples)) if one.unit == "bytes" else one
        for one in faster(1.5).measured
    ),
)


def test_ratios_say_whether_a_difference_is_beyond_noise(
    capsys: pytest.CaptureFixture[str], store: Store
) -> None:
    save(store, BENCH)
    save(store, OTHER)
    code, out, _ = ask(capsys, "model-1b", "other")
    assert code == 0
    prefill = next(line for line in out.splitlines() if "prefill" in line)
    # medians 100.25 in 99 to 101: ln 1.0126, ln 1.0075; drift 1.2816 sqrt(2) 0.03: exp(0.0563) = 1.0579 either way
    assert "×1.5 (1.42–1.59)" in prefill
    assert "~" not in prefill
    first_token = next(line for line in out.splitlines() if line.startswith("time to first token"))
    assert "~×1 (" in first_token
    memory = next(line for line in out.splitlines() if line.startswith("peak memory  "))
    assert "?×2" in memory  # one sample each
    engines = next(line for line in out.splitlines() if line.startswith("engine"))
    assert "llama.cpp 1" in engines
    assert "vLLM 1" in engines


def test_unequal_conditions_are_not_compared(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    save(store, BENCH)
    depth = Measured("decode_tokens_per_s", "tokens/s", (9.0, 9.1, 9.2), {"depth_tokens": 512})
    save(store, bench(1, model="org/Other-3B", measured=(depth,)))
    code, out, _ = ask(capsys, "model-1b", "other")
    assert code == 1
    assert "nothing was measured by two of them under equal conditions" in out
    assert "only A measured 5 more" in out
    assert "only B measured 1 more" in out


def test_the_document_has_the_front(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    save(store, BENCH)
    save(store, OTHER)
    worse = faster(0.5, 20, model="org/Worse-1B")
    save(store, worse)
    code, out, _ = ask(capsys, BENCH.id[:8], OTHER.id, "worse", "--json")
    assert code == 0
    document = json.loads(out)
    front = {point["id"]: point["on_front"] for point in document["front"]}
    assert front == {BENCH.id: True, OTHER.id: True, worse.id: False}
    (decode, *_) = document["rows"]
    assert decode["ratios"][0] is None
    assert decode["ratios"][1]["value"] == pytest.approx(1.5)
    assert decode["ratios"][1]["beyond_noise"] is True
    assert document["front_counts_quality"] is False


def test_published_quality_is_shown_as_published(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    save(store, bench(0, model="Qwen2.5-Coder-7B-Instruct"))
    save(store, faster(0.5, 1, model="Qwen/Qwen2.5-Coder-14B-Instruct"))
    code, out, _ = ask(capsys, "coder-7b", "coder-14b")
    assert code == 0
    assert "quality (published)" in out
    assert "on the front of speed, memory and quality" in out
    assert out.count("▶") == 3  # both, and the note: the slower one is the better one


def test_quality_measured_on_the_same_goes_before_published(
    capsys: pytest.CaptureFixture[str], store: Store
) -> None:
    names = ("Qwen2.5-Coder-7B-Instruct", "Qwen2.5-Coder-14B-Instruct")
    save(store, bench(0, model=names[0]))
    save(store, faster(0.5, 1, model=names[1]))
    on_code = [replace(ON_CODE, model=replace(ON_CODE.model, name=name)) for name in names]
    worse = replace(ON_CODE.measures[0], figure=figure(1.5, 1.4, 1.6, "bits/byte"))
    on_code[1] = later(on_code[1], 1, measures=(worse,))
    save_quality(store, on_code)
    code, out, _ = ask(capsys, "coder-7b", "coder-14b")
    assert code == 0
    assert "quality (measured: bits per byte on the repository mine)" in out
    assert "1.5 (1.4–1.6)" in out
    assert out.count("▶") == 2  # the first, which is faster and needs fewer bits, and the note
    document = json.loads(ask(capsys, "coder-7b", "coder-14b", "--json")[1])
    assert document["front_quality"] == "measured: bits per byte on the repository mine"
    assert [point["quality"]["value"] for point in document["front"]] == [1.0, 1.5]


def test_the_difference_on_the_same_pieces_is_said(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    save(store, BENCH)
    save(store, OTHER)
    models = [MeasuredModel(one.model, one.quantization) for one in (BENCH, OTHER)]
    for seconds, (model, bits) in enumerate(zip(models, (1.0, 0.9), strict=True)):
        pieces = tuple(
            (f"{number:016x}", number, 1000 * (bits + 0.01 * (number % 3)) + number % 2, 1000, *[None] * 4)
            for number in range(12)
        )
        save_quality(store, [later(ON_CODE, seconds, model=model, pieces=pieces)])
    code, out, _ = ask(capsys, "model-1b", "other")
    assert code == 0
    assert "repository mine at c0ffeec0: B is better; B needs 0.1 (0.1–0.1) bits per byte less than A" in out
    (gap,) = json.loads(ask(capsys, "model-1b", "other", "--json")[1])["quality_gaps"]
    assert gap["better"] == gap["id"] == OTHER.id
    assert gap["difference"]["value"] == pytest.approx(-0.1)


@pytest.mark.parametrize("asked", ["model-1b", ON_CODE.id[:8]])
def test_a_model_whose_quality_alone_was_measured_is_told_so(
    asked: str, capsys: pytest.CaptureFixture[str], store: Store
) -> None:
    save(store, OTHER)
    save_quality(store, [ON_CODE])
    code, _, err = ask(capsys, "other", asked)
    assert code == 2
    assert f"of `{asked}` there is measured quality, and no benchmark" in err


@pytest.mark.parametrize(
    "changes",
    [
        {"material": replace(ON_CODE.material, digest="another commit")},
        {"material": replace(ON_CODE.material, text_bytes=1000)},
        {"model": replace(ON_CODE.model, name="Qwen2.5-Coder-14B-Instruct", quantization="Q8_0")},
    ],
    ids=["another commit", "less of it", "another quantization"],
)
def test_quality_measured_on_something_else_is_not_compared(
    changes: dict[str, Any], capsys: pytest.CaptureFixture[str], store: Store
) -> None:
    names = ("Qwen2.5-Coder-7B-Instruct", "Qwen2.5-Coder-14B-Instruct")
    save(store, bench(0, model=names[0]))
    save(store, faster(0.5, 1, model=names[1]))
    one, other = (replace(ON_CODE, model=replace(ON_CODE.model, name=name)) for name in names)
    save_quality(store, [one, later(other, 1, **changes)])
    assert "quality (published)" in ask(capsys, "coder-7b", "coder-14b")[1]


def test_the_newest_of_a_model_counts_and_an_import_by_its_id_only(
    capsys: pytest.CaptureFixture[str], store: Store, tmp_path: Path
) -> None:
    save(store, BENCH)
    save(store, faster(2.0, 5))
    save(store, OTHER)
    foreign = faster(3.0, 50)
    export(tmp_path / "theirs.json", [], [foreign])
    take_in(store, tmp_path / "theirs.json", "Ada")
    _, out, _ = ask(capsys, "model-1b", "other")
    assert faster(2.0, 5).id[:8] in out
    assert "Ada" not in out
    _, out, _ = ask(capsys, foreign.id[:8], "other")
    assert "measured by Ada (theirs.json)" in out


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("model-1b",), "give two to 20 measurements"),
        (("model-1b", "model-1b"), "one and the same measurement"),
        (("model-1b", "nothing-such"), "unknown measurement `nothing-such`"),
        (("org/", "other"), "part of several models' names"),
        (("model-1b", "other", "--plot", "picture.bmp"), "PNG or SVG"),
    ],
)
def test_bad_questions_get_one_clear_line(
    capsys: pytest.CaptureFixture[str], store: Store, asked: tuple[str, ...], says: str
) -> None:
    save(store, BENCH)
    save(store, OTHER)
    code, out, err = ask(capsys, *asked)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_picture_is_written(
    capsys: pytest.CaptureFixture[str], store: Store, tmp_path: Path, ending: str
) -> None:
    odd: Measurement = bench(3, model="$odd_{name")
    save(store, odd)
    save(store, OTHER)
    path = tmp_path / f"front.{ending}"
    code, out, _ = ask(capsys, "odd", "other", "--plot", str(path))
    assert code == 0
    assert str(path) in out
    assert path.stat().st_size > 5000
