"""The JSON form of what the commands of one answer each say; the keys are stable and described in docs/json.md."""

from weigh.cli.advice_document import answer_document, purchases_document, table_document
from weigh.cli.estimates_document import comparison_document, cost_document, curves_document, fit_document
from weigh.cli.inventory_document import (
    devices_document,
    doctor_document,
    here_document,
    model_document,
    shelf_document,
    target_document,
)
from weigh.cli.runs_document import (
    accuracy_document,
    events_document,
    history_document,
    imported_document,
    removed_document,
    trials_document,
)

__all__ = [
    "accuracy_document",
    "answer_document",
    "comparison_document",
    "cost_document",
    "curves_document",
    "devices_document",
    "doctor_document",
    "events_document",
    "fit_document",
    "here_document",
    "history_document",
    "imported_document",
    "model_document",
    "purchases_document",
    "removed_document",
    "shelf_document",
    "table_document",
    "target_document",
    "trials_document",
]
