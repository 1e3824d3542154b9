"""How right weigh is, in one page with plots: docs/accuracy.md.

    python benchmarks/accuracy.py --run              # run whole models here beside their predictions (40 minutes)
    python benchmarks/accuracy.py --ask              # ask llmfit and whichllm about the very same rows (minutes)
    python benchmarks/accuracy.py                    # the page and the plots from what was kept

`--run` wants the machine to itself. For every second model it calibrates the machine, and for both number formats
it runs the short models that `weigh try --short` would run, and the whole one, in turns: so a machine that is
faster at one time than at another is so for both, and the error is the method's. Before that, for the first format,
`weigh try --short` runs alone, as people run it. Both are kept beside the estimate from the calibration, which
never ran that model, and from the very first calibration. What is done is kept in
`benchmarks/data/accuracy_runs.jsonl`, and a run that is interrupted goes on where it stopped; give models to run
these again. Peers need `python benchmarks/peers.py --install` once. The page includes what
`benchmarks/accuracy_published.py` shows of published runs. An error is |predicted / measured - 1|.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import accuracy_published
from peers import NoAnswer, Question, ask_llmfit, ask_whichllm, serving

from weigh.bench.calibrate import ANCHOR, format_spec
from weigh.bench.here import Here, here, scratch_folder
from weigh.bench.plan import Plan
from weigh.bench.trial import choose_way, run_trial
from weigh.bench.truncated import Extrapolated, load, predict
from weigh.bench.turns import Driven, Seen, in_turns
from weigh.engines.engine import Limits, Settings
from weigh.estimate.extrapolate import SHARED_ERROR
from weigh.estimate.setup import SetupEstimate, weigh
from weigh.estimate.speed import Workload, decode_step_s, prefill_s
from weigh.estimate.work import work
from weigh.figure import Basis, Figure, FigureJson
from weigh.machine.disturbance import Watch
from weigh.model.resolve import resolve
from weigh.synth import synthetic_file

FOLDER = Path(__file__).parent
RUNS, PEERS = FOLDER / "data" / "accuracy_runs.jsonl", FOLDER / "data" / "accuracy_peers.json"
DOCS = FOLDER.parent / "docs"
PAGE = DOCS / "accuracy.md"
BEGIN, END = "<!-- begin: benchmarks/accuracy.py -->", "<!-- end -->"
MODELS = {  # why each is there
    "meta-llama/Llama-3.2-1B-Instruct": "dense, a large vocabulary",
    "LiquidAI/LFM2-1.2B": "hybrid of short convolutions and attention",
    "Qwen/Qwen2.5-1.5B-Instruct": "dense, biases",
    "Qwen/Qwen3.5-2B": "hybrid of linear attention and attention",
    "google/gemma-3-4b-it": "sliding windows, the largest vocabulary",
    "ibm-granite/granite-3.1-3b-a800m-instruct": "mixture of 40 small experts",
    "microsoft/Phi-3-mini-128k-instruct": "dense, fused matrices, no GQA",
    "allenai/OLMoE-1B-7B-0924-Instruct": "mixture of 64 experts",
    "Qwen/Qwen3-4B": "dense, wide heads",
    "meta-llama/Llama-3.1-8B-Instruct": "dense",
}
QUANTIZATIONS = ("Q4_K_M", "Q8_0")
SETTINGS, WORKLOAD = Settings(context_tokens=4096), Workload(prompt_tokens=128, output_tokens=32)
CALIBRATE_EVERY = 2  # models
SPEEDS = ("decode_tokens_per_s", "prefill_tokens_per_s")
QUANTITIES = (*SPEEDS, "load_s", "peak_memory_bytes")
GOALS = {  # median, ninth tenth
    ("truncated", "decode_tokens_per_s"): (0.03, 0.08),
    ("truncated", "prefill_tokens_per_s"): (0.05, 0.10),
    ("calibrated", "decode_tokens_per_s"): (0.05, 0.12),
    ("calibrated", "prefill_tokens_per_s"): (0.08, 0.18),
}
Row = dict[str, Any]


# --- running ------------------------------------------------------------------------------------------------


def run(names: Sequence[str]) -> None:
    rows = kept()
    every = [(model, quant) for model in MODELS for quant in QUANTIZATIONS]
    if names:
        wanted = {resolve(name).name for name in names}
        every = [one for one in every if one[0] in wanted]
        rows = [row for row in rows if (row["model"], row["quantization"]) not in every]
    done = {(row["model"], row["quantization"]) for row in rows}
    first: Here | None = None
    site: Here | None = None
    for number, model in enumerate(MODELS):
        todo = [quant for quant in QUANTIZATIONS if (model, quant) in every and (model, quant) not in done]
        if todo and (site is None or number % CALIBRATE_EVERY == 0):
            say("calibrating")
            site = replace(here(again=True).on_host, learned=None)
            first = first or site  # of this day
        for quant in todo:
            assert site is not None
            assert first is not None
            say(f"{model}:{quant}")
            rows.append(measured(model, quant, site, first))
            RUNS.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def measured(model: str, quant: str, site: Here, first: Here) -> Row:
    spec = resolve(f"{model}:{quant}")
    estimate, before = (weigh(spec, one, SETTINGS, WORKLOAD) for one in (site, first))
    way = choose_way(estimate, site, full=False)
    assert way.plan is not None
    alone = run_trial(estimate, site, way) if quant == QUANTIZATIONS[0] else None
    short, whole, drift, problems = in_turns_with_whole(way.plan, estimate, site)
    assert site.calibration is not None
    return {
        "model": model,
        "quantization": quant,
        "architecture": spec.architecture,
        "date": str(date.today()),
        "cpu": site.machine.cpu.model,
        "threads": site.machine.cpu.threads,
        "engine": site.engine_version,
        "calibration": {"took_s": site.calibration.took_s, "noise": site.calibration.noise},
        "calibrated": figures(estimate),
        "calibrated, drift taken out": {
            speed: scaled(figures(estimate)[speed], 1 / slower) for speed, slower in drift.items()
        },
        "calibrated before": figures(before),
        "drift": drift,
        "alone": {one.name: one.found and one.found.to_json() for one in alone.compared} if alone else {},
        "truncated": {
            "decode_tokens_per_s": json_of(short.decode_tokens_per_s),
            "prefill_tokens_per_s": json_of(short.prefill_tokens_per_s),
            "load_s": json_of(short.load_s),
            "peak_memory_bytes": json_of(short.peak_memory_bytes),
        },
        "full": {
            "decode_tokens_per_s": spread([1 / step for step in whole.step_medians_s], "tokens/s"),
            "prefill_tokens_per_s": spread(
                [WORKLOAD.prompt_tokens / seconds for seconds in whole.prefills_s], "tokens/s"
            ),
            "load_s": spread([whole.load_s], "s"),
            "peak_memory_bytes": spread([whole.memory.peak_bytes if whole.memory else 0], "bytes"),
        },
        "layers": {"truncated": [one.layers for one in way.plan.shorts], "full": spec.layers},
        "took": {"seconds": alone.took_s, "memory_bytes": alone.took_bytes} if alone else None,
        "problems": [*site.calibration.problems, *(alone.problems if alone else ()), *problems],
    }


def in_turns_with_whole(
    plan: Plan | None, estimate: SetupEstimate, site: Here
) -> tuple[Extrapolated, Seen, dict[str, float], tuple[str, ...]]:
    """With the calibration's own anchor among them: how much slower it is than the calibration has it is drift."""
    assert plan is not None
    assert site.engine is not None
    assert site.calibration is not None
    watch = Watch()
    with ExitStack() as stack:
        driven = load(plan, site, stack)
        file = stack.enter_context(synthetic_file(estimate.spec, scratch_folder()))
        session = stack.enter_context(site.engine.start(file, SETTINGS, Limits()))
        tokens = WORKLOAD.prompt_tokens, WORKLOAD.output_tokens
        driven.append(Driven(session, estimate.spec.vocab, *tokens))
        anchor = format_spec(site.machine, ANCHOR)
        file = stack.enter_context(synthetic_file(anchor, scratch_folder()))
        driven.append(
            Driven(stack.enter_context(site.engine.start(file, SETTINGS, Limits())), anchor.vocab, 64, 32)
        )
        *shorts, whole, again = in_turns(driven, rounds=rounds(estimate))
        command = session.command
    problems = watch.so_far().problems
    found = predict(plan, shorts, command, estimate, site, site.calibration, SHARED_ERROR)
    step_s = decode_step_s(work(anchor), site.calibration, cached_tokens=16)
    prompt_s = prefill_s(work(anchor), site.calibration, tokens=64)
    drift = {"decode_tokens_per_s": again.step_s / step_s, "prefill_tokens_per_s": again.prefill_s / prompt_s}
    return found, whole, drift, problems


def rounds(estimate: SetupEstimate) -> int:
    """Of the whole model: about 20 seconds of it, three to nine."""
    speed = estimate.speed
    assert speed is not None
    turn_s = WORKLOAD.prompt_tokens / speed.prefill_tokens_per_s.value
    turn_s += WORKLOAD.output_tokens / speed.decode_tokens_per_s.value
    return max(3, min(9, round(20 / turn_s)))


def scaled(figure: FigureJson, factor: float) -> FigureJson:
    ends = {key: figure[key] * factor for key in ("value", "low", "high")}
    return {**figure, **ends}


def spread(samples: Sequence[float], unit: str) -> FigureJson:
    middle = statistics.median(samples)
    return Figure(middle, min(samples), max(samples), unit, Basis.TEST_DRIVEN).to_json()


def json_of(figure: Figure | None) -> FigureJson | None:
    return figure.to_json() if figure else None


def figures(estimate: SetupEstimate) -> Row:
    speed = estimate.speed
    assert speed is not None
    return {
        "decode_tokens_per_s": speed.decode_tokens_per_s.to_json(),
        "prefill_tokens_per_s": speed.prefill_tokens_per_s.to_json(),
        "load_s": speed.load_s.to_json(),
        "peak_memory_bytes": estimate.peak_memory_bytes.to_json(),
    }


def kept() -> list[Row]:
    return (
        [json.loads(line) for line in RUNS.read_text(encoding="utf-8").splitlines()] if RUNS.exists() else []
    )


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


# --- peers --------------------------------------------------------------------------------------------------


def ask() -> None:
    """llmfit prints decode by model and format, prefill by model alone; whichllm prints decode."""
    answers: Row = {}
    with serving() as hub:
        for row in kept():
            name = f"{row['model']}:{row['quantization']}"
            for speed in SPEEDS:
                asks = speed.removesuffix("_tokens_per_s")
                question = Question(0, asks, row["model"], row["quantization"], 4096, "this machine", None)
                for tool, put in (("llmfit", ask_llmfit), ("whichllm", ask_whichllm)):
                    try:
                        answers.setdefault(name, {}).setdefault(tool, {})[speed] = put(question, hub)
                    except NoAnswer as why:
                        say(f"{tool} says nothing of the {asks} of {name}: {why}")
    PEERS.write_text(json.dumps(answers, indent=1), encoding="utf-8")


# --- the page -----------------------------------------------------------------------------------------------


def errors(rows: Sequence[Row], way: str, quantity: str) -> list[float]:
    return [abs(one - 1) for one in ratios(rows, way, quantity)]


def ratios(rows: Sequence[Row], way: str, quantity: str) -> list[float]:
    """Predicted over measured."""
    pairs = ((row[way].get(quantity), row["full"][quantity]) for row in rows)
    return [told["value"] / seen["value"] for told, seen in pairs if told and seen]


def ninth_tenth(values: Sequence[float]) -> float:
    """Nine in ten are no larger (nearest rank)."""
    return sorted(values)[-(-9 * len(values) // 10) - 1]


def summary(rows: Sequence[Row]) -> Iterator[str]:
    yield "| | quantity | runs | median error | goal | nine in ten within | goal | bias | inside the 80 % interval |"
    yield "| --- | --- | --: | --: | --: | --: | --: | --: | --: |"
    ways = {
        "truncated": "short models, in turns with the whole",
        "alone": "short models, alone before it (`weigh try`)",
        "calibrated": "estimate from the calibration",
        "calibrated, drift taken out": "… with the machine's drift since taken out",
        "calibrated before": "… from the first calibration of the day",
    }
    for way, title in ways.items():
        for quantity in QUANTITIES:
            if not any(row[way].get(quantity) for row in rows):
                continue
            found = errors(rows, way, quantity)
            goals = GOALS.get((way, quantity))
            median, tenth = statistics.median(found), ninth_tenth(found)
            bias = statistics.median(ratios(rows, way, quantity)) - 1
            marked = [
                f"{value:.1%}" if goal is None or value <= goal else f"**{value:.1%}**"
                for value, goal in zip((median, tenth), goals or (None, None), strict=True)
            ]
            said = [f"{goal:.0%}" for goal in goals] if goals else ["", ""]
            yield (
                f"| {title} | {words(quantity)} | {len(found)} | {marked[0]} | {said[0]} | {marked[1]} | {said[1]}"
                f" | {bias:+.1%} | {inside(rows, way, quantity)} |"
            )


def inside(rows: Sequence[Row], way: str, quantity: str) -> str:
    pairs = [(row[way][quantity], row["full"][quantity]) for row in rows if row[way].get(quantity)]
    if all(told["low"] == told["high"] for told, _ in pairs):
        return ""
    return f"{sum(t['low'] <= seen['value'] <= t['high'] for t, seen in pairs)} of {len(pairs)}"


def words(quantity: str) -> str:
    return quantity.removesuffix("_tokens_per_s").removesuffix("_s").removesuffix("_bytes").replace("_", " ")


def details(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "| model | layers run | decode: full run | short | calibrated | prefill: full run | short | calibrated"
        " | `weigh try` took |"
    )
    yield "| --- | --: | --: | --: | --: | --: | --: | --: | --: |"
    for row in rows:
        cells = []
        for speed in SPEEDS:
            seen = row["full"][speed]["value"]
            cells.append(f"{seen:.3g}")
            for way in ("truncated", "calibrated"):
                told = row[way][speed]
                out = "" if told["low"] <= seen <= told["high"] else " out"
                cells.append(f"{told['value'] / seen - 1:+.1%}{out}")
        took = row["took"]
        took = f"{took['seconds']:.0f} s, {took['memory_bytes'] / 2**30:.1f} GiB" if took else ""
        layers = row["layers"]
        run_of = f"{' + '.join(map(str, layers['truncated']))} of {layers['full']}"
        name = f"{row['model'].partition('/')[2]}:{row['quantization']} ({row['architecture']})"
        yield f"| {name} | {run_of} | {' | '.join(cells)} | {took} |"


def other_loads(rows: Sequence[Row]) -> Iterator[str]:
    yield "| model | load s: full run | short | calibrated | peak memory GiB: full run | short | estimated |"
    yield "| --- | --: | --: | --: | --: | --: | --: |"
    for row in rows:
        cells = []
        for quantity, scale in (("load_s", 1), ("peak_memory_bytes", 2**30)):
            seen = row["full"][quantity]["value"]
            cells.append(f"{seen / scale:.2f}")
            cells += [f"{row[way][quantity]['value'] / seen - 1:+.1%}" for way in ("truncated", "calibrated")]
        yield f"| {row['model'].partition('/')[2]}:{row['quantization']} | {' | '.join(cells)} |"


def peers(rows: Sequence[Row]) -> Iterator[str]:
    answers = json.loads(PEERS.read_text(encoding="utf-8")) if PEERS.exists() else {}
    yield "| tool | speed | rows answered | median error | nine in ten within | median of predicted / measured |"
    yield "| --- | --- | --: | --: | --: | --: |"
    for speed in SPEEDS:
        for tool in ("weigh", "llmfit 1.1.17", "whichllm 0.5.21"):
            if tool == "weigh":
                some = rows
                found = ratios(rows, "calibrated", speed)
            else:
                told = {name: one.get(tool.split()[0], {}).get(speed) for name, one in answers.items()}
                some = [row for row in rows if told.get(f"{row['model']}:{row['quantization']}")]
                found = [
                    told[f"{row['model']}:{row['quantization']}"] / row["full"][speed]["value"]
                    for row in some
                ]
            if not found:
                yield f"| {tool} | {words(speed)} | 0 of {len(rows)} | | | |"
                continue
            missed = [abs(one - 1) for one in found]
            yield (
                f"| {tool} | {words(speed)} | {len(found)} of {len(rows)} | {statistics.median(missed):.1%}"
                f" | {ninth_tenth(missed):.1%} | {statistics.median(found):.2f} |"
            )


def page(rows: Sequence[Row]) -> str:
    first = rows[0]
    days = sorted({row["date"] for row in rows})
    disturbed = sum(bool(row["problems"]) for row in rows)
    seconds = [row["took"]["seconds"] for row in rows if row["took"]]
    peak = max(row["took"]["memory_bytes"] for row in rows if row["took"])
    architectures = len({row["architecture"] for row in rows})
    return "\n".join(
        [
            "## Whole models run here, beside their predictions",
            "",
            f"{' and '.join(days)}, {first['cpu']}, {first['threads']} threads, Python {platform.python_version()},"
            f" llama.cpp ({first['engine']}). {len(rows)} runs of {len({row['model'] for row in rows})} models of"
            f" {architectures} architectures; prefill over {WORKLOAD.prompt_tokens} tokens, decode over"
            f" {WORKLOAD.output_tokens}, three to nine rounds. `weigh try` took {statistics.median(seconds):.0f} s in"
            f" the median, {max(seconds):.0f} s at most, and {peak / 2**30:.1f} GiB at most. In {disturbed} of the rows"
            " other work was noticed on the machine. Bold: the goal was missed.",
            "",
            *summary(rows),
            "",
            "![predicted over measured](accuracy/here.svg)",
            "",
            "Speeds in tokens/s. *out*: the full run lies outside the prediction's 80 % interval.",
            "",
            *details(rows),
            "",
            *other_loads(rows),
            "",
            "## Other tools on these very runs",
            "",
            "llmfit and whichllm look at this machine themselves; both are asked for a run on the processor."
            " llmfit prints prefill only for a number format of its own choice; whichllm prints none.",
            "",
            *peers(rows),
            "",
            "## Published runs, each predicted without its device or its model",
            "",
            "From `benchmarks/accuracy_published.py`; more in [accuracy/published.md](accuracy/published.md).",
            "",
            accuracy_published.block().replace("](published_", "](accuracy/published_"),
        ]
    )


def plot(rows: Sequence[Row]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "weigh"
    mpl.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 6.5), sharey=True)
    names = [f"{row['model'].partition('/')[2]}:{row['quantization']}" for row in rows]
    places: Mapping[str, tuple[float, str]] = {
        "truncated": (0.15, "#1f77b4"),
        "calibrated": (-0.15, "#ff7f0e"),
    }
    for axis, speed in zip(axes, SPEEDS, strict=True):
        for way, (shift, colour) in places.items():
            seen = [row["full"][speed]["value"] for row in rows]
            told = [row[way][speed] for row in rows]
            value = [one["value"] / s for one, s in zip(told, seen, strict=True)]
            ends = [
                [v - one["low"] / s for v, one, s in zip(value, told, seen, strict=True)],
                [one["high"] / s - v for v, one, s in zip(value, told, seen, strict=True)],
            ]
            axis.errorbar(
                value,
                [place + shift for place in range(len(rows))],
                xerr=ends,
                fmt="o",
                ms=3,
                lw=0.8,
                c=colour,
                label="short models" if way == "truncated" else "calibrated estimate",
            )
        axis.axvline(1, c="k", lw=0.7)
        axis.set(title=words(speed), xlabel="predicted / measured, with its 80 % interval", xlim=(0.5, 1.6))
        axis.set_yticks(range(len(rows)), names, fontsize=7)
        axis.grid(axis="x", lw=0.3)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    (DOCS / "accuracy").mkdir(exist_ok=True)
    figure.savefig(DOCS / "accuracy" / "here.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="store_true", help="run what has not been run yet")
    parser.add_argument("--ask", action="store_true", help="ask the peers")
    parser.add_argument("models", nargs="*", help="with --run: run these again")
    asked = parser.parse_args()
    steps: list[tuple[bool, Callable[[], None]]] = [(asked.run, lambda: run(asked.models)), (asked.ask, ask)]
    for wanted, step in steps:
        if wanted:
            step()
    rows = kept()
    order = list(MODELS)
    rows.sort(key=lambda row: (order.index(row["model"]), row["quantization"]))
    text = page(rows)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    plot(rows)
    accuracy_published.plots()
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
