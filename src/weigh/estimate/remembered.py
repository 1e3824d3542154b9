"""What was worked out of a model is remembered: a model is weighed again and again, in ever other settings."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar, TypeVarTuple

from weigh.model.spec import ModelSpec

MOST_REMEMBERED = 4096  # the catalog in a dozen quantizations

Arguments = TypeVarTuple("Arguments")
T = TypeVar("T")


def remembered(make: Callable[[ModelSpec, *Arguments], T]) -> Callable[[ModelSpec, *Arguments], T]:
    """Calls `make` once for each model and further arguments, which have to be hashable.

    A model counts by identity: it holds a mapping and cannot be hashed. Its entry keeps it alive, so that no
    other can come to have the same identity.
    """
    known: dict[Hashable, tuple[ModelSpec, T]] = {}

    def remembering(spec: ModelSpec, *arguments: *Arguments) -> T:
        key = (id(spec), arguments)
        found = known.get(key)
        if found is None:
            if len(known) >= MOST_REMEMBERED:
                known.clear()
            found = known[key] = spec, make(spec, *arguments)
        return found[1]

    return remembering
