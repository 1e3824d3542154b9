"""History and accuracy on the command line: what was run here, and what others have shared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.store.runs import RUN, run
from weigh.cli import main
from weigh.store import Store
from weigh.store.exchange import export
from weigh.store.ledger import record, runs


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
    assert answer(capsys, "history") == {"runs": [], "measurements": []}
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
