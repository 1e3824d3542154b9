"""Weigh a language model before you run it.

    import weigh

    here = weigh.here()                                  # probes; measures the machine the first time
    spec = weigh.resolve("qwen2.5-coder-7b:Q4_K_M")      # or a GGUF file, a config.json, a folder
    found = weigh.weigh(spec, here)                      # memory, speed, load time, split over GPUs
    best = weigh.recommend(weigh.need("coding"), here)   # the ranked catalog
    trial = weigh.run_trial(found, here)                 # the proof: nothing is downloaded

Names are imported when first used, so that importing weigh costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weigh.advise.needs import TASKS as TASKS
    from weigh.advise.needs import Need as Need
    from weigh.advise.needs import need as need
    from weigh.advise.search import Answer as Answer
    from weigh.advise.search import Recommendation as Recommendation
    from weigh.advise.search import recommend as recommend
    from weigh.bench.here import Here as Here
    from weigh.bench.here import here as here
    from weigh.bench.trial import Trial as Trial
    from weigh.bench.trial import run_trial as run_trial
    from weigh.engines.engine import Settings as Settings
    from weigh.errors import WeighError as WeighError
    from weigh.estimate.serving import serve as serve
    from weigh.estimate.setup import SetupEstimate as SetupEstimate
    from weigh.estimate.setup import weigh as weigh
    from weigh.estimate.site import Site as Site
    from weigh.estimate.speed import Workload as Workload
    from weigh.figure import Basis as Basis
    from weigh.figure import Figure as Figure
    from weigh.machine import probe as probe
    from weigh.machine.devices import target_named as target_named
    from weigh.model.quantization import quantize as quantize
    from weigh.model.resolve import resolve as resolve
    from weigh.model.spec import ModelSpec as ModelSpec

_HOME = {
    "TASKS": "weigh.advise.needs",
    "Need": "weigh.advise.needs",
    "need": "weigh.advise.needs",
    "Answer": "weigh.advise.search",
    "Recommendation": "weigh.advise.search",
    "recommend": "weigh.advise.search",
    "Here": "weigh.bench.here",
    "here": "weigh.bench.here",
    "Trial": "weigh.bench.trial",
    "run_trial": "weigh.bench.trial",
    "Settings": "weigh.engines.engine",
    "WeighError": "weigh.errors",
    "SetupEstimate": "weigh.estimate.setup",
    "Site": "weigh.estimate.site",
    "serve": "weigh.estimate.serving",
    "target_named": "weigh.machine.devices",
    "weigh": "weigh.estimate.setup",
    "Workload": "weigh.estimate.speed",
    "Basis": "weigh.figure",
    "Figure": "weigh.figure",
    "probe": "weigh.machine",
    "quantize": "weigh.model.quantization",
    "resolve": "weigh.model.resolve",
    "ModelSpec": "weigh.model.spec",
}

__all__ = sorted(_HOME)  # noqa: PLE0605 - names below are imported on first use


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module `weigh` has no attribute `{name}`")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
