"""`weigh shrink quantize --json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weigh.model.spec import ModelSpec
    from weigh.shrink.targets import Shrunk
    from weigh.store.measurement import Measurement


def shrink_document(spec: ModelSpec, made: Shrunk, speeds: Mapping[str, Measurement]) -> dict[str, Any]:
    """Sizes in bytes, losses in nats, speeds as `weigh bench` stores them."""
    found = made.divergence
    return {
        "source": {
            "name": spec.name,
            "file": str(spec.file),
            "size_bytes": spec.file_bytes,
            "bits_per_weight": spec.bits_per_weight,
        },
        "made": {
            "file": str(made.path),
            "size_bytes": made.bytes,
            "bits_per_weight": made.model.bits_per_weight,
            "formats": {
                group.name.format(layer): group.type.name
                for group in made.model.tensors
                for layer in group.layers or (None,)
            },
            "expected_nats": made.expected_nats,
        },
        "divergence": None
        if found is None
        else {
            "kl": found.kl.to_json(),
            "same_top": found.same_top.to_json(),
            "reference_perplexity": found.reference_perplexity,
            "perplexity": found.perplexity,
            "tokens": found.tokens,
            "windows": found.windows,
        },
        "speeds": {
            when: [asdict(one) | {"figure": one.figure.to_json()} for one in measurement.measured]
            for when, measurement in speeds.items()
        },
    }
