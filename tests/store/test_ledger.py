"""The ledger keeps runs beside their estimates, one's own apart from those of others."""

from __future__ import annotations

import json
import math
import multiprocessing
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.calibrations import CALIBRATION
from tests.store.runs import RUN, run
from weigh.errors import BadFile, BadInput, UnknownName
from weigh.estimate.speed import FORMULA_VERSION
from weigh.figure import Basis, Figure
from weigh.store import Store
from weigh.store.accuracy import GROUPINGS, accuracy
from weigh.store.exchange import MOST_RUNS, export
from weigh.store.exchange import take_in as import_runs
from weigh.store.ledger import learned, record, remove, runs
from weigh.store.run import NOT_MEASURED, Kind, Origin, Run


@pytest.fixture
def mine(tmp_path: Path) -> Store:
    return Store(tmp_path / "mine.db")


@pytest.fixture
def yours(tmp_path: Path) -> Store:
    return Store(tmp_path / "yours.db")


def test_a_run_comes_back_as_it_was_recorded(mine: Store) -> None:
    record(mine, RUN)
    assert runs(mine) == [RUN]


def test_the_newest_run_is_first_and_some_can_be_asked_for(mine: Store) -> None:
    for number in (1, 3, 2):
        record(mine, run(number, model=f"org/Model-{number}B"))
    record(mine, run(0, model="org/Model-2B", quantization="Q8_0"))
    assert [one.model for one in runs(mine, limit=2)] == ["org/Model-3B", "org/Model-2B"]
    assert [one.quantization for one in runs(mine, "model-2b")] == ["Q4_K_M", "Q8_0"]
    assert [one.quantization for one in runs(mine, "Model-2b:q8_0")] == ["Q8_0"]
    assert runs(mine, "another") == []


def test_errors_are_of_the_median_against_what_was_shown() -> None:
    assert RUN.decode_tokens_per_s.error == pytest.approx(0.1)  # 11 estimated, 10 the median measured
    assert RUN.decode_tokens_per_s.uncorrected_error == pytest.approx(0.2)
    assert RUN.decode_tokens_per_s.inside is True
    assert RUN.prefill_tokens_per_s.inside is False
    assert RUN.peak_memory_bytes.inside is None  # computed: it has no interval
    assert NOT_MEASURED.error is None


# --- sharing ---------------------------------------------------------------------------------------------


def test_an_export_is_imported_once_and_stays_apart(mine: Store, yours: Store, tmp_path: Path) -> None:
    for number in range(3):
        record(mine, run(number))
    record(yours, run(7))
    export(tmp_path / "runs.json", runs(mine))
    first = import_runs(yours, tmp_path / "runs.json", "Ada")
    assert first.origin is not None
    assert (first.added, first.known, first.origin.who, first.origin.file) == (3, 0, "Ada", "runs.json")
    again = import_runs(yours, tmp_path / "runs.json", "someone else")
    assert (again.added, again.known) == (0, 3)
    assert runs(yours) == [run(7)]
    everything = runs(yours, imported=True)
    assert len(everything) == 4
    assert {one.origin.who for one in everything if one.origin} == {"Ada"}
    assert [replace(one, origin=None) for one in everything if one.origin] == runs(mine)


def test_ones_own_export_imported_again_stays_ones_own(mine: Store, tmp_path: Path) -> None:
    record(mine, RUN)
    export(tmp_path / "runs.json", runs(mine))
    assert import_runs(mine, tmp_path / "runs.json", "Eve").added == 0
    assert runs(mine) == [RUN]


def test_runs_of_others_are_not_passed_on(mine: Store, tmp_path: Path) -> None:
    others = replace(RUN, origin=Origin("Ada", "runs.json", 1.0))
    with pytest.raises(BadInput, match="theirs to pass on"):
        export(tmp_path / "runs.json", [others])
    assert not (tmp_path / "runs.json").exists()


def test_an_export_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "runs.json").write_text("diary")
    with pytest.raises(BadInput, match="exists already"):
        export(tmp_path / "runs.json", [RUN])
    assert (tmp_path / "runs.json").read_text() == "diary"


def test_a_run_is_removed_by_the_beginning_of_its_id(mine: Store) -> None:
    record(mine, RUN)
    record(mine, run(1))
    with pytest.raises(UnknownName, match="unknown run `zz`"):
        remove(mine, "zz")
    with pytest.raises(UnknownName):
        remove(mine, "")
    assert remove(mine, RUN.id[:8]) == RUN
    assert runs(mine) == [run(1)]


@pytest.mark.parametrize("who", ["", "  ", "two\nlines", "\x1b[2J", "x" * 1000])
def test_an_import_states_whose_it_is(mine: Store, tmp_path: Path, who: str) -> None:
    export(tmp_path / "runs.json", [RUN])
    with pytest.raises(BadInput, match="need an origin"):
        import_runs(mine, tmp_path / "runs.json", who)


def _with(*keys: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    """The export with one value of its first run put there."""

    def change(document: dict[str, Any]) -> Any:
        place = document["runs"][0]
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        return document

    return change


def _without(key: str) -> Callable[[dict[str, Any]], Any]:
    def change(document: dict[str, Any]) -> Any:
        del document["runs"][0][key]
        return document

    return change


HOSTILE = {
    "a list": lambda document: [document],
    "another format": lambda document: {**document, "weigh_runs": 2},
    "more keys": lambda document: {**document, "origin": ""},
    "runs no list": lambda document: {**document, "runs": {}},
    "too many runs": lambda document: {**document, "runs": [0] * (MOST_RUNS + 1)},
    "a run is a number": lambda document: {**document, "runs": [7]},
    "no model": _without("model"),
    "an origin of its own": _with("origin", value=""),
    "a time after 2100": _with("when_unix_s", value=1e12),
    "a name of a page": _with("model", value="x" * 100_000),
    "escapes": _with("model", value="\x1b]0;owned\x07"),
    "two lines": _with("machine", "cpu", value="a\nb"),
    "right to left": _with("engine", "version", value="1\u202e2"),
    "half a letter": _with("family", value="\ud800"),
    "kind unknown": _with("kind", value="dreamt"),
    "a text for a number": _with("noise", value="0.1"),
    "true for a number": _with("noise", value=True),
    "endless": _with("noise", value=1e999),
    "below nought": _with("load_s", "measured", value=[-1.0]),
    "nought": _with("decode_tokens_per_s", "measured", value=[0]),
    "next to nought": _with("decode_tokens_per_s", "measured", value=[5e-324]),
    "a number without end": _with("decode_tokens_per_s", "measured", value=[10**400]),
    "a million samples": _with("decode_tokens_per_s", "measured", value=[1.0] * 100_000),
    "a formula of nought": _with("formula_version", value=0),
    "a formula in words": _with("formula_version", value="1"),
    "tokens in part": _with("workload", "prompt_tokens", value=1.5),
    "tokens beyond all": _with("workload", "prompt_tokens", value=1 << 40),
    "no sequences": _with("settings", "parallel", value=0),
    "settings no object": _with("settings", value=[]),
    "outside its interval": _with("load_s", "estimated", "low", value=3.5),
    "another unit": _with("load_s", "estimated", "unit", value="hours"),
    "basis unknown": _with("load_s", "estimated", "basis", value="revelation"),
    "more in a figure": _with("load_s", "estimated", "source", value="x"),
    "GPUs are a text": _with("machine", "gpus", value="RTX"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_export_is_refused_whole(mine: Store, tmp_path: Path, name: str) -> None:
    document = {"weigh_runs": 1, "runs": [run(1).to_json(), run(2).to_json()]}
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(HOSTILE[name](document)))
    with pytest.raises(BadFile) as refused:
        import_runs(mine, path, "Mallory")
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 500
    assert runs(mine, imported=True) == []


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"{", b'{"weigh_runs": 1, "runs": [' + b"[" * 100_000, b'{"a":1,"a":1}']
)
def test_what_is_no_json_is_refused(mine: Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "runs.json").write_bytes(content)
    with pytest.raises(BadFile):
        import_runs(mine, tmp_path / "runs.json", "Mallory")


def test_folders_absent_files_and_giants_are_refused(mine: Store, tmp_path: Path) -> None:
    giant = tmp_path / "giant.json"
    with giant.open("wb") as file:
        file.truncate(1 << 40)
    for path, says in ((tmp_path, "is a folder"), (tmp_path / "no", "No such file"), (giant, "larger than")):
        with pytest.raises(BadFile, match=says):
            import_runs(mine, path, "Mallory")


def test_whole_numbers_are_as_good_as_fractions(mine: Store, tmp_path: Path) -> None:
    """Another program may write 12 for 12.0: it is the same run."""
    text = json.dumps({"weigh_runs": 1, "runs": [RUN.to_json()]}).replace("12.0", "12")
    (tmp_path / "runs.json").write_text(text)
    record(mine, RUN)
    assert import_runs(mine, tmp_path / "runs.json", "Ada").known == 1


def test_an_export_of_before_formulas_were_counted_is_taken_in(mine: Store, tmp_path: Path) -> None:
    old = RUN.to_json()
    del old["formula_version"]
    (tmp_path / "runs.json").write_text(json.dumps({"weigh_runs": 1, "runs": [old]}))
    assert import_runs(mine, tmp_path / "runs.json", "Ada").added == 1
    (taken,) = runs(mine, imported=True)
    assert replace(taken, origin=None) == replace(RUN, formula_version=None)


# --- the file --------------------------------------------------------------------------------------------


def _record_many(path: Path, first: int, count: int) -> None:
    for number in range(first, first + count):
        record(Store(path), run(number))


def test_two_weighs_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weigh.db"
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=_record_many, args=(path, first, 20)) for first in (0, 10)]
    for one in both:
        one.start()
    for one in both:
        one.join()
        assert one.exitcode == 0
    assert len(runs(Store(path))) == 30  # ten of them were recorded by both


def _old_store(path: Path) -> None:
    """As the first version of weigh left it, with a calibration and two measurements."""
    db = sqlite3.connect(path)
    db.execute(
        "CREATE TABLE calibration (id INTEGER PRIMARY KEY, created_unix_s REAL NOT NULL,"
        " fingerprint TEXT NOT NULL, engine TEXT NOT NULL, engine_version TEXT NOT NULL, body TEXT NOT NULL)"
    )
    db.execute(
        "CREATE TABLE measurement (id INTEGER PRIMARY KEY, created_unix_s REAL NOT NULL,"
        " fingerprint TEXT NOT NULL, engine TEXT NOT NULL, engine_version TEXT NOT NULL,"
        " model TEXT NOT NULL, quantization TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL)"
    )
    db.execute(
        "INSERT INTO calibration (created_unix_s, fingerprint, engine, engine_version, body)"
        " VALUES (1, 'f00d', 'llama.cpp', '1', ?)",
        (json.dumps(CALIBRATION.to_json()),),
    )
    body = {
        "prompt_tokens": 32,
        "output_tokens": 8,
        "depth_tokens": 0,
        "context_tokens": 512,
        "estimated_prefill_tokens_per_s": 100.0,
        "estimated_decode_tokens_per_s": 10.0,
        "prefill_tokens_per_s": [90.0, 80],
        "decode_tokens_per_s": [8.0],
        "load_s": 0.5,
        "peak_memory_bytes": 123456789,
        "noise": 0,
    }
    unknown = body | {"estimated_prefill_tokens_per_s": None, "estimated_decode_tokens_per_s": None}
    for when, one in ((10.5, json.dumps(body)), (20.5, json.dumps(unknown)), (30.5, "not ours")):
        db.execute(
            "INSERT INTO measurement (created_unix_s, fingerprint, engine, engine_version, model, quantization,"
            " kind, body) VALUES (?, 'f00d', 'llama.cpp', '1', 'small', 'Q8_0', 'test-driven', ?)",
            (when, one),
        )
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()


def test_an_old_store_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "weigh.db"
    _old_store(path)
    store = Store(path)
    unknown, known = runs(store)
    assert known.when_unix_s == 10.5
    assert (known.model, known.quantization, known.kind) == ("small", "Q8_0", Kind.TEST_DRIVEN)
    assert (known.formula_version, unknown.formula_version) == (None, None)
    assert known.decode_tokens_per_s.error == pytest.approx(0.25)
    assert known.decode_tokens_per_s.inside is None  # the interval was not kept
    assert known.prefill_tokens_per_s.measured == (90.0, 80.0)
    assert known.peak_memory_bytes.value == 123456789
    assert (known.family, known.cpu, known.threads, known.parallel, known.kv_type_k) == (
        "",
        "",
        None,
        None,
        "",
    )
    assert unknown.decode_tokens_per_s.error is None
    assert store.calibration("f00d", "llama.cpp", "1") is None  # measured by another formula: made again
    assert learned(store, "f00d", "llama.cpp", "1") is None
    export(tmp_path / "runs.json", runs(store))
    assert import_runs(store, tmp_path / "runs.json", "me").added == 0
    remove(store, known.id)
    assert runs(store) == [unknown]


def _count(path: Path) -> None:
    assert len(runs(Store(path))) == 2


def test_two_weighs_at_once_bring_it_up_to_date_once(tmp_path: Path) -> None:
    path = tmp_path / "weigh.db"
    _old_store(path)
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=_count, args=(path,)) for _ in range(3)]
    for one in both:
        one.start()
    for one in both:
        one.join()
        assert one.exitcode == 0


def test_rows_of_another_version_are_passed_over(mine: Store) -> None:
    record(mine, RUN)
    record(mine, run(1))
    db = sqlite3.connect(mine.path)
    db.execute("UPDATE run SET body = '{}' WHERE id = ?", (RUN.id,))
    db.commit()
    db.close()
    assert runs(mine) == [run(1)]


# --- accuracy --------------------------------------------------------------------------------------------


def _missed(number: int, error: float, **changes: Any) -> Run:
    figure = Figure.within(10.0 * (1 + error), 0.2, "tokens/s", Basis.CALIBRATED)
    return run(number, decode_tokens_per_s=replace(RUN.decode_tokens_per_s, estimated=figure), **changes)


def test_accuracy_sums_up_by_hand() -> None:
    errors = (0.1, -0.1, 0.15, 0.3, 0.05, 0.1, 0.1, 0.1, 0.1, -0.5)
    (group,) = accuracy([_missed(number, error) for number, error in enumerate(errors)])
    decode = group.errors[0]
    assert (group.origin, decode.quantity, decode.runs) == ("", "decode_tokens_per_s", 10)
    assert decode.median == pytest.approx(0.1)
    assert decode.ninth_tenth == pytest.approx(0.3)  # nine of ten miss by no more
    assert decode.bias == pytest.approx(0.1)
    assert decode.uncorrected == pytest.approx(0.2)
    assert (decode.inside, decode.intervals) == (8, 10)  # a fifth either way leaves out 0.3 and -0.5


def test_accuracy_never_mixes_origins() -> None:
    ada = Origin("Ada", "runs.json", 1.0)
    groups = accuracy([_missed(0, 0.5, origin=ada), _missed(1, 0.1), _missed(2, 0.1)], "family")
    assert [(group.origin, group.name, group.runs) for group in groups] == [
        ("", "llama", 2),
        ("Ada", "llama", 1),
    ]
    assert groups[0].errors[0].median == pytest.approx(0.1)


def test_accuracy_groups_by_each_thing() -> None:
    other = run(
        1,
        fingerprint="beef",
        engine_version="2",
        formula_version=None,
        family="",
        quantization="Q8_0",
        kind=Kind.TRUNCATED,
    )
    for by in GROUPINGS:
        assert len(accuracy([RUN, other], by)) == 2
    assert [group.name for group in accuracy([RUN, other], "family")] == ["llama", "unknown"]


# --- what is learned from --------------------------------------------------------------------------------


def test_only_own_full_runs_of_this_machine_and_engine_teach(
    mine: Store, yours: Store, tmp_path: Path
) -> None:
    def lessons() -> int:
        found = learned(mine, "f00d", "llama.cpp", "1")
        return len(found.lessons) if found else 0

    record(yours, run(1))
    export(tmp_path / "runs.json", runs(yours))
    import_runs(mine, tmp_path / "runs.json", "Ada")
    record(mine, run(2, kind=Kind.TRUNCATED))
    record(mine, run(3, fingerprint="beef"))
    record(mine, run(4, engine_version="2"))
    record(mine, run(6, formula_version=None))
    record(mine, run(7, formula_version=FORMULA_VERSION + 1))
    sheet = Figure(12.0, 10.0, 14.4, "tokens/s", Basis.SPEC_SHEET)
    seen = replace(RUN.decode_tokens_per_s, uncorrected=sheet)
    record(mine, run(5, decode_tokens_per_s=seen, prefill_tokens_per_s=NOT_MEASURED))
    assert lessons() == 0
    record(mine, RUN)
    assert lessons() == 1


def test_what_is_learned_is_the_miss_of_the_uncorrected_estimate(mine: Store) -> None:
    record(mine, RUN)
    found = learned(mine, "f00d", "llama.cpp", "1")
    assert found is not None
    (lesson,) = found.lessons
    assert lesson.decode is not None
    assert lesson.decode.log_ratio == pytest.approx(math.log(10 / 12))
    assert lesson.decode.half_width == pytest.approx(math.log(14.4 / 12))
