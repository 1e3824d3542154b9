"""The commands of one answer each: they parse, call one library function, render, and pick the exit code."""

from __future__ import annotations

import click

from weigh.cli.estimates import buy, cost, curve, fit, recommend, table
from weigh.cli.inventory import devices, machine, model, models
from weigh.cli.runs import accuracy, history, try_

__all__ = ["ALL", "recommend"]

ALL: tuple[click.Command, ...] = (
    machine,
    devices,
    model,
    models,
    fit,
    curve,
    cost,
    recommend,
    buy,
    table,
    try_,
    history,
    accuracy,
)
