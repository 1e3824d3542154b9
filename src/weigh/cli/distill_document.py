"""`weigh shrink distill --json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from weigh.cli.quality_text_document import diverged_document, text_document

if TYPE_CHECKING:
    from weigh.shrink.taught import Contender, Taught


def distill_document(found: Taught) -> dict[str, Any]:
    """Sizes in bytes; what is measured on held-out text as `weigh quality --text` has it."""
    return {
        "recipe": asdict(found.recipe),
        "training_files": found.training_files,
        "models": [_contender(one) for one in found.contenders],
        "held_out": text_document(found.run),
        "not_compared": found.not_compared or None,
    }


def _contender(one: Contender) -> dict[str, Any]:
    return {
        "role": one.name,
        "name": one.spec.name,
        "folder": str(one.spec.file),
        "parameters": one.spec.parameters,
        "size_bytes": one.spec.file_bytes,
        "trained_s": one.student and one.student.trained_s,
        "last_loss_nats": one.student and one.student.last_loss,
        "divergence": one.diverged and diverged_document(one.diverged),
    }
