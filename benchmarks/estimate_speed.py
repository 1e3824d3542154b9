"""How long an estimate takes: one, and the whole catalog in 12 quantizations at 3 contexts.

    python benchmarks/estimate_speed.py [--write]

Calibrated constants are given (how they were come by does not matter here). Every figure is the median over
processes, in processor time; `--write` puts the table into docs/estimate_speed.md. Takes half a minute.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "estimate_speed.md"
BEGIN, END = "<!-- begin: benchmarks/estimate_speed.py -->", "<!-- end -->"
sys.path.insert(0, str(ROOT))

PROCESSES = 9
CONTEXTS = (4096, 8192, 32768)
QUANTIZATIONS = (
    *("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M"),
    *("Q4_0", "IQ4_XS", "Q3_K_M", "IQ3_M", "Q2_K", "IQ2_M"),
)
RUNS = 7000  # in the ledger
BARS_MS = {"one model, for the first time": 1.0, "all of them again, another prompt": 300.0}


def timed_ms(done: Callable[[], object]) -> float:
    """Processor time: what else runs delays it less."""
    begun = time.process_time()
    done()
    return 1000 * (time.process_time() - begun)


def measure() -> dict[str, float]:
    """In a process of its own, in this order: what was worked out stays known."""
    from tests.calibrations import CALIBRATION
    from weigh.engines.engine import Settings
    from weigh.estimate.setup import weigh
    from weigh.estimate.site import Site
    from weigh.estimate.speed import Workload
    from weigh.machine.devices import target_named
    from weigh.model.catalog import catalog
    from weigh.model.quantization import quantize
    from weigh.model.spec import ModelSpec
    from weigh.store import Store
    from weigh.store.ledger import learned

    site = Site(replace(target_named("CPU only, 32GB"), cpu_features=("AVX2",)), CALIBRATION)
    specs: list[ModelSpec] = []
    found: dict[str, float] = {}

    def read() -> None:
        for entry in catalog():
            if not entry.unsupported:
                specs.extend(quantize(entry.spec(), recipe) for recipe in QUANTIZATIONS)

    def sweep(at: Site, prompt_tokens: int) -> None:
        workload = Workload(prompt_tokens=prompt_tokens)
        for spec in specs:
            for context_tokens in CONTEXTS:
                weigh(spec, at, Settings(context_tokens=context_tokens), workload)

    found["read the catalog and quantize it"] = timed_ms(read)
    weigh(specs[0], site)  # importing modules is start-up, which benchmarks/startup.py times
    draw = random.Random(1)
    singles = [
        timed_ms(lambda spec=spec: weigh(spec, site))  # type: ignore[misc]
        for spec in draw.sample(specs, len(specs) // 20)
    ]
    found["one model, for the first time"] = statistics.median(singles)
    found["… nine in ten within"] = statistics.quantiles(singles, n=10)[8]
    found["… the slowest"] = max(singles)
    found["all of them, for the first time"] = timed_ms(lambda: sweep(site, 512))
    found["all of them again, another prompt"] = timed_ms(lambda: sweep(site, 600))
    found["all of them again, the same"] = timed_ms(lambda: sweep(site, 600))
    lessons: list[Site] = []
    key = CALIBRATION.fingerprint, CALIBRATION.engine, CALIBRATION.engine_version
    found[f"learn from a ledger of {RUNS:,} runs"] = timed_ms(
        lambda: lessons.append(replace(site, learned=learned(Store(), *key)))
    )
    found["all of them corrected, for the first time"] = timed_ms(lambda: sweep(lessons[0], 600))
    found["setups"] = len(specs) * len(CONTEXTS)
    return found


def recommended() -> dict[str, float]:
    """As `weigh recommend` searches, in a process of its own; the catalog has been read."""
    from tests.calibrations import CALIBRATION
    from weigh.advise.needs import need
    from weigh.advise.search import recommend
    from weigh.estimate.site import Site
    from weigh.machine.devices import target_named
    from weigh.model.catalog import catalog

    site, found = Site(target_named("CPU only, 32GB"), CALIBRATION), {}
    catalog()
    for what, context_tokens in (
        ("for the first time", 8192),
        ("another question", 12_000),
        ("again", 12_000),
    ):
        wanted = need("coding", context_tokens=context_tokens)
        found[f"recommend, {what}"] = timed_ms(lambda wanted=wanted: recommend(wanted, site))  # type: ignore[misc]
    return found


def fill_ledger() -> None:
    """Runs of random models of the catalog, in the store of the environment."""
    from tests.calibrations import CALIBRATION
    from tests.store.runs import run
    from weigh.model.catalog import catalog
    from weigh.store import Store, ledger

    draw = random.Random(1)
    entries = [entry for entry in catalog() if not entry.unsupported]
    with Store().open() as db:
        for number in range(RUNS):
            spec = draw.choice(entries).spec()
            changes = {"family": spec.architecture, "quantization": draw.choice(QUANTIZATIONS)}
            made = run(number, model=spec.name, calibration=CALIBRATION.created, **changes)
            ledger.insert(db, made)  # one by one, as `record` does, takes a minute


def table(seen: list[dict[str, float]]) -> str:
    from weigh.machine import probe

    setups = int(seen[0]["setups"])
    models = setups // len(CONTEXTS) // len(QUANTIZATIONS)
    lines = [
        f"{date.today()}, {probe().cpu.model}, Python {platform.python_version()}, processor time, median of"
        f" {len(seen)} processes (fastest–slowest). All of them: {setups:,} setups, {models} models in"
        f" {len(QUANTIZATIONS)} quantizations at {len(CONTEXTS)} contexts.",
        "",
        "| what | bar | takes |",
        "| --- | ---: | ---: |",
    ]
    for what in seen[0]:
        if what != "setups":
            times = [one[what] for one in seen]
            bar = f"{BARS_MS[what]:g} ms" if what in BARS_MS else ""
            middle, low, high = (f"{t:.3g}" for t in (statistics.median(times), min(times), max(times)))
            lines.append(f"| {what} | {bar} | {middle} ms ({low}–{high}) |")
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:] in (["--estimates"], ["--recommend"]):
        print(json.dumps(measure() if sys.argv[1] == "--estimates" else recommended()))
        return
    seen = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WEIGH_STORE"] = f"{folder}/weigh.db"
        fill_ledger()
        for number in range(PROCESSES):
            os.environ["XDG_CACHE_HOME"] = f"{folder}/{number}"
            times: dict[str, float] = {}
            for part in ("--estimates", "--recommend"):
                child = subprocess.run([sys.executable, __file__, part], stdout=subprocess.PIPE, check=True)
                times |= json.loads(child.stdout)
            seen.append(times)
    found = table(seen)
    print(found)
    if sys.argv[1:] == ["--write"]:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{found}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
