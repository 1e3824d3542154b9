"""`weigh bench` and `weigh check` as a person or a CI system meets them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.tiny_models import tiny_llama
from weigh.bench.here import Here
from weigh.cli import main
from weigh.engines.engine import Limits, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.store import Store
from weigh.store.measurement import measurements
from weigh.synth import write_gguf

SHORT = ("--prompt", "16", "--output", "8", "--context", "512", "--threads", "1", "--max-time", "1s")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "mine.gguf"
    write_gguf(tiny_llama(), path)
    return str(path)


@pytest.fixture(scope="module")
def url(file: str) -> Iterator[str]:
    with EmbeddedLlamaCpp().start(Path(file), Settings(512, threads=1), Limits()) as session:
        yield f"http://127.0.0.1:{session._port}"


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_json_has_every_figure_beside_its_estimate(
    capsys: pytest.CaptureFixture[str], calibrated: Here, store: Store, file: str
) -> None:
    code, out, err = ask(capsys, "bench", file, *SHORT, "--starts", "1", "--json")
    assert code == 0, err
    found = json.loads(out)
    (kept,) = measurements(store)
    assert found["id"] == kept.id
    assert found["complete"] is True
    assert found["engine"]["name"] == "llama.cpp"
    names = {one["name"] for one in found["measured"]}
    assert {
        "load_cached_s",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "ttft_s",
        "itl_s",
        "tpot_s",
    } <= names
    for one in found["measured"]:
        figure = one["figure"]
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert figure["basis"] == "measured"
        assert one["samples"] >= 1
    (decode,) = [
        one
        for one in found["measured"]
        if one["name"] == "decode_tokens_per_s" and one["conditions"]["clock"] == "engine"
    ]
    assert decode["estimated"]["basis"] == "calibrated"
    assert "raw" not in found


def test_the_screen_shows_speeds_once_and_says_where_it_is_kept(
    capsys: pytest.CaptureFixture[str], calibrated: Here, store: Store, file: str
) -> None:
    code, out, err = ask(capsys, "bench", file, *SHORT, "--starts", "1")
    assert code == 0
    (kept,) = measurements(store)
    assert f"kept as {kept.id[:8]}" in out
    assert out.count("decode tokens/s") == 1
    assert "client's clock" not in out
    for words in (
        "load, file in memory",
        "time to first token",
        "gap between tokens",
        "peak memory",
        "samples",
    ):
        assert words in out
    assert err == "Measuring tiny …\n"


def test_a_server_is_measured_by_its_url(capsys: pytest.CaptureFixture[str], store: Store, url: str) -> None:
    code, out, _ = ask(capsys, "bench", url, "--prompt", "16", "--output", "8", "--max-time", "1s")
    assert code == 0
    assert "time to first token" in out
    assert len(measurements(store)) == 1
    code, out, _ = ask(
        capsys, "check", url, "--prompt", "16", "--output", "8", "--max-time", "1s", "--max-ttft", "10m"
    )
    assert (code, out.count("kept by")) == (0, 1)


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "--prompt", "16", "--output", "8", "--max-time", "1s"),
        (
            "bench",
            "--load",
            "--rate",
            "5",
            "--duration",
            "1s",
            "--prompt-tokens",
            "16",
            "--output-tokens",
            "8",
        ),
        ("check", "--prompt", "16", "--output", "8", "--max-time", "1s", "--max-ttft", "10m"),
    ],
)
def test_on_a_full_disk_the_figures_are_shown_all_the_same(
    capsys: pytest.CaptureFixture[str],
    store: Store,
    url: str,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("weigh.store.measurement.insert", full)
    monkeypatch.chdir(tmp_path)
    code, out, err = ask(capsys, words[0], url, *words[1:])
    assert code == 2
    assert ("budgets kept" if words[0] == "check" else "time to first token") in out
    assert "kept as" not in out
    (aside,) = tmp_path.glob("weigh-*.json")
    assert f"the measurement was written to {aside} instead" in err.splitlines()[-1]
    assert json.loads(aside.read_text())["measurements"]


def test_budgets_decide_the_exit_code_and_the_report(
    capsys: pytest.CaptureFixture[str], store: Store, file: str, tmp_path: Path
) -> None:
    report = tmp_path / "report.xml"
    budgets = ("--max-memory", "2GiB", "--max-ttft", "10m", "--max-load", "10m", "--junit", str(report))
    code, out, err = ask(capsys, "check", file, *SHORT, *budgets)
    assert code == 0, err
    assert "3 of 3 budgets kept" in out
    assert ElementTree.parse(report).getroot().get("failures") == "0"
    code, out, _ = ask(capsys, "check", file, *SHORT, *budgets, "--min-decode", "1e12")
    assert code == 1
    assert "MISSED" in out
    suites = ElementTree.parse(report).getroot()
    assert (suites.get("tests"), suites.get("failures")) == ("4", "1")


def test_an_engine_that_fails_is_an_error_in_the_report(
    capsys: pytest.CaptureFixture[str], store: Store, file: str, tmp_path: Path
) -> None:
    report = tmp_path / "report.xml"
    given = ("--min-decode", "1", "--max-ttft", "1s", "--timeout", "0.001s", "--junit", str(report))
    code, out, err = ask(capsys, "check", file, *SHORT, *given)
    assert (code, out) == (3, "")
    suites = ElementTree.parse(report).getroot()
    assert (suites.get("tests"), suites.get("errors"), suites.get("failures")) == ("2", "2", "0")
    error = suites.find("testsuite/testcase/error")
    assert error is not None
    assert (error.get("message") or "") in err


def test_a_stored_measurement_is_judged_without_running_anything(
    capsys: pytest.CaptureFixture[str], store: Store, file: str
) -> None:
    assert ask(capsys, "check", file, *SHORT, "--min-decode", "0.001")[0] == 0
    (kept,) = measurements(store)
    code, out, _ = ask(
        capsys, "check", "--from", kept.id[:8], "--max-ttft", "10m", "--min-decode", "1e12", "--json"
    )
    assert code == 1
    found = json.loads(out)
    assert found["passed"] is False
    first, second = found["checks"]
    assert (first["name"], first["met"], first["figure"]["unit"]) == ("max-ttft", True, "s")
    assert (second["name"], second["met"], second["limit"]) == ("min-decode", False, 1e12)
    assert len(measurements(store)) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bench", "llama-3.2-1b", "--no-calibrate"), "is no GGUF file on this machine"),
        (("bench", "/none.gguf"), "does not exist"),
        (("bench", "x.gguf", "--precision", "0%"), "is not a share"),
        (("bench", "x.gguf", "--max-time", "soon"), "is not a time"),
        (("bench", "x.gguf", "--depth", "-1"), "is not a number of tokens"),
        (("bench", "x.gguf", "--engine", "openai"), "are for servers"),
        (("bench", "http://127.0.0.1:9", "--engine", "vllm"), "is started on a file"),
        (("bench", "http://127.0.0.1:9"), "cannot be reached"),
        (("bench", "http://[::1"), "no address of a server"),
        (("bench", "http://[::1", "--load"), "no address of a server"),
        (("bench", "grpc://[::1/m"), "no address of a server"),
        (("bench", "grpc://127.0.0.1:9/m", "--depth", "8"), "--depth is not of an exported model"),
        (
            ("bench", "http://127.0.0.1:9/v1/models/m", "--engine", "tf-serving", "--prompt", "8"),
            "--prompt is not",
        ),
        (("bench", "http://127.0.0.1:9", "--memory-limit", "1GiB"), "--memory-limit is of an engine that is"),
        (("bench", "http://127.0.0.1:9", "--load", "--engine", "tf-serving"), "over the OpenAI API"),
        (("bench", "x.gguf", "--load", "--key-env", "KEY"), "are for servers"),
        (
            ("check", "grpc://127.0.0.1:9/m", "--max-ttft", "1s", "--output", "8"),
            "--output is not of an exported",
        ),
        (("check", "x.gguf"), "no budget is given"),
        (("check", "--max-ttft", "1s"), "either a MODEL is measured"),
        (("check", "x.gguf", "--from", "1", "--max-ttft", "1s"), "either a MODEL is measured"),
        (("check", "--from", "nothing", "--max-ttft", "1s"), "unknown measurement"),
        (("check", "x.gguf", "--max-memory", "6 elephants"), "is not a size"),
        (("check", "x.gguf", "--max-ttft", "0s"), "is not a time"),
        (("check", "x.gguf", "--max-ttft", "1s", "--junit", "/none/report.xml"), "cannot be written"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], store: Store, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = ask(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert measurements(store) == []


def test_a_load_has_options_of_its_own(capsys: pytest.CaptureFixture[str], store: Store, file: str) -> None:
    code, out, err = ask(capsys, "bench", file, "--load", "--prompt", "5")
    assert (code, out) == (2, "")
    assert "--prompt is not of a load" in err
    load = ("--load", "--clients", "1", "--duration", "1s", "--prompt-tokens", "16", "--output-tokens", "4")
    code, out, err = ask(capsys, "bench", file, *load, "--context", "512", "--threads", "1", "--json")
    assert code == 0, err
    (kept,) = measurements(store)
    assert kept.kind == "load"
