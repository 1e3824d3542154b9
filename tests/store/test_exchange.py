"""Measurements travel as files; those of other programs are recognised, and hostile ones refused whole."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.store.runs import RUN, run
from tests.store.samples import BENCH, bench
from weigh.errors import BadFile, BadInput, NotSupported, UnknownName
from weigh.store import Store
from weigh.store.exchange import COLUMNS, as_csv, as_markdown, export, take_in
from weigh.store.ledger import record, remove, runs
from weigh.store.measurement import Measured, Measurement, document, measurements, save

FOREIGN = Path(__file__).with_name("foreign")  # written by the programs themselves; docs/store.md


@pytest.fixture
def mine(tmp_path: Path) -> Store:
    return Store(tmp_path / "mine.db")


@pytest.fixture
def yours(tmp_path: Path) -> Store:
    return Store(tmp_path / "yours.db")


# --- our own ---------------------------------------------------------------------------------------------


def test_an_export_is_imported_once_and_stays_apart(mine: Store, yours: Store, tmp_path: Path) -> None:
    save(mine, BENCH)
    record(mine, RUN)
    export(tmp_path / "all.json", runs(mine), measurements(mine))
    taken = take_in(yours, tmp_path / "all.json", "Ada")
    assert (taken.format, taken.runs, taken.measurements, taken.known) == ("weigh", 1, 1, 0)
    assert measurements(yours) == []
    (found,) = measurements(yours, imported=True)
    assert found.origin is not None
    assert (found.origin.who, found.origin.file) == ("Ada", "all.json")
    assert replace(found, origin=None) == BENCH
    assert take_in(yours, tmp_path / "all.json", "someone else").known == 2
    with pytest.raises(BadInput, match="theirs to pass on"):
        export(tmp_path / "again.json", [], measurements(yours, imported=True))


def test_measurements_alone_and_runs_alone_are_files_too(mine: Store, yours: Store, tmp_path: Path) -> None:
    export(tmp_path / "runs.json", [run(1)])
    export(tmp_path / "measurements.json", [], [BENCH])
    assert set(json.loads((tmp_path / "runs.json").read_text())) == {"weigh_runs", "runs"}
    assert take_in(yours, tmp_path / "runs.json", "Ada").added == 1
    assert take_in(yours, tmp_path / "measurements.json", "Ada").added == 1


def test_what_was_written_aside_comes_back_as_ones_own(mine: Store, tmp_path: Path) -> None:
    (tmp_path / "aside.json").write_text(json.dumps(document([BENCH])))
    assert take_in(mine, tmp_path / "aside.json", "", own=True).origin is None
    assert measurements(mine) == [BENCH]


def test_what_another_program_wrote_is_never_silently_ones_own(mine: Store) -> None:
    with pytest.raises(BadInput, match="was written by llama-bench"):
        take_in(mine, FOREIGN / "llama_bench.json", "", own=True)
    with pytest.raises(BadInput, match="need an origin"):
        take_in(mine, FOREIGN / "llama_bench.json", "")
    assert measurements(mine, imported=True) == []


def test_csv_has_a_row_for_each_quantity_and_no_formulas() -> None:
    odd = bench(model='=HYPERLINK("x")', problems=("a, b", "c"))
    rows = list(csv.DictReader(io.StringIO(as_csv([odd]))))
    assert [row["quantity"] for row in rows] == [one.name for one in BENCH.measured]
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["model"] == '\'=HYPERLINK("x")'
    assert (rows[0]["value"], rows[0]["samples"], rows[0]["conditions"]) == ("11.0", "5", "depth_tokens=0")
    assert (rows[0]["low"], rows[0]["high"]) == ("10.0", "12.0")
    assert rows[0]["problems"] == "a, b; c"
    assert rows[0]["when_utc"] == "2026-09-21T14:13:20Z"


def test_markdown_is_one_table_whatever_the_names() -> None:
    lines = as_markdown([bench(model="a|b<script>")]).splitlines()
    assert len(lines) == 2 + len(BENCH.measured)
    assert "a\\|b&lt;script>:Q4_K_M" in lines[2]
    assert "11 | 10 to 12 | 5 |" in lines[2]


def test_an_export_overwrites_nothing_and_says_which_endings_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("diary")
    with pytest.raises(BadInput, match="exists already"):
        export(tmp_path / "a.csv", [], [BENCH])
    assert (tmp_path / "a.csv").read_text() == "diary"
    with pytest.raises(BadInput, match="JSON, CSV or Markdown"):
        export(tmp_path / "a.xlsx", [], [BENCH])


def test_a_measurement_is_removed_by_the_beginning_of_its_id(mine: Store) -> None:
    save(mine, BENCH)
    record(mine, RUN)
    with pytest.raises(UnknownName):
        remove(mine, "zz")
    assert remove(mine, BENCH.id[:10]) == BENCH
    assert (measurements(mine), runs(mine)) == ([], [RUN])


# --- of other programs -----------------------------------------------------------------------------------


def _only(store: Store, file: str, program: str) -> Measurement:
    taken = take_in(store, FOREIGN / file, "Ada")
    assert (taken.format, taken.measurements, taken.known) == (program, 1, 0)
    (found,) = measurements(store, imported=True)
    return found


def _of(found: Measurement, name: str, **at: Any) -> Measured:
    (one,) = [m for m in found.measured if m.name == name and at.items() <= m.conditions.items()]
    return one


@pytest.mark.parametrize("file", ["llama_bench.json", "llama_bench.jsonl"])
def test_llama_bench_gives_its_samples(mine: Store, file: str) -> None:
    found = _only(mine, file, "llama-bench")
    assert (found.kind, found.name, found.family) == ("bench", "tiny:Q4_K_M", "llama")
    assert (found.engine, found.engine_version, found.cpu) == ("llama.cpp", "b11669 (Debian)", "AMD EPYC")
    assert found.settings["threads"] == 1
    assert found.settings["kv_type_k"] == "f16"
    decode = _of(found, "decode_tokens_per_s", depth_tokens=128)
    assert decode.conditions["output_tokens"] == 16
    assert len(decode.samples) == 3
    first = json.loads((FOREIGN / file).read_text().splitlines()[0]) if file.endswith("l") else None
    written = first or json.loads((FOREIGN / file).read_text())[0]
    prefill = _of(found, "prefill_tokens_per_s", depth_tokens=0)
    assert prefill.samples == tuple(written["samples_ts"])
    assert _of(found, "tokens_per_s", depth_tokens=0).conditions["prompt_tokens"] == 64


def test_llama_bench_csv_gives_means_and_says_so(mine: Store) -> None:
    found = _only(mine, "llama_bench.csv", "llama-bench")
    decode = _of(found, "decode_tokens_per_s", depth_tokens=0)
    assert decode.conditions["statistic"] == "mean"
    assert decode.samples == (1044.831342,)


@pytest.mark.parametrize("file", ["llama_bench.md", "llama_bench.sql"])
def test_llama_bench_tables_are_recognised_and_refused(mine: Store, file: str) -> None:
    with pytest.raises(NotSupported) as refused:
        take_in(mine, FOREIGN / file, "Ada")
    assert refused.value.hint == "run it with -o json, jsonl or csv"


def test_llama_bench_of_several_models_is_one_measurement_each(mine: Store, tmp_path: Path) -> None:
    results = json.loads((FOREIGN / "llama_bench.json").read_text())
    other = [{**one, "model_filename": "other-F16.gguf"} for one in results]
    threads = [{**one, "n_threads": 2} for one in results]
    (tmp_path / "all.json").write_text(json.dumps([*results, *other, *threads]))
    assert take_in(mine, tmp_path / "all.json", "Ada").measurements == 3
    assert {one.name for one in measurements(mine, imported=True)} == {"tiny:Q4_K_M", "other:F16"}


def test_guidellm_gives_every_request_and_no_key(mine: Store) -> None:
    found = _only(mine, "guidellm.json", "GuideLLM")
    written = json.loads((FOREIGN / "guidellm.json").read_text())["benchmarks"][0]
    requests = written["requests"]["successful"]
    ttft = _of(found, "ttft_s", clients=2, output_tokens=8)
    assert ttft.samples == pytest.approx([one["time_to_first_token_ms"] / 1000 for one in requests])
    assert len(ttft.samples) == 6
    assert _of(found, "tpot_s").samples[0] == pytest.approx(0.005927801132202148)
    first = requests[0]["info"]["timings"]
    span_s = first["last_token_iteration"] - first["first_token_iteration"]
    assert _of(found, "tpot_s").samples[0] == pytest.approx(span_s / (requests[0]["output_tokens"] - 1))
    assert (found.kind, found.model, found.settings["server"]) == ("load", "tiny", "http://127.0.0.1:18461")
    assert "api_key" not in json.dumps(found.to_json())


def test_secrets_in_an_address_are_not_kept(mine: Store, tmp_path: Path) -> None:
    report = json.loads((FOREIGN / "guidellm.json").read_text())
    backend = report["benchmarks"][0]["config"]["backend"]
    backend["target"], backend["api_key"] = "https://ada:sesame@host/v1?key=sesame", "sesame"
    (tmp_path / "report.json").write_text(json.dumps(report))
    take_in(mine, tmp_path / "report.json", "Ada")
    (found,) = measurements(mine, imported=True)
    assert found.settings["server"] == "https://host/v1"
    assert "sesame" not in json.dumps(found.to_json())


def test_vllm_gives_samples_where_it_saved_them(mine: Store) -> None:
    found = _only(mine, "vllm_detailed.json", "vLLM")
    written = json.loads((FOREIGN / "vllm_detailed.json").read_text())
    samples = [m for m in found.measured if "statistic" not in m.conditions]
    assert [one.name for one in samples[:2]] == ["ttft_s", "itl_s"]
    assert samples[0].samples == tuple(written["ttfts"])
    assert len(samples[1].samples) == sum(map(len, written["itls"]))
    assert samples[0].conditions == {"rate_per_s": 20.0, "most_at_once": 2}


def test_vllm_else_gives_its_percentiles_as_they_stand(mine: Store) -> None:
    found = _only(mine, "vllm.json", "vLLM")
    assert _of(found, "ttft_s", statistic="median").samples == pytest.approx((0.008171745999788982,))
    assert _of(found, "ttft_s", statistic="p99").samples == pytest.approx((0.013344236520351842,))
    assert _of(found, "completed_per_s").samples == (18.907028973178996,)
    assert found.settings["requests_failed"] == 0


# --- hostile files ---------------------------------------------------------------------------------------


def _llama(**changes: Any) -> Callable[[], Any]:
    return lambda: [{**json.loads((FOREIGN / "llama_bench.json").read_text())[0], **changes}]


def _vllm(**changes: Any) -> Callable[[], Any]:
    return lambda: {**json.loads((FOREIGN / "vllm_detailed.json").read_text()), **changes}


def _guide(*keys: str | int, value: Any) -> Callable[[], Any]:
    def made() -> Any:
        report = json.loads((FOREIGN / "guidellm.json").read_text())
        place = report["benchmarks"][0]
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        return report

    return made


HOSTILE: dict[str, Callable[[], Any]] = {
    "nothing": dict,
    "a number": lambda: 7,
    "an empty list": list,
    "a list of lists": lambda: [[]],
    "two programs in one": lambda: [*_llama()(), _vllm()()],
    "another format": lambda: {**document([BENCH]), "weigh_measurements": 2},
    "more keys": lambda: {**document([BENCH]), "origin": ""},
    "a measurement is a number": lambda: {"weigh_measurements": 1, "measurements": [7]},
    "measurements no list": lambda: {"weigh_measurements": 1, "measurements": {}},
    "too many": lambda: {"weigh_measurements": 1, "measurements": [0] * 5001},
    "llama-bench: samples that are texts": _llama(samples_ts=["1"]),
    "llama-bench: no samples": _llama(samples_ts=[]),
    "llama-bench: an endless sample": _llama(samples_ts=[1e999]),
    "llama-bench: tokens below nought": _llama(n_prompt=-1),
    "llama-bench: a build that is a text": _llama(build_number="x"),
    "llama-bench: a name of escapes": _llama(model_filename="\x1b[2J.gguf"),
    "llama-bench: a time that is none": _llama(test_time="yesterday"),
    "llama-bench: a time before time": _llama(test_time="0001-01-01T00:00:00Z"),
    "llama-bench: a setting that is a list": _llama(n_threads=[1]),
    "llama-bench: an endless setting": _llama(n_threads=1e999),
    "llama-bench: nothing described": _llama(model_type=""),
    "vLLM: other requests": _vllm(ttfts=[0.1]),
    "vLLM: gaps no lists": _vllm(itls=[1, 2, 3, 4, 5]),
    "vLLM: a gap below nought": _vllm(itls=[[-1.0]] * 5),
    "vLLM: an endless rate": _vllm(request_rate=1e999),
    "vLLM: a percentile that is a text": _vllm(p99_ttft_ms="1"),
    "vLLM: a date that is none": _vllm(date="x" * 100),
    "GuideLLM: requests no list": _guide("requests", "successful", value={}),
    "GuideLLM: a request is a number": _guide("requests", "successful", 0, value=1),
    "GuideLLM: a duration of nought": _guide("duration", value=0),
    "GuideLLM: a next to endless duration": _guide("duration", value=5e-324),
    "GuideLLM: an odd address": _guide("config", "backend", "target", value="http://[x"),
    "GuideLLM: no strategy": _guide("config", "strategy", value=None),
    "GuideLLM: a start after 2100": _guide("start_time", value=1e12),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_whole(mine: Store, tmp_path: Path, name: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(HOSTILE[name]()))
    with pytest.raises(BadFile) as refused:
        take_in(mine, path, "Mallory")
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 600
    assert measurements(mine, imported=True) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"{",
        b"[" * 100_000,
        b'{"a":1,"a":1}',
        b"\xff\xfe{}",
        b'{"a": NaN}',
        b"build_commit,n_prompt\n\xff",
        b'build_commit,n_prompt\n"1',
        b"build_commit,n_prompt\n1,2,3,4\n",
        b"build_commit,n_prompt\n1\n",
        b"build_commit,n_prompt\n",
        b'{"a":1}\n{"a":' + b"[" * 5000 + b"}",
    ],
)
def test_what_is_no_such_file_is_refused(mine: Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(BadFile):
        take_in(mine, tmp_path / "file.json", "Mallory")


def test_giants_are_refused_before_they_are_read(mine: Store, tmp_path: Path) -> None:
    giant = tmp_path / "giant.json"
    with giant.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadFile, match="larger than"):
        take_in(mine, giant, "Mallory")
