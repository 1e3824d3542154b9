"""What each command shows: the answer first, then its reasons and figures, then one next command."""

from weigh.cli.screens.answer import show_answer, show_tasks
from weigh.cli.screens.cost import show_cost
from weigh.cli.screens.curve import show_curves
from weigh.cli.screens.fit import show_comparison, show_fit, show_purchases, show_trials
from weigh.cli.screens.ledger import (
    show_accuracy,
    show_events,
    show_exported,
    show_history,
    show_imported,
    show_removed,
)
from weigh.cli.screens.machine import show_devices, show_doctor, show_machine, show_target
from weigh.cli.screens.model import show_model, show_shelf
from weigh.cli.screens.table import show_table

__all__ = [
    "show_accuracy",
    "show_answer",
    "show_comparison",
    "show_cost",
    "show_curves",
    "show_devices",
    "show_doctor",
    "show_events",
    "show_exported",
    "show_fit",
    "show_history",
    "show_imported",
    "show_machine",
    "show_model",
    "show_purchases",
    "show_removed",
    "show_shelf",
    "show_table",
    "show_target",
    "show_tasks",
    "show_trials",
]
