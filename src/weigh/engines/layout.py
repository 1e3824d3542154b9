"""Memory as the engine itself lays it out, before it allocates any."""

from __future__ import annotations

import time
from collections.abc import Sequence

from weigh.engines import engine_log
from weigh.engines.child import Child
from weigh.engines.engine import Layout, Limits
from weigh.errors import EngineCrashed

_START_S = 120.0


def layout_said_by(command: Sequence[str], *, what: str) -> Layout:
    """Run a llama.cpp program until its fit step has printed the memory it would take, then end it.

    Raises:
        EngineError: it does not take the model, or says nothing of memory.
    """
    child = Child(command, Limits(start_s=_START_S), what=what)
    try:
        child.wait_for(engine_log.LAYOUT_DONE, time.monotonic() + _START_S)
    finally:
        child.end()
    layout = engine_log.layout(child.log())
    if layout is None:
        raise EngineCrashed(f"{what} does not say how much memory it would take")
    return layout
