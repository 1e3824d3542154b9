"""Benchmarks written by other programs, as measurements: llama-bench, GuideLLM and vLLM's `bench serve`.

Their files are untrusted, as exports are. Figures keep their programs' meaning: where a program gives no
samples but a mean or a percentile, the condition `statistic` says which, and there is no interval.

Sources of the keys: llama.cpp, tools/llama-bench/llama-bench.cpp (struct test, get_fields; b11669);
GuideLLM 0.8.1, src/guidellm/schemas/request_stats.py and benchmark/schemas; vLLM, vllm/benchmarks/serve.py.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from weigh.errors import BadFile, NotSupported
from weigh.store.fields import LARGEST, LAST_UNIX_S, Fields, Scalar
from weigh.store.measurement import MOST_SAMPLES, Measured, Measurement
from weigh.store.run import Origin

MOST_RESULTS = 5000  # of a file
_LLAMA_BENCH = {"build_commit", "model_filename", "model_type", "n_prompt", "n_gen"}
_VLLM = {"backend", "model_id", "num_prompts", "duration", "completed"}
_FORMATS = (
    "weigh's own, llama-bench's -o json, jsonl or csv, GuideLLM's JSON and vLLM's --save-result are read"
)


def parsed(path: Path, content: bytes) -> object:
    """The file's JSON value; of JSON lines, and of llama-bench's CSV, a list of objects.

    Raises:
        BadFile: it is none of them.
        NotSupported: a form of llama-bench's that leaves too much out.
    """
    from weigh.model.json_object import json_value

    head = content[:4096].lstrip()
    if head.startswith(b"build_commit,"):
        return _csv(path, content)
    if head.startswith((b"| model ", b"CREATE TABLE", b"INSERT INTO")):
        raise NotSupported(
            f"{path}: llama-bench's tables are for reading and for databases",
            hint="run it with -o json, jsonl or csv",
        )
    lines = [line for line in content.splitlines() if line.strip()]
    if 1 < len(lines) <= MOST_RESULTS and all(
        line.startswith(b"{") and line.endswith(b"}") for line in lines
    ):
        return [json_value(path, line, what=f"line {place}") for place, line in enumerate(lines, start=1)]
    return json_value(path, content, what="the file")


def read(path: Path, data: object, origin: Origin | None) -> tuple[str, list[Measurement]]:
    """The program's name, and the measurements.

    Raises:
        BadFile: no such program wrote it, or not so.
    """
    every = data if isinstance(data, list) else [data]
    listed: list[dict[str, Any]] = [one for one in every if isinstance(one, dict)]
    if not listed or len(listed) != len(every) or len(listed) > MOST_RESULTS:
        raise BadFile(path, "is of no program that weigh knows", hint=_FORMATS)
    made: Callable[[Sequence[dict[str, Any]]], list[Measurement]]
    if all(set(one) >= _LLAMA_BENCH for one in listed):
        name, made = "llama-bench", _llama_bench
    elif all(set(one) >= _VLLM for one in listed):
        name, made = "vLLM", lambda results: [_vllm(Fields(one, "a result")) for one in results]
    elif len(listed) == 1 and {"metadata", "benchmarks"} <= set(listed[0]):
        name, made = "GuideLLM", _guidellm
    else:
        raise BadFile(path, "is of no program that weigh knows", hint=_FORMATS)
    try:
        found = [_checked(one, origin) for one in made(listed)]
    except ValueError as error:
        raise BadFile(path, f"is not as {name} writes it: {error}") from None
    if not found:
        raise BadFile(path, f"holds no result of {name}")
    return name, found


def _checked(one: Measurement, origin: Origin | None) -> Measurement:
    """By the rules of what is kept, whichever program wrote it."""
    return Measurement.from_json(one.to_json(), origin)


# --- llama-bench -------------------------------------------------------------------------------------

_FTYPE = re.compile(r"\s(\S+)(?: - (Small|Medium|Large))?(?: - [\d.]+ bpw.*)?$")
_SETTINGS = {
    "n_threads": "threads",
    "n_batch": "batch_tokens",
    "n_ubatch": "microbatch_tokens",
    "type_k": "kv_type_k",
    "type_v": "kv_type_v",
    "n_gpu_layers": "gpu_layers",
    "n_cpu_moe": "experts_in_ram_layers",
    "split_mode": "split_mode",
    "flash_attn": "flash_attention",
    "backends": "backends",
    "no_kv_offload": "no_kv_offload",
    "load_mode": "load_mode",
    "use_mmap": "mmap",
    "model_size": "tensor_bytes",
    "model_n_params": "parameters",
}


def _csv(path: Path, content: bytes) -> list[dict[str, object]]:
    """Whole numbers as such; llama-bench quotes everything."""
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode()), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise BadFile(path, "is not CSV") from None
    if len(rows) > MOST_RESULTS or any(None in row or None in row.values() for row in rows):
        raise BadFile(path, f"is not CSV of at most {MOST_RESULTS:,} full rows")
    return [{key: _number(value) for key, value in row.items()} for row in rows]


def _number(text: str) -> object:
    if re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d{1,18}\.\d{1,18}", text) else text


def _llama_bench(results: Sequence[dict[str, Any]]) -> list[Measurement]:
    """One measurement for each model and settings, in the order they came."""
    varying = {"n_prompt", "n_gen", "n_depth", "test_time"}
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in results:
        same = {
            k: v for k, v in one.items() if k not in varying and not k.startswith(("avg_", "stddev_", "sam"))
        }
        groups.setdefault(repr(sorted(same.items())), []).append(one)
    return [_llama_bench_group(group) for group in groups.values()]


def _llama_bench_group(group: Sequence[dict[str, Any]]) -> Measurement:
    from weigh.model.variants import said_quantization

    first = Fields(group[0], "a result")
    file = PurePosixPath(first.text("model_filename").replace("\\", "/")).name.removesuffix(".gguf")
    described = first.text("model_type")
    quantization = said_quantization(file) or _described_quantization(described)
    gpus = first.said("gpu_info")
    return Measurement(
        kind="bench",
        when_unix_s=min(_when(one.get("test_time"), "%Y-%m-%dT%H:%M:%SZ") for one in group),
        cpu=first.said("cpu_info"),
        gpus=tuple(gpus.split(", ")) if gpus else (),
        engine="llama.cpp",
        engine_version=f"b{first.whole('build_number')} ({first.said('build_commit')})",
        model=re.sub(rf"(?i)[-._]?{re.escape(quantization)}$", "", file) if quantization else file,
        family=described.split()[0],
        quantization=quantization,
        settings={new: _scalar(group[0][old]) for old, new in _SETTINGS.items() if old in group[0]},
        measured=tuple(_llama_bench_test(Fields(one, "a result")) for one in group),
        raw={"written_by": "llama-bench", "samples_ns": [one.get("samples_ns") for one in group]},
    )


def _llama_bench_test(result: Fields) -> Measured:
    prompt, output = result.whole("n_prompt"), result.whole("n_gen")
    at: dict[str, Scalar] = {"depth_tokens": result.whole("n_depth") if result.told("n_depth") else 0}
    at |= {"parallel": 1, "clock": "engine"}
    lengths = {"prompt_tokens": prompt, "output_tokens": output}
    tokens: dict[str, Scalar] = {name: length for name, length in lengths.items() if length}
    name = "decode_tokens_per_s" if not prompt else "prefill_tokens_per_s" if not output else "tokens_per_s"
    if result.told("samples_ts"):
        samples = result.numbers("samples_ts", most=MOST_SAMPLES)
    else:
        samples, at["statistic"] = (result.number("avg_ts"),), "mean"
    return Measured(name, "tokens/s", samples, tokens | at)


def _described_quantization(described: str) -> str:
    """`Q4_K - Medium` in llama.cpp's words is Q4_K_M in everyone's."""
    match = _FTYPE.search(described)
    if not match:
        return ""
    return match[1] + (f"_{match[2][0]}" if match[2] and match[1] != "Q2_K" else "")


# --- GuideLLM ----------------------------------------------------------------------------------------

_EVENTS = {
    "request_start": "sent_unix_s",
    "first_token_iteration": "first_token_unix_s",
    "last_token_iteration": "last_token_unix_s",
    "request_end": "ended_unix_s",
}


def _guidellm(documents: Sequence[dict[str, Any]]) -> list[Measurement]:
    document = Fields(documents[0], "a report")
    version = document.part("metadata").said("guidellm_version")
    return [_guidellm_benchmark(one, version) for one in document.parts("benchmarks", most=MOST_RESULTS)]


def _guidellm_benchmark(benchmark: Fields, version: str) -> Measurement:
    config = benchmark.part("config")
    strategy, backend = config.part("strategy"), config.part("backend")
    requests = benchmark.part("requests")
    done = requests.parts("successful", most=MOST_SAMPLES)
    failed = {
        key: len(requests.parts(key, most=MOST_SAMPLES))
        for key in ("errored", "incomplete")
        if requests.told(key)
    }
    arrivals: dict[str, Scalar] = {}
    if strategy.told("streams"):
        arrivals["clients"] = strategy.whole("streams")
    if strategy.told("rate"):
        arrivals["rate_per_s"] = strategy.number("rate")
    duration_s = benchmark.number("duration")
    seen = [_guidellm_request(one) for one in done]
    for key in ("prompt_tokens", "output_tokens"):
        lengths = {one[key] for one in seen}
        if len(lengths) == 1 and (length := lengths.pop()) is not None:
            arrivals[key] = int(length)
    tokens = sum(one["output_tokens"] or 0 for one in seen)
    quantities = [
        _told("ttft_s", "s", (one["ttft_s"] for one in seen), arrivals),
        _told("tpot_s", "s", (one["tpot_s"] for one in seen), arrivals),
        _told("e2e_s", "s", (one["e2e_s"] for one in seen), arrivals),
        _told("completed_per_s", "requests/s", [len(done) / duration_s], arrivals),
        _told("output_tokens_per_s", "tokens/s", [tokens / duration_s], arrivals),
    ]
    return Measurement(
        kind="load",
        when_unix_s=benchmark.number("start_time", most=LAST_UNIX_S),
        engine="",
        model=backend.said("model"),
        settings={
            "server": _without_secrets(backend.said("target")),
            "endpoint": backend.said("request_format"),
            "arrivals": strategy.text("type_"),
            "duration_s": duration_s,
            **arrivals,
            **{f"requests_{key}": count for key, count in failed.items()},
        },
        measured=tuple(one for one in quantities if one),
        problems=tuple(f"{count} requests {key}" for key, count in failed.items() if count),
        raw={"written_by": f"GuideLLM {version}", "requests": seen},
    )


def _guidellm_request(request: Fields) -> dict[str, float | None]:
    """GuideLLM's `inter_token_latency_ms` is a mean per request without the first token: TPOT in our words."""
    timings = request.part("info").part("timings")
    events = {new: _optional(timings, old, LAST_UNIX_S) for old, new in _EVENTS.items()}
    first, each = (_optional(request, f"{key}_ms") for key in ("time_to_first_token", "inter_token_latency"))
    return events | {
        "prompt_tokens": _optional(request, "prompt_tokens"),
        "output_tokens": _optional(request, "output_tokens"),
        "ttft_s": None if first is None else first / 1000,
        "tpot_s": None if each is None else each / 1000,
        "e2e_s": _optional(request, "request_latency"),
    }


# --- vLLM --------------------------------------------------------------------------------------------

_STATISTIC = re.compile(r"(mean|median|p\d{1,3}(?:\.\d{1,3})?)_(ttft|tpot|itl|e2el)_ms")
_VLLM_NAMES = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "itl_s", "e2el": "e2e_s"}


def _vllm(result: Fields) -> Measurement:
    """With --save-detailed the samples of the requests that succeeded; else percentiles as they stand."""
    rate = result.take("request_rate")
    arrivals: dict[str, Scalar] = {}
    at_once = result.whole("max_concurrency") if result.told("max_concurrency") else None
    if isinstance(rate, int | float) and not isinstance(rate, bool):
        arrivals["rate_per_s"] = rate
        if at_once is not None:
            arrivals["most_at_once"] = at_once
    elif at_once is not None:
        arrivals["clients"] = at_once  # all requests wait at the door from the start
    failed = result.whole("failed") if result.told("failed") else 0
    quantities = [*_vllm_samples(result, arrivals), *_vllm_statistics(result, arrivals)]
    for key, name, unit in (
        ("request_throughput", "completed_per_s", "requests/s"),
        ("output_throughput", "output_tokens_per_s", "tokens/s"),
        ("request_goodput", "goodput_per_s", "requests/s"),
    ):
        if result.told(key):
            quantities.append(Measured(name, unit, (result.number(key, zero=True),), dict(arrivals)))
    return Measurement(
        kind="load",
        when_unix_s=_when(result.text("date"), "%Y%m%d-%H%M%S"),
        engine="",
        model=result.text("model_id"),
        settings={
            "client": result.said("backend"),
            "label": result.said("label"),
            "prompts": result.whole("num_prompts"),
            "duration_s": result.number("duration"),
            "requests_done": result.whole("completed"),
            "requests_failed": failed,
            **arrivals,
        },
        measured=tuple(quantities),
        problems=(f"{failed} requests failed",) if failed else (),
        raw={"written_by": "vllm bench serve"},
    )


def _vllm_samples(result: Fields, arrivals: Mapping[str, Scalar]) -> list[Measured]:
    if not (result.told("ttfts") and result.told("itls")):
        return []
    first = result.numbers("ttfts", most=MOST_SAMPLES, zero=True)
    gaps = result.number_lists("itls", most=MOST_SAMPLES)
    if len(first) != len(gaps):
        raise ValueError("`ttfts` and `itls` are not of the same requests")
    succeeded = [place for place, ttft in enumerate(first) if ttft]  # a request that failed has nought
    return [
        one
        for one in (
            _told("ttft_s", "s", (first[place] for place in succeeded), arrivals),
            _told("itl_s", "s", (gap for place in succeeded for gap in gaps[place]), arrivals),
        )
        if one
    ]


def _vllm_statistics(result: Fields, arrivals: Mapping[str, Scalar]) -> list[Measured]:
    found = []
    for key in result.left():
        if match := _STATISTIC.fullmatch(key):
            seconds = result.number(key, zero=True) / 1000
            found.append(
                Measured(_VLLM_NAMES[match[2]], "s", (seconds,), {**arrivals, "statistic": match[1]})
            )
    return found


# --- shared ------------------------------------------------------------------------------------------


def _told(
    name: str, unit: str, samples: Iterable[float | None], conditions: Mapping[str, Scalar]
) -> Measured | None:
    known = tuple(sample for sample in samples if sample is not None)
    return Measured(name, unit, known, dict(conditions)) if known else None


def _optional(fields: Fields, key: str, most: float = LARGEST) -> float | None:
    return fields.number(key, zero=True, most=most) if fields.told(key) else None


def _scalar(value: object) -> Scalar:
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError("a setting is no single value")


def _when(text: object, form: str) -> float:
    """Taken for UTC, which llama-bench writes; vLLM writes the time of a place that it does not name."""
    if not isinstance(text, str) or len(text) > 40:
        raise ValueError("its time is not a text")
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"its time is not written as {form}") from None


def _without_secrets(url: str) -> str:
    """Without a name and password, and without what follows the path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme else ""
