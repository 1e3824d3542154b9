"""How far off speeds of devices come out that were predicted without them, beside llmfit and whichllm.

    python benchmarks/peers.py --install             # once: the peers' virtual environments
    python benchmarks/device_rates_fit.py            # predictions, each made without its device or model
    python benchmarks/accuracy_published.py --ask    # asks the peers about the very same rows (minutes)
    python benchmarks/accuracy_published.py          # the tables and plots of docs/accuracy/ from what was kept

Needs matplotlib for the plots. Reads `benchmarks/data/device_runs.csv` and `device_predictions.csv`; answers of
the peers are kept in `device_peers.csv`. llmfit is asked by its command `plan` (`info` for prefill, which picks a
format by itself), with a hardware profile of weigh's data sheet for each device; whichllm by the function that its
command calls, with that data sheet and the true size of the file. The error is |predicted / measured - 1|.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from device_observed import DATA, read_runs
from device_rates_fit import PREDICTIONS
from peers import VENVS

from weigh.machine.device_sheets import GpuSheet, HostSheet, gpu_sheets, host_sheets
from weigh.model.catalog import catalog
from weigh.model.gguf_size import file_bytes
from weigh.model.quantization import quantize
from weigh.units import GB, GIB

PEERS = DATA / "device_peers.csv"
FOLDER = Path(__file__).parents[1] / "docs" / "accuracy"
PAGE = FOLDER / "published.md"
BEGIN, END = "<!-- begin: benchmarks/accuracy_published.py -->", "<!-- end -->"
TOOLS = ("llmfit", "whichllm")
SPEEDS = ("decode", "prefill")
BOARD_RAM_GIB = 64  # of a host whose data sheet names no memory: enough, so that it plays no part


class Line(NamedTuple):
    """A published run, what weigh predicted without its device or model, and what the peers say."""

    run: Mapping[str, str]
    speed: str
    without: str
    known: str
    device: str
    model: str
    predicted: float
    low: float
    high: float
    peers: Mapping[str, float | None]

    @property
    def measured(self) -> float:
        return float(self.run["tokens_per_s"])

    @property
    def cards(self) -> int:
        return max(1, int(self.run["gpus"]))

    @property
    def inside(self) -> bool:
        return self.low <= self.measured <= self.high

    def error(self, tool: str = "weigh") -> float | None:
        value = self.predicted if tool == "weigh" else self.peers[tool]
        return None if value is None else abs(value / self.measured - 1)


@cache
def lines() -> list[Line]:
    runs = read_runs()
    answers: dict[tuple[int, str], float | None] = defaultdict(lambda: None)
    if PEERS.exists():
        with PEERS.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                answers[int(row["row"]), row["tool"]] = float(row["speed"]) if row["speed"] else None
    found = []
    with PREDICTIONS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            number = int(row["row"])
            found.append(
                Line(
                    runs[number],
                    row["speed"],
                    row["without"],
                    row["known"],
                    row["device"],
                    row["model"],
                    float(row["predicted"]),
                    float(row["low"]),
                    float(row["high"]),
                    {tool: answers[number, tool] for tool in TOOLS},
                )
            )
    return found


# --- the peers -----------------------------------------------------------------------------------------------

# What whichllm's command works out for a model file on a device, for many of them at once.
WHICHLLM = """
import json, sys
from whichllm.engine.performance import estimate_tok_per_sec
from whichllm.hardware.types import GPUInfo
from whichllm.models.types import GGUFVariant, ModelInfo
answers = []
for q in json.load(sys.stdin):
    file = GGUFVariant(q["model"] + ".gguf", q["quant"], q["bytes"])
    model = ModelInfo(q["model"], q["model"], q["model"], q["parameters"], q["active"], is_moe=q["active"] is not None)
    gpu = None
    if q["gpu"]:
        rest = dict(memory_bandwidth_gbps=q["bandwidth"], shared_memory=q["shared"])
        gpu = GPUInfo(q["device"], q["vendor"], q["vram"], **rest)
    answers.append(estimate_tok_per_sec(model, file, gpu, "full_gpu" if gpu else "cpu_only"))
print(json.dumps(answers))
"""


def _sheet(run: Mapping[str, str]) -> GpuSheet | HostSheet:
    sheets: Sequence[GpuSheet | HostSheet] = gpu_sheets() if run["on"] == "gpu" else host_sheets()
    return next(sheet for sheet in sheets if sheet.name == run["device"])


def ask_whichllm(runs: Sequence[Mapping[str, str]]) -> list[tuple[float | None, str]]:
    """Decode only; it estimates no prefill."""
    questions = []
    for run in runs:
        sheet, spec = _sheet(run), quantize(catalog().by_id[run["model"]].spec(), run["recipe"])
        on_gpu = isinstance(sheet, GpuSheet)
        questions.append(
            {
                "model": run["model"],
                "quant": run["recipe"].removesuffix("_MOE"),
                "bytes": file_bytes(spec),
                "parameters": spec.parameters,
                "active": spec.active_parameters if spec.experts else None,
                "gpu": on_gpu,
                "device": sheet.name,
                "vendor": sheet.vendor.lower(),
                "vram": int(max(sheet.sizes_gb) * GIB) if on_gpu and sheet.sizes_gb else 64 * GIB,
                "bandwidth": sheet.bandwidth_bytes_per_s / GB if isinstance(sheet, GpuSheet) else None,
                "shared": on_gpu and sheet.unified,
            }
        )
    done = subprocess.run(
        [VENVS / "whichllm" / "bin" / "python", "-c", WHICHLLM],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout)
    none = (None, "estimates no prefill")
    return [none if run["kind"] == "pp" else (speed, "") for run, speed in zip(runs, said, strict=True)]


def ask_llmfit(runs: Sequence[Mapping[str, str]]) -> list[tuple[float | None, str]]:
    """Each question once: decode by model, format and context, prefill by model."""
    with tempfile.TemporaryDirectory() as folder:
        questions = [_llmfit_question(run, Path(folder)) for run in runs]
        with ThreadPoolExecutor(2) as pool:
            asked = list(dict.fromkeys(questions))
            answers = dict(zip(asked, pool.map(_llmfit_answer, asked), strict=True))
    return [answers[question] for question in questions]


def _llmfit_question(run: Mapping[str, str], folder: Path) -> tuple[str, ...]:
    sheet = _sheet(run)
    path = folder / f"{re.sub(r'[^a-z0-9]', '-', sheet.name.lower())}-{run['on']}.json"
    if not path.exists():
        hardware: dict[str, object] = {"total_ram_gb": BOARD_RAM_GIB, "unified_memory": False}
        if isinstance(sheet, GpuSheet):
            # a GPU with memory of its own is one only of the machine it runs on; so that it takes part here, each
            # is said to share 512 GB, which changes no speed
            hardware |= {"total_ram_gb": 512, "unified_memory": True}
            hardware["gpu_memory_bandwidth_gbps"] = sheet.bandwidth_bytes_per_s / GB
            hardware["gpu_compute_tflops_fp16"] = (sheet.fp16_flops_per_s or 0) / 1e12
        else:
            hardware["ddr_bandwidth_gbps"] = sheet.usual_bandwidth_bytes_per_s / GB
        path.write_text(json.dumps({"schema_version": 1, "name": path.stem, "hardware": hardware}))
    if run["kind"] == "pp":
        return str(path), "info", run["model"]
    context = max(512, int(run["depth"]) + int(run["tokens"]))
    return str(path), "plan", run["model"], run["recipe"].removesuffix("_MOE"), str(context), run["on"]


def _llmfit_answer(question: tuple[str, ...]) -> tuple[float | None, str]:
    profile, verb, model, *rest = question
    words = [VENVS / "llmfit" / "bin" / "llmfit", "--profile", profile, verb, model]
    if verb == "plan":
        words += ["--quant", rest[0], "--context", rest[1]]
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=False)
    start = done.stdout.find("{")
    if start < 0:
        said = [line for line in done.stderr.splitlines() if "GLIBC" not in line] or ["it says nothing"]
        return None, said[0].strip()[:120]
    answer: Any = json.loads(done.stdout[start:])
    if verb == "info":
        models = answer.get("models") or [
            {}
        ]  # where a name fits several of its models it lists these instead
        speed = models[0].get("prefill_tps")
        return (float(speed), "") if speed else (None, "prints no prefill for this model and device")
    if "run_paths" not in answer:
        return None, str(answer.get("error", "no plan"))[:120]
    path = "gpu" if rest[2] == "gpu" else "cpu_only"
    found = next((p for p in answer["run_paths"] if p["path"] == path), None)
    if found is None or not found["estimated_tps"]:
        return None, "gives no speed for this path"
    return float(found["estimated_tps"]), ""


def ask() -> None:
    runs = read_runs()
    with PEERS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("row", "tool", "speed", "why_not"))
        for tool, answers in (("llmfit", ask_llmfit(runs)), ("whichllm", ask_whichllm(runs))):
            for number, (speed, why) in enumerate(answers):
                writer.writerow((number, tool, "" if speed is None else f"{speed:.4g}", why))
            print(tool, Counter(why for _, why in answers).most_common(4))


# --- tables --------------------------------------------------------------------------------------------------

Slice = Callable[[Line], bool]
MAIN: Mapping[str, Slice] = {
    "one GPU, dense": lambda x: x.device == "discrete" and x.model == "dense" and x.cards == 1,
    "one GPU, experts": lambda x: x.device == "discrete" and x.model == "experts" and x.cards == 1,
    "several GPUs": lambda x: x.cards > 1,
    "shared memory, dense": lambda x: x.device == "unified" and x.model == "dense",
    "shared memory, experts": lambda x: x.device == "unified" and x.model == "experts",
    "processors": lambda x: x.device == "host",
    "all": lambda x: True,
}


def _format(x: Line) -> str:
    recipe = x.run["recipe"]
    return "16 bits" if recipe in ("F16", "BF16") else "8 bits" if recipe.startswith("Q8") else "fewer"


def _size(x: Line) -> str:
    billions = catalog().by_id[x.run["model"]].spec().parameters / 1e9
    edges = ((3, "below 3B"), (10, "3B to 10B"), (40, "10B to 40B"))
    return next((name for edge, name in edges if billions < edge), "40B and more")


FINE: Mapping[str, Callable[[Line], str]] = {
    "maker": lambda x: _sheet(x.run).vendor,
    "backend": lambda x: x.run["backend"],
    "format": _format,
    "model": _size,
    "tokens before": lambda x: "none" if x.run["depth"] == "0" else "some",
    "build": lambda x: {"": "later"}.get(x.run["era"], x.run["era"]),
    "told by": lambda x: "a user" if x.run["self_reported"] == "True" else "a bench",
    "known": lambda x: {"related": "relatives", "sheet": "data sheet", "published": "own runs"}[x.known],
}


def _share(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def _row(name: str, some: Sequence[Line]) -> str:
    mine = [x.error() or 0.0 for x in some]
    cells = [str(len(some)), str(len({x.run["device"] for x in some}))]
    cells += [
        f"**{median(mine):.1%}**",
        f"{_share(mine, 0.9):.0%}",
        f"{sum(x.inside for x in some) / len(some):.0%}",
    ]
    for tool in TOOLS:
        theirs = [e for x in some if (e := x.error(tool)) is not None]
        if not theirs:
            cells.append("no answer")
            continue
        own = median(x.error() or 0.0 for x in some if x.error(tool) is not None)
        cells.append(f"{median(theirs):.1%} ({len(theirs)}; weigh {own:.1%})")
    return f"| {name} | {' | '.join(cells)} |"


TITLES = (
    "",
    "runs",
    "devices",
    "median error",
    "90th percentile",
    "interval holds",
    "llmfit, median (rows answered; weigh on them)",
    "whichllm",
)
HEAD = f"| {' | '.join(TITLES)} |\n|{' --- |' * len(TITLES)}"


def _table(some: Sequence[Line], slices: Mapping[str, Slice]) -> Iterator[str]:
    yield HEAD
    for name, belongs in slices.items():
        part = [x for x in some if belongs(x)]
        if part:
            yield _row(name, part)


def repeats(kind: str) -> list[float]:
    """Differences between runs of one device, backend, model, format and test that were published more than once."""
    said: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for run in read_runs():
        if run["kind"] == kind:
            key = ("device", "backend", "gpus", "model", "recipe", "tokens", "depth")
            said[tuple(run[name] for name in key)].append(float(run["tokens_per_s"]))
    return [abs(a / b - 1) for each in said.values() for a, b in combinations(each, 2)]


def one_batch_on_several_cards() -> list[float]:
    """Differences of prompts of one micro-batch, which several cards work on in turn, to the same on one card."""
    said: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for run in read_runs():
        if run["kind"] == "pp" and int(run["tokens"]) <= int(run["ubatch"]):
            key = ("device", "backend", "model", "recipe", "tokens", "depth")
            said[tuple(run[name] for name in key)][run["gpus"]] = float(run["tokens_per_s"])
    return [
        abs(speed / each["1"] - 1)
        for each in said.values()
        for cards, speed in each.items()
        if "1" in each and int(cards) > 1
    ]


def _floor() -> Iterator[str]:
    """How far published runs are from themselves."""
    titles = {
        "decode": repeats("tg"),
        "prefill": repeats("pp"),
        "prefill of one micro-batch on several cards, against one": one_batch_on_several_cards(),
    }
    yield "| published twice | pairs | median difference | largest |"
    yield "| --- | --- | --- | --- |"
    for name, some in titles.items():
        yield f"| {name} | {len(some)} | {median(some):.1%} | {max(some):.0%} |"


def _by(name: str, kind: Callable[[Line], str], some: Sequence[Line]) -> dict[str, Slice]:
    def equal(value: str) -> Slice:
        return lambda x: kind(x) == value

    return {f"{name}: {value}": equal(value) for value in sorted({kind(x) for x in some})}


def block() -> str:
    """Markdown: the tables, for docs/accuracy/published.md and whoever includes them."""
    titles = {
        "device": "the device was never seen (each left out in turn)",
        "generation": "nor any of its generation",
        "model": "the device was seen, the model was not (each left out in turn)",
    }
    text = []
    for speed in SPEEDS:
        for without, title in titles.items():
            some = [x for x in lines() if (x.speed, x.without) == (speed, without)]
            text += ["", f"**{speed.capitalize()}, {title}**", "", *_table(some, MAIN)]
    for speed in SPEEDS:
        some = [x for x in lines() if (x.speed, x.without) == (speed, "device")]
        slices = {n: s for name, kind in FINE.items() for n, s in _by(name, kind, some).items()}
        text += [
            "",
            f"**{speed.capitalize()}, device never seen, by what the run is**",
            "",
            *_table(some, slices),
        ]
    text += ["", "**How far published runs are from themselves**", "", *_floor()]
    text += ["", *(f"![{alt}]({name})" for name, alt in PLOTS.items())]
    return "\n".join(text).strip()


# --- plots ---------------------------------------------------------------------------------------------------

PLOTS = {
    "published_predicted.svg": "predicted over measured speed, devices left out",
    "published_residuals.svg": "residuals by device, each left out",
}
COLOURS = {"discrete": "#1f77b4", "unified": "#ff7f0e", "host": "#2ca02c"}


def plots(folder: Path = FOLDER) -> None:
    """Write the pictures of `PLOTS` into `folder`."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "weigh"
    mpl.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    kept = {"metadata": {"Date": None}}
    figure, axes = plt.subplots(1, 2, figsize=(10, 5))
    for axis, speed in zip(axes, SPEEDS, strict=True):
        some = _never_seen(speed)
        for family, colour in COLOURS.items():
            part = [x for x in some if x.device == family]
            axis.plot(
                [x.measured for x in part], [x.predicted for x in part], ".", ms=3, c=colour, label=family
            )
        ends = [min(x.measured for x in some), max(x.measured for x in some)]
        axis.plot(ends, ends, "k-", lw=0.7)
        axis.set(
            xscale="log", yscale="log", title=speed, xlabel="measured tokens/s", ylabel="predicted tokens/s"
        )
        axis.legend()
    figure.tight_layout()
    figure.savefig(folder / "published_predicted.svg", **kept)
    figure, axes = plt.subplots(1, 2, figsize=(12, 9), sharey=True)
    names = sorted({x.run["device"] for x in lines()}, reverse=True)
    for axis, speed in zip(axes, SPEEDS, strict=True):
        some = _never_seen(speed)
        axis.plot(
            [x.predicted / x.measured for x in some],
            [names.index(x.run["device"]) for x in some],
            "|",
            ms=6,
            alpha=0.6,
        )
        axis.axvline(1, c="k", lw=0.7)
        axis.set(xscale="log", xlim=(1 / 6, 6), title=speed, xlabel="predicted / measured")
        axis.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.grid(axis="y", lw=0.3)
    figure.tight_layout()
    figure.savefig(folder / "published_residuals.svg", **kept)


def _never_seen(speed: str) -> list[Line]:
    return [x for x in lines() if (x.speed, x.without) == (speed, "device")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ask", action="store_true", help="ask the peers again first")
    if parser.parse_args().ask:
        ask()
    plots()
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{block()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
