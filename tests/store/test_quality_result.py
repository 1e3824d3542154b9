"""Measured quality is durable before it is shown, travels whole, and is refused whole when it is odd."""

from __future__ import annotations

import json
import math
import multiprocessing
import sqlite3
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.store.quality import DIVERGED, MODEL, ON_CODE, ON_TASKS, figure, later
from weigh.errors import BadFile, BadInput, NotKept
from weigh.store import Store
from weigh.store.exchange import as_csv, as_markdown, export, take_in
from weigh.store.ledger import remove
from weigh.store.quality_result import QualityResult, Way, document, quality_results, save

EVERY = (ON_TASKS, ON_CODE, DIVERGED)  # newest first


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "weigh.db")


def test_what_is_saved_comes_back_as_it_was(store: Store) -> None:
    assert quality_results(store) == []
    save(store, EVERY)
    save(store, EVERY)  # once is enough
    assert quality_results(store, pieces=True) == list(EVERY)
    assert quality_results(store) == [replace(one, pieces=()) for one in EVERY]


def test_an_end_beyond_all_bounds_is_one_that_is_not_known(store: Store) -> None:
    wide = replace(DIVERGED.measures[0], figure=figure(9.0, 1.0, 1.7e308, "perplexity"))
    save(store, [later(DIVERGED, 1, measures=(wide,))])
    (found,) = quality_results(store)
    assert found.measures[0].figure.high == math.inf


def test_results_are_picked_by_model_way_and_file(store: Store) -> None:
    other = later(
        ON_CODE, 10, model=replace(MODEL, name="Other-3B", quantization="Q8_0", fingerprint="0" * 16)
    )
    save(store, [*EVERY, other])
    assert quality_results(store, "model-1b:q4_k_m", way=Way.TASKS, pieces=True) == [ON_TASKS]
    assert quality_results(store, "model-1b:q8_0") == []
    assert [one.id for one in quality_results(store, fingerprint="0" * 16)] == [other.id]
    assert len(quality_results(store, catalog_id=MODEL.catalog_id)) == 4
    assert quality_results(store, catalog_id="Qwen/Qwen2.5") == []
    assert [one.id for one in quality_results(store, limit=1)] == [other.id]
    stranger = later(ON_CODE, 20, model=replace(MODEL, catalog_id=""))
    save(store, [stranger])
    assert len(quality_results(store)) == 5
    assert stranger not in quality_results(store, of_catalog=True, pieces=True)


def _save_many(path: Path, first: int) -> None:
    for number in range(first, first + 50):
        save(Store(path), [later(ON_TASKS, number)])


def test_two_weighs_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weigh.db"
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_save_many, args=(path, first)) for first in (0, 1000)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
        assert one.exitcode == 0
    assert len(quality_results(Store(path))) == 100


def test_a_store_that_cannot_be_written_leaves_a_file_that_comes_back(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotKept) as error:
        save(Store(Path("/proc/weigh.db")), EVERY)
    assert error.value.path is not None
    assert take_in(store, error.value.path, "", own=True).results == 3
    assert quality_results(store, pieces=True) == list(EVERY)


def test_an_export_is_imported_once_and_stays_apart(store: Store, tmp_path: Path) -> None:
    export(tmp_path / "all.json", [], [], EVERY)
    assert set(json.loads((tmp_path / "all.json").read_text())) == {"weigh_quality", "quality"}
    taken = take_in(store, tmp_path / "all.json", "Ada")
    assert (taken.results, taken.added, taken.known) == (3, 3, 0)
    assert quality_results(store) == []
    found = quality_results(store, imported=True, pieces=True)
    assert {one.origin and one.origin.who for one in found} == {"Ada"}
    assert [replace(one, origin=None) for one in found] == list(EVERY)
    assert take_in(store, tmp_path / "all.json", "Bob").known == 3
    with pytest.raises(BadInput, match="theirs to pass on"):
        export(tmp_path / "again.json", [], [], found)


def test_tables_have_a_row_for_each_figure() -> None:
    lines = as_csv([], EVERY).splitlines()
    assert len(lines) == 1 + sum(len(one.measures) for one in EVERY)
    (unknown,) = (line for line in lines if ",perplexity," in line)
    assert ",9.5,,,2," in unknown  # no interval is none, not a wide one
    assert "against=Model-1B:F16" in unknown
    assert len(as_markdown([], EVERY).splitlines()) == len(lines) + 1


def test_a_result_is_forgotten_by_the_beginning_of_its_id(store: Store) -> None:
    save(store, EVERY)
    gone = remove(store, ON_CODE.id[:8])
    assert isinstance(gone, QualityResult)
    assert gone == ON_CODE
    assert len(quality_results(store)) == 2


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE quality SET body = '[]' WHERE way = 'tasks'",
        "UPDATE quality SET body = replace(body, '\"share\"', '7') WHERE way = 'tasks'",
        "UPDATE quality SET pieces = x'00' WHERE way = 'tasks'",
    ],
)
def test_a_row_that_is_odd_is_left_out(store: Store, damage: str) -> None:
    save(store, EVERY)
    db = sqlite3.connect(store.path)
    with db:
        assert db.execute(damage).rowcount == 1
    db.close()
    assert quality_results(store, pieces=True) == [ON_CODE, DIVERGED]


def _piece(document: dict[str, Any], place: int, value: object) -> None:
    document["pieces"][0][place] = value


ODD: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another way": (lambda d: d.update(way="guessed"), "none of text, windows"),
    "a key more": (lambda d: d.update(password="x"), "no key of a quality result"),
    "no model": (lambda d: d.pop("model"), "`model` is missing"),
    "letters that move the cursor": (lambda d: d["model"].update(name="\x1b[2J"), "not printable"),
    "outside its interval": (lambda d: d["measures"][0].update(value=2), "not inside its own interval"),
    "no number": (lambda d: d["measures"][0].update(value=float("nan")), "is not JSON"),
    "pieces of another way": (lambda d: d.update(way="text"), "is not file, part, block"),
    "a text for a number": (lambda d: _piece(d, 4, "many"), "its samples is no whole number"),
    "a huge number": (lambda d: _piece(d, 5, 10**40), "no number of at most"),
    "a yes for a number": (lambda d: _piece(d, 5, True), "its passed is no whole number"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_file_with_one_odd_result_is_refused_whole_in_one_line(
    name: str, store: Store, tmp_path: Path
) -> None:
    change, said = ODD[name]
    odd = ON_TASKS.to_json()
    change(odd)
    path = tmp_path / "odd.json"
    path.write_text(json.dumps({"weigh_quality": 1, "quality": [ON_CODE.to_json(), odd]}))
    with pytest.raises(BadFile, match=said) as error:
        take_in(store, path, "Eve")
    assert "\n" not in str(error.value)
    assert "quality 2" in str(error.value) or name == "no number"
    assert quality_results(store, imported=True) == []


def test_pieces_are_kept_small(store: Store) -> None:
    many = later(ON_TASKS, 1, pieces=ON_TASKS.pieces * 500)
    save(store, [many])
    db = sqlite3.connect(store.path)
    ((packed,),) = db.execute("SELECT pieces FROM quality").fetchall()
    db.close()
    assert len(packed) < len(json.dumps(document([many]))) / 20
    assert len(json.loads(zlib.decompress(packed))) == 1000
