"""History and accuracy on the command line: what was run here, and what others have shared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.store.runs import RUN, run
from tests.store.samples import BENCH
from weigh.cli import main
from weigh.errors import NotKept, WeighError
from weigh.store import Store
from weigh.store.exchange import export
from weigh.store.ledger import record, runs
from weigh.store.measurement import Event, Measurement, document, save, save_event


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:  # type: ignore[type-arg]
    code, out, err = ask(capsys, *arguments, "--json")
    assert code == 0, err
    found: dict = json.loads(out)  # type: ignore[type-arg]
    return found


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    path = tmp_path / "shared.json"
    export(path, [run(100, cpu="Another 1000")])
    return path


def test_an_empty_ledger_says_what_fills_it(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    for command in ("history", "accuracy"):
        code, out, _ = ask(capsys, command)
        assert code == 0
        assert "weigh try MODEL" in out
    assert answer(capsys, "history") == {"runs": [], "measurements": [], "quality": []}
    assert answer(capsys, "accuracy") == {"by": None, "groups": []}


def test_history_shows_estimate_beside_measurement(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    record(store, RUN)
    code, out, _ = ask(capsys, "history", "model-1b:q4_k_m")
    assert code == 0
    assert "org/Model-1B:Q4_K_M" in out
    assert "11.0 → 10.0 +10%" in out
    assert "50.0 → 40.0 +25%*" in out
    (found,) = answer(capsys, "history")["runs"]
    assert found.pop("id") == RUN.id
    assert found.pop("origin") is None
    assert found == RUN.to_json()


def test_history_shows_twenty_unless_told(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    for number in range(25):
        record(store, run(number))
    assert len(answer(capsys, "history")["runs"]) == 20
    assert len(answer(capsys, "history", "--limit", "3")["runs"]) == 3
    path = store.path.with_name("all.json")
    assert len(answer(capsys, "history", "--export", str(path))["runs"]) == 25


def test_shared_runs_are_taken_in_and_kept_apart(
    capsys: pytest.CaptureFixture[str], store: Store, shared: Path
) -> None:
    record(store, RUN)
    found = answer(capsys, "history", "--import", str(shared), "--origin", "Ada")
    assert (found["added"], found["known"], found["origin"]["who"]) == (1, 0, "Ada")
    code, out, _ = ask(capsys, "history", "--import", str(shared), "--origin", "Ada")
    assert code == 0
    assert "0 runs imported from Ada (shared.json); 1 known already" in out
    assert len(answer(capsys, "history")["runs"]) == 1
    both = answer(capsys, "history", "--all-origins")["runs"]
    assert [one["origin"] and one["origin"]["who"] for one in both] == ["Ada", None]
    groups = answer(capsys, "accuracy", "--by", "machine")["groups"]
    assert [(group["origin"], group["runs"]) for group in groups] == [("", 1), ("Ada", 1)]
    code, out, _ = ask(capsys, "accuracy")
    assert code == 0
    assert out.index("Your own runs") < out.index("Imported from Ada")
    assert "10.0%" in out


def test_a_run_is_forgotten(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    record(store, RUN)
    code, out, _ = ask(capsys, "history", "--remove", RUN.id[:6])
    assert code == 0
    assert "forgotten" in out
    assert runs(store) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["history", "--import", "FILE"],
        ["history", "--import", "absent.json", "--origin", "Ada"],
        ["history", "--import", "HOSTILE", "--origin", "Ada"],
        ["history", "--origin", "Ada"],
        ["history", "--export", "FILE"],
        ["history", "--remove", "ffff"],
        ["history", "--remove", "ffff", "--export", "new.json"],
        ["history", "--limit", "0"],
        ["accuracy", "--by", "mood"],
    ],
)
def test_what_is_wrong_is_one_line_and_two(
    capsys: pytest.CaptureFixture[str], store: Store, shared: Path, tmp_path: Path, arguments: list[str]
) -> None:
    hostile = tmp_path / "hostile.json"
    hostile.write_text(json.dumps({"weigh_runs": 1, "runs": [{"model": "\x1b[2J\n"}]}))
    paths = {"FILE": str(shared), "HOSTILE": str(hostile)}
    code, out, err = ask(capsys, *(paths.get(word, word) for word in arguments))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.rstrip("\n").isprintable()


def test_benchmarks_are_listed_beside_runs(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    record(store, RUN)
    save(store, BENCH)
    code, out, _ = ask(capsys, "history")
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith(BENCH.id[:8]))
    assert "org/Model-1B:Q4_K_M" in row
    assert "11.0 (10.0–12.0)" in row
    assert "0.93 GiB" in row
    document = answer(capsys, "history")
    assert [len(document[key]) for key in ("runs", "measurements")] == [1, 1]
    (found,) = document["measurements"]
    assert (found["id"], found["origin"], found["kind"]) == (BENCH.id, None, "bench")
    assert found["measured"][0]["figure"]["value"] == 11.0
    assert "raw" not in found


def test_results_of_other_programs_are_taken_in_and_told_apart(
    capsys: pytest.CaptureFixture[str], store: Store
) -> None:
    file = Path(__file__).parents[1] / "store" / "foreign" / "llama_bench.json"
    code, out, _ = ask(capsys, "history", "--import", str(file), "--origin", "Ada")
    assert code == 0
    assert "1 measurement imported from Ada (llama_bench.json), written by llama-bench" in out
    assert answer(capsys, "history")["measurements"] == []
    code, out, _ = ask(capsys, "history", "--all-origins")
    assert "Ada" in next(line for line in out.splitlines() if "b11669" in line)
    code, _, err = ask(capsys, "history", "--import", str(file))
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("ending", ["csv", "md"])
def test_tables_hold_measurements(
    capsys: pytest.CaptureFixture[str], store: Store, tmp_path: Path, ending: str
) -> None:
    record(store, RUN)
    save(store, BENCH)
    path = tmp_path / f"out.{ending}"
    code, out, _ = ask(capsys, "history", "--export", str(path))
    assert code == 0
    assert "1 measurement written" in out
    assert path.read_text().count("decode_tokens_per_s") == 2


def test_what_the_guard_did_is_told(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    assert "nothing yet" in ask(capsys, "history", "--events")[1]
    save_event(store, Event(1_790_000_000.0, "paused", "memory at 91 % of 23.5 GiB", {"pid": 7}))
    _, out, _ = ask(capsys, "history", "--events")
    assert "2026-09-21 14:13  paused  memory at 91 % of 23.5 GiB" in out
    (event,) = answer(capsys, "history", "--events")["events"]
    assert event["details"] == {"pid": 7}


def test_the_last_copy_of_a_measurement_is_printed(
    capsys: pytest.CaptureFixture[str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When neither the store nor a file takes it."""

    def fails(*_: object, **__: object) -> None:
        raise NotKept(WeighError("no room", hint="make some"), None, document([BENCH]))

    monkeypatch.setattr("weigh.store.ledger.runs", fails)
    code, out, err = ask(capsys, "history")
    assert code == 2
    assert err == "weigh: no room; the measurement is not on the disk; make some\n"
    assert Measurement.from_json(json.loads(out)["measurements"][0]) == BENCH
