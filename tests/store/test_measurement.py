"""Measurements are durable before they are shown, and none is lost silently."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.store.runs import RUN
from tests.store.samples import BENCH, bench
from weigh.errors import NotKept
from weigh.figure import Basis
from weigh.median import interval_confidence, median_interval
from weigh.store import Store
from weigh.store.exchange import take_in
from weigh.store.fields import MOST_DEPTH, MOST_LETTERS
from weigh.store.journal import is_local, wal_is_safe
from weigh.store.ledger import record, runs
from weigh.store.measurement import (
    Event,
    Measured,
    Measurement,
    document,
    events,
    measurements,
    save,
    save_event,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "weigh.db")


# --- the interval of a median ----------------------------------------------------------------------------


def _held(samples: int, rank: int) -> float:
    """P(the median lies between ranks r and n + 1 - r), counted out."""
    below: int = sum(math.comb(samples, k) for k in range(rank))
    return float(1 - 2 * Fraction(below, 2**samples))


@pytest.mark.parametrize("samples", [4, 5, 7, 10, 11, 30, 101, 1000])
def test_the_interval_is_the_narrowest_that_holds_the_median_that_surely(samples: int) -> None:
    low, high = median_interval(range(1, samples + 1))
    assert high == samples + 1 - low
    rank = int(low)
    assert interval_confidence(samples) == pytest.approx(_held(samples, rank), abs=1e-9)
    assert _held(samples, rank) >= 0.8 > _held(samples, rank + 1)


def test_few_samples_give_the_widest_there_is_and_say_how_sure_it_is() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert interval_confidence(3) == pytest.approx(0.75)
    assert median_interval([7.0]) == (7.0, 7.0)
    assert interval_confidence(1) == 0.0
    with pytest.raises(ValueError, match="no samples"):
        median_interval([])


def test_a_figure_is_the_median_with_its_interval() -> None:
    figure = Measured("ttft_s", "s", (1.0, 9.0, 2.0, 3.0)).figure
    assert (figure.value, figure.low, figure.high, figure.unit) == (2.5, 1.0, 9.0, "s")
    assert figure.basis is Basis.MEASURED


@pytest.mark.parametrize("samples", [(), (math.nan,), (math.inf,), (-1.0,), (1.0, 1e300)])
def test_what_is_no_sample_is_refused_at_once(samples: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="sample"):
        Measured("ttft_s", "s", samples)


# --- keeping ---------------------------------------------------------------------------------------------


def test_a_measurement_comes_back_as_it_was_saved(store: Store) -> None:
    assert save(store, BENCH) == BENCH.id
    assert measurements(store) == [BENCH]


def test_the_newest_is_first_and_those_of_a_model_can_be_asked_for(store: Store) -> None:
    for number, model in enumerate(("org/A-1B", "org/B-2B", "org/A-3B")):
        save(store, bench(number, model=model))
    assert [one.model for one in measurements(store, limit=2)] == ["org/A-3B", "org/B-2B"]
    assert [one.model for one in measurements(store, "a-")] == ["org/A-3B", "org/A-1B"]
    assert [one.model for one in measurements(store, "a-1b:q4_k_m")] == ["org/A-1B"]
    assert measurements(store, "a-1b:q8_0") == []


def test_saved_twice_it_is_one(store: Store) -> None:
    save(store, BENCH)
    save(store, BENCH)
    assert len(measurements(store)) == 1


def test_names_of_any_letters_and_length_are_kept_as_far_as_they_can_be_shown(store: Store) -> None:
    odd = bench(model="evil\x1b[2J\u202e" + "x" * 1000, command=("a\nb", ""), problems=("two\nlines",))
    save(store, odd)
    (found,) = measurements(store)
    assert found.model.startswith("evil?[2J?x")
    assert len(found.model) == MOST_LETTERS
    assert found.command == ("a?b", "")
    assert found.id == odd.id


def test_a_command_does_not_name_the_user(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    ours = bench(command=("llama-server", "--model=/home/ada/models/a.gguf"))
    save(store, ours)
    (found,) = measurements(store)
    assert found.command == ("llama-server", "--model=~/models/a.gguf")
    assert found.id == ours.id


def test_events_come_back_newest_first(store: Store) -> None:
    assert events(store) == []
    first = Event(1.0, "warned", "memory at 91 % of 23.5 GiB", {"pid": 7})
    last = Event(2.0, "paused", "process 7 paused", {})
    save_event(store, first)
    save_event(store, last)
    assert events(store) == [last, first]
    assert events(store, limit=1) == [last]


def test_asking_an_absent_store_creates_nothing(store: Store) -> None:
    assert measurements(store) == []
    assert not store.path.exists()


def test_rows_of_another_version_are_passed_over(store: Store) -> None:
    for number in range(3):
        save(store, bench(number))
    db = sqlite3.connect(store.path)
    db.execute("UPDATE measurement SET body = '{}' WHERE id = ?", (BENCH.id,))
    db.execute("UPDATE measurement SET raw = 'x' WHERE id = ?", (bench(1).id,))
    db.commit()
    db.close()
    assert measurements(store) == [bench(2)]


# --- what others may send --------------------------------------------------------------------------------


def _with(*keys: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(one: dict[str, Any]) -> Any:
        place: Any = one
        for key in keys[:-1]:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[keys[-1]] = value
        return one

    return change


def _deep(levels: int) -> dict[str, Any]:
    return {"deeper": _deep(levels - 1)} if levels else {}


HOSTILE = {
    "a list": lambda one: [one],
    "no model": lambda one: {key: value for key, value in one.items() if key != "model"},
    "an origin of its own": _with("origin", value=""),
    "kind unknown": _with("kind", value="dream"),
    "a time after 2100": _with("when_unix_s", value=1e12),
    "escapes": _with("model", value="\x1b]0;owned\x07"),
    "a name of a page": _with("engine", "name", value="x" * 100_000),
    "a command that is a text": _with("engine", "command", value="rm"),
    "a size that is a fraction": _with("file_bytes", value=1.5),
    "settings with a list": _with("settings", "threads", value=[1]),
    "settings without end": _with("settings", value={str(n): n for n in range(1000)}),
    "endless settings": _with("settings", "threads", value=math.inf),
    "no samples": _with("measured", "0", "samples", value=[]),
    "a sample below nought": _with("measured", "0", "samples", value=[-1.0]),
    "a sample that is true": _with("measured", "0", "samples", value=[True]),
    "an endless sample": _with("measured", "0", "samples", value=[1e999]),
    "a sample of 400 digits": _with("measured", "0", "samples", value=[10**400]),
    "samples that are a text": _with("measured", "0", "samples", value="1"),
    "more of a quantity": _with("measured", "0", "figure", value=1),
    "quantities that are numbers": _with("measured", value=[1]),
    "a name that is no text": _with("measured", "0", "name", value=1),
    "noise below nought": _with("noise", value=-1),
    "raw events that are a list": _with("raw", value=[]),
    "raw events too deep": _with("raw", value=_deep(MOST_DEPTH + 1)),
    "an endless raw event": _with("raw", value={"t": [1e999]}),
    "problems that are numbers": _with("problems", value=[1]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_measurement_is_refused_in_few_words(name: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        Measurement.from_json(HOSTILE[name](json.loads(json.dumps(BENCH.to_json()))))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


# --- the file --------------------------------------------------------------------------------------------


def _save_many(path: Path, first: int) -> None:
    for number in range(first, first + 200):
        save(Store(path), bench(number))


def test_two_weighs_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weigh.db"
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=_save_many, args=(path, first)) for first in (0, 1000)]
    for one in both:
        one.start()
    for one in both:
        one.join()
        assert one.exitcode == 0
    assert len(measurements(Store(path))) == 400
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_what_a_killed_weigh_was_told_is_kept_is_there(tmp_path: Path) -> None:
    path = tmp_path / "weigh.db"
    code = """
        import sys
        from pathlib import Path
        from tests.store.samples import bench
        from weigh.store import Store
        from weigh.store.measurement import save

        for number in range(100_000):
            print(save(Store(Path(sys.argv[1])), bench(number)), flush=True)
    """
    saver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
    )
    assert saver.stdout is not None
    told = [saver.stdout.readline().strip() for _ in range(50)]
    saver.kill()  # most likely inside a transaction
    told += saver.communicate()[0].splitlines()
    assert saver.returncode == -signal.SIGKILL
    assert {one.id for one in measurements(Store(path))} >= {line for line in told if len(line) == 16}
    save(Store(path), bench(-1))  # and it goes on working


def test_the_journal_is_one_that_this_library_keeps_safely(store: Store) -> None:
    safe = wal_is_safe(sqlite3.sqlite_version_info) and is_local(store.path)
    with store.open() as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == ("wal" if safe else "delete")
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 3  # EXTRA


def test_a_write_ahead_log_left_by_a_newer_library_is_given_up_where_it_is_not_safe(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weigh.store.journal.wal_is_safe", lambda version: True)
    monkeypatch.setattr("weigh.store.journal.is_local", lambda path: True)
    save(store, bench(1))
    with store.open() as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    monkeypatch.setattr("weigh.store.journal.wal_is_safe", lambda version: False)
    save(store, bench(2))
    with store.open() as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
    assert measurements(store) == [bench(2), bench(1)]


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 53, 0), True),
    ],
)
def test_versions_with_the_wal_reset_bug_get_no_write_ahead_log(version: tuple[int, ...], safe: bool) -> None:
    assert wal_is_safe(version) is safe


def test_a_file_on_the_network_is_not_local(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mounts").write_text(
        "/dev/sda / ext4 rw 0 0\nserver:/home /net nfs4 rw 0 0\n//nas/x /my\\040disk cifs rw 0 0\nodd\n"
    )
    assert is_local(Path("/data/weigh.db"), tmp_path)
    assert not is_local(Path("/net/ada/weigh.db"), tmp_path)
    assert not is_local(Path("/my disk/weigh.db"), tmp_path)
    assert not is_local(Path("/data/weigh.db"), tmp_path / "nothing")


# --- no room ---------------------------------------------------------------------------------------------

_SAVER = """
import os, resource, sys, tempfile
from pathlib import Path
from tests.store.samples import bench
from weigh.errors import NotKept
from weigh.store import Store
from weigh.store.measurement import save

tempfile.tempdir = str(Path.cwd())
store, limit = Store(Path(sys.argv[1])), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for number in range(10_000):
    try:
        save(store, bench(number, raw={"t_s": [0.1] * 20_000, "noise": os.urandom(20_000).hex()}))
    except NotKept as error:
        print(number, error.path, error.message, sep="\\n")
        break
"""


def _fill(store: Path, here: Path, limit: int = 0) -> tuple[int, str, str]:
    """Save until nothing more goes in: how many went in, where the next is, and what was said."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_SAVER), str(store), str(limit)],
        capture_output=True,
        text=True,
        check=True,
        cwd=here,
        env={
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TMPDIR": str(here / "no such folder"),
            "PATH": "",
        },
    )
    number, path, message = done.stdout.splitlines()
    return int(number), path, message


def test_a_store_that_may_not_grow_keeps_what_it_has_and_the_next_goes_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "weigh.db"
    kept, aside, message = _fill(path, tmp_path, limit=400_000)
    assert kept > 2
    assert "the store cannot be used" in message
    assert aside in message
    assert len(measurements(Store(path))) == kept
    (lost,) = json.loads(Path(aside).read_text())["measurements"]
    assert Measurement.from_json(lost).when_unix_s == BENCH.when_unix_s + kept


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("no leave to make a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_on_a_full_disk_nothing_stored_is_lost_and_the_next_goes_to_a_file(
    tiny_disk: Path, tmp_path: Path
) -> None:
    kept, aside, message = _fill(tiny_disk / "weigh.db", tmp_path)
    assert kept > 2
    assert "full" in message
    assert Path(aside).parent == tmp_path
    assert len(measurements(Store(tiny_disk / "weigh.db"))) == kept


def test_without_room_anywhere_the_measurement_is_handed_back(tiny_disk: Path) -> None:
    kept, aside, message = _fill(tiny_disk / "weigh.db", tiny_disk)
    assert kept > 2
    assert aside == "None"
    assert "not on the disk" in message
    assert [file.name for file in tiny_disk.iterdir()] == ["weigh.db"]  # no part of a file either
    assert len(measurements(Store(tiny_disk / "weigh.db"))) == kept


def test_a_test_drive_that_could_not_be_kept_comes_back_too(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotKept) as refused:
        record(Store(tmp_path / "file" / "weigh.db"), RUN)
    assert refused.value.path is not None
    store = Store(tmp_path / "weigh.db")
    take_in(store, refused.value.path, "", own=True)
    assert runs(store) == [RUN]


def test_what_could_not_be_kept_names_the_store_in_one_line(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotKept) as refused:
        save(Store(tmp_path / "file" / "weigh.db"), BENCH)
    assert refused.value.message.isprintable()
    assert refused.value.document == document([BENCH])
    assert refused.value.path == tmp_path / f"weigh-{BENCH.id}.json"
