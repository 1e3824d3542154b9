"""The models that lie on this machine already, and whether each would run at a site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weigh.engines.engine import Settings
from weigh.errors import BadInput
from weigh.estimate.serving import on_llama_cpp
from weigh.estimate.setup import SetupEstimate
from weigh.estimate.site import Site
from weigh.estimate.speed import Workload
from weigh.model.inventory import Found, inventory

SHELF_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class OnShelf:
    """A model that was found; without a `setup`, `reason` says why it could not be weighed."""

    found: Found
    setup: SetupEstimate | None
    reason: str = ""


def shelf(folders: Sequence[Path], site: Site) -> list[OnShelf]:
    """Everything found in the usual places and in `folders`, weighed for llama.cpp."""
    return [_weighed(found, site) for found in inventory(folders)]


def _weighed(found: Found, site: Site) -> OnShelf:
    if found.spec is None or found.problem:
        return OnShelf(found, None, found.problem or "could not be read")
    try:
        return OnShelf(found, on_llama_cpp(found.spec, site, Settings(SHELF_TOKENS), Workload()))
    except BadInput as error:
        return OnShelf(found, None, error.message)
