"""`weigh quality --card` as a person meets it: real files, a real store, a real server."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.test_commands import answer, ask, figures
from tests.cli.test_report import Page
from tests.store.quality import DIVERGED, ON_TASKS, figure
from tests.store.runs import run
from tests.store.samples import bench
from tests.tiny_models import tiny_llama
from weigh.advise.card import name_and_recipe
from weigh.advise.needs import TASKS
from weigh.bench.here import Here
from weigh.engines.engine import Limits, Settings
from weigh.engines.http_session import HttpSession
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.machine import probe
from weigh.model.fingerprint import fingerprint
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import read_gguf
from weigh.store import Store
from weigh.store.ledger import record
from weigh.store.measurement import save as save_measurement
from weigh.store.quality_result import Measure, MeasuredModel, save
from weigh.store.run import Quantity
from weigh.synth import write_gguf

LADDER = min((Path(__file__).parents[2] / "ladder" / "models").glob("*-Q8_0.gguf"))
CODER = "Qwen/Qwen2.5-Coder-1.5B-Instruct"
HOSTILE = "<script>alert(1)</script> | **x** [y](http://z)"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unquantized file, which any type can be made of."""
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_gguf(tiny_llama(matrix_type=GgmlType.F16, embedding_type=GgmlType.F16), path)
    return path


def needs(card: dict) -> dict[str, dict]:  # type: ignore[type-arg]
    return {one["need"]["task"]: one for one in card["needs"]}


def test_a_model_of_the_catalog(capsys: pytest.CaptureFixture[str], calibrated: Here) -> None:
    (card,) = answer(capsys, "quality", "qwen2.5-coder-1.5b", "--card")["cards"]
    assert card["identity"]["catalog_id"] == CODER
    assert card["identity"]["licence"] == "apache-2.0"
    assert list(needs(card)) == list(TASKS)
    assert [size["quantization"] for size in card["sizes"] if size["chosen"]] == ["Q4_K_M"]
    bits = [size["bits_per_weight"]["value"] for size in card["sizes"]]
    assert bits == sorted(bits, reverse=True)
    losses = [size["quantization_loss"]["value"] for size in card["sizes"]]
    assert losses == sorted(losses)
    code = card["quality"]["index"]["code"]
    assert code["index"]["basis"] == "published"
    assert 0 < code["above"] < code["of_peers"]
    assert {score["benchmark"] for score in card["quality"]["published"]} >= {"HumanEval+", "MBPP"}
    assert figures([card["identity"], card["sizes"], card["quality"]["index"], card["needs"]])


def test_its_figures_are_those_of_fit(capsys: pytest.CaptureFixture[str], calibrated: Here) -> None:
    (card,) = answer(capsys, "quality", "qwen2.5-coder-1.5b:Q6_K", "--card", "--context", "8k")["cards"]
    fit = answer(capsys, "fit", "qwen2.5-coder-1.5b:Q6_K", "--context", "8k")
    chosen = next(size for size in card["sizes"] if size["chosen"])
    assert chosen["speed"] == fit["speed"]
    same = ("total_bytes", "kv_cache_bytes", "max_context_tokens")
    assert [chosen["memory"][key] for key in same] == [fit["memory"][key] for key in same]


def test_the_page_says_what_it_is_good_for_first(
    capsys: pytest.CaptureFixture[str], calibrated: Here
) -> None:
    code, out, _ = ask(capsys, "quality", "qwen2.5-coder-7b", "--card", "--on", "RTX 4090")
    assert code == 0
    first, _, rest = out.partition("What it is")
    assert first.splitlines()[0] == "Qwen/Qwen2.5-Coder-7B-Instruct at Q4_K_M"
    assert re.search(r"^Good for .*autocomplete", first, re.MULTILINE)
    for title in ("Sizes and speeds", "Quality", "Published scores", "Need by need"):
        assert f"\n{title}\n" in rest
    assert "Speed measured here" not in out


@pytest.mark.usefixtures("store")
def test_unknown_speed_is_said_and_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ask(capsys, "quality", "qwen2.5-coder-1.5b", "--card", "--no-calibrate")
    assert code == 0
    assert re.search(r"^Fair for .*coding", out, re.MULTILINE)
    assert re.search(r"^Not judged +speed here, which is not known$", out, re.MULTILINE)
    assert "takes: as estimated" not in out


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_at_the_edge(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    calibrated: Here,
    width: int,
) -> None:
    from weigh.cli import render

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(render, "_console", render._console.__wrapped__)
    code, out, _ = ask(capsys, "quality", "llama-3.1-8b", str(LADDER), "--card")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert code == 0
    assert max(map(len, plain.splitlines())) <= width
    assert "…" not in plain


def test_a_file_outside_the_catalog_is_not_guessed_at(
    capsys: pytest.CaptureFixture[str], calibrated: Here
) -> None:
    (card,) = answer(capsys, "quality", str(LADDER), "--card")["cards"]
    assert card["identity"]["catalog_id"] is None
    assert card["identity"]["has_chat_template"] is False
    assert card["identity"]["has_fill_middle_tokens"] is True
    assert card["quality"] == {"index": {}, "published": [], "measured": []}
    assert [size["file_bytes"]["value"] for size in card["sizes"]] == [LADDER.stat().st_size]
    assert needs(card)["chat"]["basis"] == "computed"
    code, out, _ = ask(capsys, "quality", str(LADDER), "--card")
    assert code == 0
    assert "not a model of weigh's catalog" in out
    assert f"weigh quality {LADDER} --tasks" in out


def test_an_unquantized_file_at_every_type_it_can_be_made(
    capsys: pytest.CaptureFixture[str], calibrated: Here, tiny: Path
) -> None:
    (card,) = answer(capsys, "quality", str(tiny), "--card")["cards"]
    types = [size["quantization"] for size in card["sizes"]]
    assert types[0] == "F16"
    assert {"Q8_0", "Q4_K_M", "Q2_K"} <= set(types)
    assert [size["chosen"] for size in card["sizes"]] == [True] + [False] * (len(types) - 1)


def test_what_was_measured_is_shown_and_decides(
    capsys: pytest.CaptureFixture[str], calibrated: Here, store: Store
) -> None:
    spec = read_gguf(LADDER)
    model = MeasuredModel(spec.name, "Q8_0", "", fingerprint(spec), spec.parameters, None)
    material = replace(
        ON_TASKS.material, needs=("completion",), settings={"style": "completion", "max_tokens": 1024}
    )
    half = figure(0.5, 0.4, 0.6, "share")
    measures = (Measure("pass@1", half, 22), Measure("pass@1", half, 22, "completion"))
    save(store, [replace(ON_TASKS, model=model, material=material, measures=measures)])
    save(store, [replace(ON_TASKS, model=replace(model, fingerprint="0" * 16))])  # another file of that name
    here = probe()
    save_measurement(store, bench(model=spec.name, quantization="Q8_0", fingerprint=here.fingerprint))
    for fingerprint_ in (here.speed_fingerprint, "another"):
        record(store, run(model=spec.name, quantization="Q8_0", fingerprint=fingerprint_))
    decode = bench().first("decode_tokens_per_s")
    assert decode is not None
    left = run(
        1, model=spec.name, fingerprint=here.speed_fingerprint, decode_tokens_per_s=Quantity(decode.samples)
    )
    record(store, left)  # as a benchmark leaves one
    (card,) = answer(capsys, "quality", str(LADDER), "--card")["cards"]
    assert len(card["quality"]["measured"]) == len(card["benchmarks"]) == len(card["trials"]) == 1
    found = needs(card)["autocomplete"]
    assert (found["basis"], found["answers"]) == ("measured", "fair")
    code, out, _ = ask(capsys, "quality", str(LADDER), "--card")
    assert code == 0
    assert "passes 50 % (40–60) of 22" in out
    assert re.search(r"^Speed measured here\n.*\n.* bench .*\n.* try, test-driven +10.0 ", out, re.MULTILINE)


def test_a_divergence_measured_here_takes_the_place_of_the_rule(
    capsys: pytest.CaptureFixture[str], calibrated: Here, store: Store
) -> None:
    model = replace(DIVERGED.model, name=CODER, catalog_id=CODER, parameters=1_543_714_304)
    assert DIVERGED.reference is not None
    reference = replace(model, quantization="F16", fingerprint="1" * 16)
    save(store, [replace(DIVERGED, model=model, reference=reference)])
    (card,) = answer(capsys, "quality", "qwen2.5-coder-1.5b", "--card")["cards"]
    loss = {size["quantization"]: size["quantization_loss"] for size in card["sizes"]}
    assert (loss["Q4_K_M"]["value"], loss["Q4_K_M"]["basis"]) == (0.05, "measured")
    assert loss["Q5_K_M"]["basis"] != "measured"
    code, out, _ = ask(capsys, "quality", "qwen2.5-coder-1.5b", "--card")
    assert code == 0
    assert "0.05 (0.04–0.06)*" in out


def test_cards_as_files(
    capsys: pytest.CaptureFixture[str], calibrated: Here, tiny: Path, tmp_path: Path
) -> None:
    hostile = tmp_path / "hostile.gguf"
    write_gguf(tiny_llama(name=HOSTILE), hostile)
    page, text = tmp_path / "cards.html", tmp_path / "cards.md"
    for file in (page, text):
        code, out, _ = ask(capsys, "quality", str(hostile), "qwen3-8b", "--card", str(file))
        assert (code, out) == (0, f"2 cards written to {file}\n")
    parsed = Page(page.read_text(encoding="utf-8"))
    assert parsed.tags.count("section") == 2
    assert not {"script", "link", "img", "a"} & set(parsed.tags)
    assert any(HOSTILE in word for word in parsed.words)
    written = text.read_text(encoding="utf-8")
    assert "\n# Qwen/Qwen3-8B at Q4\\_K\\_M\n" in written
    assert "<script>" not in written
    assert "\\[y\\](http\\://z)" in written
    rows = [line for line in written.splitlines() if line.startswith("|")]
    assert {"good", "fair", "bad"} & {cell.strip() for row in rows for cell in row.split("|")}
    lengths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert lengths <= {5, 6, 7, 11}  # one for each table: no name has opened a column


def test_a_served_model_is_known_by_its_name_alone(
    capsys: pytest.CaptureFixture[str], calibrated: Here, tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "Qwen2.5-Coder-7B-Instruct-Q4_K_M.gguf"
    file.write_bytes(tiny.read_bytes())
    with EmbeddedLlamaCpp().start(file, Settings(context_tokens=256, threads=1), Limits()) as session:
        assert isinstance(session, HttpSession)
        (card,) = answer(capsys, "quality", session.url, "--card")["cards"]
        code, out, _ = ask(capsys, "quality", session.url, "--card")
    identity = card["identity"]
    assert (identity["catalog_id"], identity["by_name_only"]) == ("Qwen/Qwen2.5-Coder-7B-Instruct", True)
    assert (identity["served"]["context_tokens"], card["quantization"]) == (256, "Q4_K_M")
    assert (card["sizes"], card["machine"]) == ([], None)
    assert needs(card)["unit-tests"]["verdict"] == "good"
    assert not any(one["in_its_way"] or one["request_s"] for one in card["needs"])
    assert code == 0
    assert "if the server's name for it is true" in out
    assert "memory and speed are the server's and not judged" in out


@pytest.mark.parametrize(
    ("said", "name", "recipe"),
    [
        ("Qwen3-8B", "Qwen3-8B", ""),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B", ""),
        ("/models/Qwen3-8B-Q4_K_M.gguf", "Qwen3-8B", "Q4_K_M"),
        ("qwen3-8b.q8_0", "qwen3-8b", "Q8_0"),
        ("Q4_K_M-of-mine", "Q4_K_M-of-mine", ""),
    ],
)
def test_what_a_servers_name_for_a_file_says(said: str, name: str, recipe: str) -> None:
    assert name_and_recipe(said) == (name, recipe)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("qwen3-8b", "--card", "card.txt"), "cards are written as .md or .html"),
        (("qwen3-8b", "--card", "nowhere/card.md"), "nowhere/card.md: cannot be written (No such file"),
        (("qwen3-8b", "--card", "--tasks"), "or --card alone"),
        (("qwen3-8b", "--context", "4k", "--text", "a"), "--context is of a card; add --card"),
        (("qwen3-8b", "--card", "--threads", "2"), "a card measures nothing"),
        (("qwen3-9000b", "--card"), "unknown model"),
        (("http://127.0.0.1:1", "--card"), "127.0.0.1:1 cannot be reached"),
    ],
)
def test_what_cannot_be_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    calibrated: Here,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = ask(capsys, "quality", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_json_beside_a_file_names_it(
    capsys: pytest.CaptureFixture[str], calibrated: Here, tmp_path: Path
) -> None:
    file = tmp_path / "card.md"
    code, out, _ = ask(capsys, "quality", str(LADDER), "--card", str(file), "--json")
    assert code == 0
    assert json.loads(out)["file"] == str(file)
    assert file.exists()
