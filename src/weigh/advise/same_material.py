"""Quality that `weigh quality` measured of several models on one and the same thing, so that it compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weigh.store.quality_result import QualityResult, Way

if TYPE_CHECKING:
    from weigh.figure import Figure
    from weigh.store.fields import Scalar

# What stands for each way, the most telling first; of a perplexity the tokenizer decides as much as the model.
_MEASURES = {
    Way.TASKS: ("pass@1", "share of tasks passed"),
    Way.REPOSITORY: ("bits_per_byte", "bits per byte on the repository"),
    Way.TEXT: ("bits_per_byte", "bits per byte on the text"),
    Way.DIVERGENCE: ("kl_nats", "nats of divergence on the text"),
}
_LESS_IS_BETTER = frozenset({Way.REPOSITORY, Way.TEXT, Way.DIVERGENCE})


@dataclass(frozen=True, slots=True)
class SharedQuality:
    """One figure for each model.

    Attributes:
        said: what it is a figure of, as `bits per byte on the repository weigh`.
    """

    said: str
    figures: tuple[Figure, ...]
    less_is_better: bool


def shared_quality(
    models: Sequence[tuple[str, str]], results: Sequence[QualityResult]
) -> SharedQuality | None:
    """Of models by name and quantization; None where there is nothing that all were measured on in equal extent.

    Args:
        results: newest first.
    """
    for way, (name, words) in _MEASURES.items():
        by_material: dict[tuple[object, ...], dict[tuple[str, str], QualityResult]] = {}
        for one in results:
            if one.way is way and one.measure(name) is not None:
                of = by_material.setdefault(_material(one, name), {})
                of.setdefault((one.model.name, one.model.quantization), one)
        for of in by_material.values():
            found = [of.get(model) for model in models]
            known = [one for one in found if one is not None]
            if len(known) < len(models) or not known:
                continue
            figures = tuple(measure.figure for one in known if (measure := one.measure(name)) is not None)
            about = f" against {known[0].reference.label}" if known[0].reference else ""
            return SharedQuality(f"{words} {known[0].material.name}{about}", figures, way in _LESS_IS_BETTER)
    return None


def _material(one: QualityResult, name: str) -> tuple[object, ...]:
    """What has to be equal for figures to compare: the thing, how much of it was read, and how it was asked."""
    measure = one.measure(name)
    settings: list[tuple[str, Scalar]] = sorted(one.material.settings.items())
    return (
        one.material.name,
        one.material.digest,
        one.material.text_bytes,
        measure and measure.count,
        one.reference and (one.reference.name, one.reference.quantization),
        *settings,
    )
