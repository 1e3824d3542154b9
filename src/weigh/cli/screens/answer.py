"""The ranking for a need, with its reasons, and the needs there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, Grid, interval, screen_width, show
from weigh.cli.screens.facts import facts, held
from weigh.cli.screens.machine import site_facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weigh.advise.search import Answer, Recommendation
    from weigh.estimate.site import Site

# Columns of the ranking, each with the width of screen below which it is left out.
_COLUMNS = {
    "model": 0,
    "parameters": 130,
    "quant": 0,
    "memory": 0,
    "decode tok/s": 0,
    "prefill tok/s": 150,
    "first token": 95,
    "load": 158,
    "quality": 90,
    "basis": 170,
}
_NUMBERS = ("memory", "decode tok/s", "prefill tok/s", "first token", "load")


def show_tasks() -> None:
    from weigh.advise.needs import TASKS

    numbers = ("context", "prompt", "output", "least tokens/s")
    rows = Grid(("task", *numbers, "for"), right=numbers, prose=("for",))
    for task in TASKS.values():
        rows.add(
            task.name,
            f"{task.context_tokens:,}",
            f"{task.prompt_tokens:,}",
            f"{task.output_tokens:,}",
            units.rate(task.min_decode_tokens_per_s),
            task.description,
        )
    show(rows)


def show_answer(site: Site, answer: Answer) -> None:
    facts(site_facts(site))
    need = answer.need
    wanted = f"at least {units.rate(need.min_decode_tokens_per_s)} tokens/s"
    wait = f" · first token within {units.seconds(need.max_ttft_s)}" if need.max_ttft_s else ""
    users = f" · {need.users} users" if need.users > 1 else ""
    show(
        "\n",
        Bold(need.task.description),
        f" · {need.context_tokens:,} tokens of context{users}"
        f" · {wanted}{wait} · {units.gib(need.reserve_bytes or 0)} kept free\n",
    )
    if answer.ranked:
        _show_ranked(answer, named=None if site.target.probed else site.target.name)
    else:
        _show_misses(answer)


def _show_ranked(answer: Answer, *, named: str | None) -> None:
    show(_setups_table(answer, answer.ranked))
    show()
    first = answer.ranked[0]
    facts(
        [
            ("Why", answer.why),
            *(("" if n else "Next size up", line) for n, line in enumerate(answer.binding)),
            *(("" if n else "Trade", line) for n, line in enumerate(answer.trades)),
            *_measured_here(answer.ranked),
            *([("Split", first.setup.why)] if first.setup.why else []),
            *([("Quality", first.quality.source)] if first.quality.source else []),
        ]
    )
    if named:
        show("\nSee how  ", Bold(f'weigh fit {first.name} --on "{named}"'))
    else:
        show("\nProve it  ", Bold(f"weigh try {first.name}"))


def _measured_here(ranked: Sequence[Recommendation]) -> list[tuple[str, str]]:
    """A line for each thing that was measured of a model that is shown."""
    said = [(one.name, line) for one in ranked for line in one.measured_here]
    return [("" if n else "Measured", f"{name}: {line}") for n, (name, line) in enumerate(said)]


def _show_misses(answer: Answer) -> None:
    show(
        Bold("Nothing fits this need"),
        f" in {units.gib(answer.available_bytes)}"
        f" ({answer.considered:,} setups weighed). The nearest misses:\n",
    )
    if answer.misses:
        show(_setups_table(answer, answer.misses))
        show()
        facts([(miss.name, "; ".join(s.text for s in miss.shortfalls)) for miss in answer.misses])


def _setups_table(answer: Answer, setups: tuple[Recommendation, ...]) -> Grid:
    width = screen_width()
    columns = tuple(name for name, least in _COLUMNS.items() if width >= least)
    shown = Grid(
        columns,
        right=_NUMBERS,
        prose=("quality",),
        strong=(0,),
        note=f"memory of {units.gib(answer.available_bytes)} usable · first token of a"
        f" {answer.need.prompt_tokens:,}-token prompt · ranges hold 80 % of runs",
    )
    for rank, one in enumerate(setups):
        cells = _cells(one)
        cells["model"] = ("▶ " if rank == 0 and one.meets else "  ") + cells["model"]
        shown.add(*(cells[column] for column in columns))
    return shown


def _cells(one: Recommendation) -> dict[str, str]:
    setup, speed = one.setup, one.setup.speed
    experts = setup.active_parameters < setup.parameters
    active = f", {units.count(setup.active_parameters)} active" if experts else ""
    return {
        "model": one.entry.id.rsplit("/", 1)[-1],
        "parameters": units.count(setup.parameters) + active,
        "quant": setup.quantization,
        "memory": held(setup.devices, of_room=False),
        "decode tok/s": interval(speed.decode_tokens_per_s if speed else None),
        "prefill tok/s": interval(speed.prefill_tokens_per_s if speed else None),
        "first token": units.seconds(setup.first_token_s.value) if setup.first_token_s else "unknown",
        "load": units.seconds(speed.load_s.value) if speed else "unknown",
        "quality": one.quality.headline,
        "basis": str(speed.decode_tokens_per_s.basis) if speed else "computed",
    }
