"""What was worked out of a model is remembered: a model is weighed again and again, in ever other settings."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from weigh.model.spec import ModelSpec

MOST_REMEMBERED = 4096  # the catalog in a dozen quantizations

P = ParamSpec("P")
T = TypeVar("T")


def remembered(make: Callable[Concatenate[ModelSpec, P], T]) -> Callable[Concatenate[ModelSpec, P], T]:
    """Calls `make` once for each model and further arguments, which have to be hashable and given by place.

    A model counts by identity: it holds a mapping and cannot be hashed. Its entry keeps it alive, so that no
    other can come to have the same identity.
    """
    known: dict[Hashable, tuple[ModelSpec, T]] = {}

    @wraps(make)
    def remembering(spec: ModelSpec, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (id(spec), args)
        found = known.get(key)
        if found is None:
            if len(known) >= MOST_REMEMBERED:
                known.clear()
            found = known[key] = spec, make(spec, *args, **kwargs)
        return found[1]

    return remembering
