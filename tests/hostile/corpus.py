"""All cases, in a fixed order; the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile import checkpoint_cases, config_cases, gguf_cases, hub_cases, store_cases
from tests.hostile.case import Case

_MODULES = {
    "gguf": gguf_cases,
    "safetensors index": checkpoint_cases,
    "config": config_cases,
    "ollama cache": store_cases,
    "hub": hub_cases,
}


def corpus(kind: str = "") -> Iterator[Case]:
    """Those whose name begins with `kind`."""
    for kinds, module in _MODULES.items():
        if kind in kinds:
            yield from (case for case in module.cases() if case.name.startswith(kind))
