"""`weigh bench --load`: a real engine under load, a server by its URL, and what is refused in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.busy import busy
from tests.null_servers import null_server, sent_by
from tests.running import until
from tests.tiny_models import tiny_llama
from weigh.cli.app import main
from weigh.engines.engine import Limits, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.machine.processes import descendants
from weigh.store import Store
from weigh.store.measurement import measurements
from weigh.synth.gguf import write_gguf

SHORT = ("--duration", "2s", "--prompt-tokens", "20-40", "--output-tokens", "8")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-Q4_K.gguf"
    write_gguf(tiny_llama(), path)
    return path


def test_a_real_engine_under_load(store: Store, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["bench", str(tiny), "--load", "--rate", "4", "--parallel", "2", *SHORT, "--json"])
    assert code == 0
    document = json.loads(capsys.readouterr().out)
    (level,) = document["levels"]
    assert level["requests"] > 0
    assert level["failures"] == {}
    assert [one["quantile"] for one in level["latencies"]["ttft_s"]] == [0.5, 0.9, 0.95, 0.99]
    assert document["settings"]["exact_prompts"] is True
    assert document["complete"] is True
    (kept,) = measurements(store)
    assert kept.id == document["id"]
    assert kept.kind == "load"
    assert kept.settings["parallel"] == 2
    requests = kept.raw["levels"][0]["requests"]
    for one in requests:  # random ids, tokens counted by the server, end tokens ignored
        assert one["prompt_tokens"] == one["asked_tokens"][0]
        assert one["output_tokens"] == 8
        assert one["counted"] == "with each piece"
    assert "peak_memory_bytes" in {one.name for one in kept.measured}
    assert not descendants(os.getpid())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs /proc/stat")
def test_other_programs_are_told_from_an_engine_that_was_started_for_it(
    store: Store, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On one processor, so that another program's share of it is large however many there are."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with busy(min(allowed)):
            assert main(["bench", str(tiny), "--load", "--rate", "2", *SHORT, "--json"]) == 0
    finally:
        os.sched_setaffinity(0, allowed)
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert any(one.startswith("other programs took") for one in problems)


def test_prompt_caches_do_not_help_unless_a_prefix_is_shared(store: Store, tiny: Path) -> None:
    from weigh.bench.arrivals import Arrival
    from weigh.bench.load import Asked
    from weigh.bench.load_run import run_load
    from weigh.engines.openai_api import OpenAiModel

    trace = tuple(Arrival(n / 10, 64, 2) for n in range(4))
    with EmbeddedLlamaCpp().start(tiny, Settings(context_tokens=256), Limits()) as session:
        cached = []
        for prefix in (0, 48):
            asked = Asked(trace=trace, shared_prefix=prefix)
            (level,) = run_load(OpenAiModel(session.url), asked).levels
            found = [one.pieces.timings for one in level.requests]
            cached.append(max(timings.cached_tokens for timings in found if timings is not None))
    assert cached[0] == 0
    assert cached[1] >= 40


def test_a_server_by_its_url(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with null_server() as url:
        code = main(["bench", url, "--load", "--rate", "5,20", *SHORT, "--ttft", "500ms", "--itl", "50ms"])
    said = capsys.readouterr().out
    assert code == 0
    assert "null" in said
    assert "time to first token, from arrival" in said
    assert "kept as" in said
    (kept,) = measurements(store)
    assert {one.conditions.get("rate_per_s") for one in kept.measured} >= {5.0, 20.0}
    assert kept.settings["target_ttft_s"] == 0.5


def test_a_load_on_a_model_with_a_price_says_what_it_cost(
    store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('["null"]\ninput = 2\noutput = 8\ncurrency = "USD"\nsource = "its list"\n')
    monkeypatch.setenv("WEIGH_PRICES", str(prices))
    with null_server() as url:
        code = main(["bench", url, "--load", "--clients", "2", *SHORT, "--json"])
        log = sent_by(url)
    assert code == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    said = re.fullmatch(
        r"2 USD per million tokens read, 8 written; this run read ([\d,]+) and wrote ([\d,]+): "
        r"\S+ USD \(its list\)",
        note,
    )
    assert said is not None, note
    read, wrote = (int(number.replace(",", "")) for number in said.groups())
    assert wrote >= 8 * (len(log) - 1)  # of all that was asked, first the question how requests are taken
    assert read >= 20 * (len(log) - 1)


def test_prices_that_are_none_are_told_before_anything_is_sent(
    store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("not a price")
    monkeypatch.setenv("WEIGH_PRICES", str(prices))
    with null_server() as url:
        for words in (("--load", "--rate", "5", *SHORT), ("--max-time", "1s")):
            assert main(["bench", url, *words]) == 2
            assert str(prices) in capsys.readouterr().err
        assert not sent_by(url)
    assert not measurements(store)


def test_nothing_answered_is_an_engine_that_failed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """The first three completions ask how the server takes requests."""
    with null_server("--fault", "status", "--after", "3") as url:
        code = main(["bench", url, "--load", "--rate", "5", *SHORT])
    told = capsys.readouterr()
    assert code == 3
    assert told.err.splitlines()[-1] == "weigh: no request was answered"
    assert "HTTP 503" in told.out
    assert len(measurements(store)) == 1


def test_ctrl_c_shows_and_keeps_what_was_measured(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with null_server() as url:

        def interrupt() -> None:
            until(lambda: len(sent_by(url)) > 8, at_most_s=120)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        code = main(["bench", url, "--load", "--rate", "10", "--duration", "10m", "--output-tokens", "8"])
    assert code == 130
    told = capsys.readouterr()
    assert "kept as" in told.out
    assert told.err.splitlines()[-1] == "interrupted"
    (kept,) = measurements(store)
    assert "interrupted" in kept.problems


def test_an_engine_that_is_killed_leaves_what_was_measured(
    store: Store, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def kill_once_it_has_answered() -> None:
        while not (found := descendants(os.getpid())):
            time.sleep(0.1)
        time.sleep(6)
        os.kill(found[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_once_it_has_answered)
    killer.start()
    code = main(["bench", str(tiny), "--load", "--rate", "4", "--duration", "10m", "--output-tokens", "4"])
    killer.join()
    told = capsys.readouterr()
    assert code == 3
    assert told.err.splitlines()[-1].startswith("weigh: llama.cpp was ended by SIGKILL")
    (kept,) = measurements(store)
    assert any(problem.startswith("ended early") for problem in kept.problems)
    assert "kept as" in told.out
    assert not descendants(os.getpid())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rate", "5"], "--rate is of a load; add --load"),
        (["--load", "--rate", "0"], "0"),
        (["--load", "--rate", "5", "--clients", "2"], "give one of them"),
        (["--load", "--clients", "2", "--arrivals", "burst"], "--arrivals is of a rate"),
        (["--load", "--stretch", "2"], "--stretch is of a --trace"),
        (["--load", "--trace", "no-such-file.csv"], "cannot be read"),
        (["--load", "--prompt-tokens", "many"], "not a number of tokens"),
        (["--load", "--burst", "4"], "--burst is of --arrivals burst"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    store: Store, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "http://127.0.0.1:9", *options]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert len(told.err.splitlines()) == 1
    assert told.out == ""
