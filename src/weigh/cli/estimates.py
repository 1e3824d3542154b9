"""`weigh fit`, `curve`, `cost`, `recommend`, `buy` and `table`: what would come of it, before it is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from weigh.cli import options
from weigh.cli.answering import asked_here, print_answer, progress_line, site_asked_for

if TYPE_CHECKING:
    from weigh.estimate.extras import Extras
    from weigh.estimate.serving import Served
    from weigh.estimate.setup import SetupEstimate
    from weigh.estimate.site import Site
    from weigh.model.ggml_types import GgmlType

_NO = 1


@click.command()
@click.argument("model")
@click.option("--context", type=options.Tokens(), help="Tokens of context per sequence (default: 4096).")
@options.workload
@options.parallel
@options.reserve
@options.devices
@options.engine
@options.extras
@click.option("--ask-engine", is_flag=True, help="Hold the memory against the engine's own layout.")
@options.no_calibrate
@options.as_json
def fit(
    model: str,
    context: int | None,
    prompt: int,
    output: int,
    depth: int,
    parallel: int,
    kv_type: GgmlType,
    reserve: int | None,
    asked: tuple[Site, ...],
    engine: str,
    draft: str | None,
    acceptance: float | None,
    draft_tokens: int | None,
    cached_prompt: int | None,
    compare_kv: bool,
    ask_engine: bool,
    no_calibrate: bool,
    as_json: bool,
) -> int:
    """Does MODEL fit, how fast is it, how much context can it hold, and which part goes where?

    Here, or on devices by name; with several they are compared. Exit code 1 when it fits on none, or not
    together with its draft.
    """
    from weigh.bench.here import ask_layout
    from weigh.estimate.serving import STORED, serve
    from weigh.model.resolve import resolve

    spec = resolve(model, checkpoint=engine in STORED)
    settings, workload = options.settings_and_workload(
        context=context, prompt=prompt, output=output, depth=depth, parallel=parallel, kv_type=kv_type
    )
    with site_asked_for(asked, calibrate=not no_calibrate) as first:
        sites = asked or (first,)
        found = [serve(engine, spec, site, settings, workload, reserve_bytes=reserve) for site in sites]
        layout = ask_layout(asked_here(first), spec, settings) if ask_engine else None
        more = _extras(
            found,
            engine,
            drafter=draft,
            acceptance=acceptance,
            draft_tokens=draft_tokens,
            cached_prompt=cached_prompt,
            compare_kv=compare_kv,
            reserve_bytes=reserve,
        )
        if len(found) > 1:
            print_answer(as_json, lambda d: d.comparison_document(found), lambda s: s.show_comparison(found))
        else:
            print_answer(
                as_json,
                lambda d: d.fit_document(found[0], layout, more),
                lambda s: s.show_fit(found[0], layout, asked=model, extras=more),
            )
    together = more is None or more.drafts is None or more.drafts.fits
    return 0 if any(one.fits for one in found) and together else _NO


def _extras(found: Sequence[SetupEstimate | Served], engine: str, **asked: Any) -> Extras | None:
    """Raises BadInput where more is asked than one setup of llama.cpp can answer."""
    from weigh.errors import BadInput
    from weigh.estimate.extras import extras
    from weigh.estimate.setup import SetupEstimate

    wanted = any(asked[name] not in (None, False) for name in asked if name != "reserve_bytes")
    answered = len(found) == 1 and (engine == "llama.cpp" or not wanted)
    if answered and isinstance(found[0], SetupEstimate):
        if asked["drafter"] is None and (asked["acceptance"] is not None or asked["draft_tokens"]):
            raise BadInput("nothing drafts", hint="add --draft MODEL, --draft ngram or --draft mtp")
        return extras(found[0], **asked)
    if wanted:
        raise BadInput(
            "drafts, cached prompts and KV types are answered for one device and llama.cpp",
            hint="name one device, and leave out --engine",
        )
    return None


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--context",
    type=options.Tokens(),
    help="Tokens of context held (default: 32k, or as far as trained for).",
)
@click.option("--prompt-up-to", type=options.Tokens(), help="Longest prompt (default: the context's room).")
@click.option("--depth-up-to", type=options.Tokens(), help="Greatest depth (default: the context's room).")
@click.option("--output", type=options.Tokens(), default=128, show_default=True, help="Output tokens.")
@options.kv_types
@options.parallel
@options.reserve
@options.devices
@click.option("--plot", type=click.Path(), help="Write the picture to a .png or .svg file, too.")
@options.no_calibrate
@options.as_json
def curve(
    models: tuple[str, ...],
    context: int | None,
    prompt_up_to: int | None,
    depth_up_to: int | None,
    output: int,
    kv_types: tuple[GgmlType, ...],
    parallel: int,
    reserve: int | None,
    asked: tuple[Site, ...],
    plot: str | None,
    no_calibrate: bool,
    as_json: bool,
) -> int:
    """Time to first token over the prompt's length, and decode speed over depth, as curves.

    Several MODELs, devices and KV types go into one picture. Exit code 1 when there is nothing to draw.
    """
    from pathlib import Path

    from weigh.estimate.curves import compared
    from weigh.model.resolve import resolve

    if plot is not None:
        from weigh.cli import picture

        picture.check(Path(plot))
    specs = [resolve(model) for model in models]
    with site_asked_for(asked, calibrate=not no_calibrate) as first:
        found = compared(
            specs,
            asked or (first,),
            kv_types,
            context_tokens=context,
            parallel=parallel,
            output_tokens=output,
            prompt_up_to=prompt_up_to,
            depth_up_to=depth_up_to,
            reserve_bytes=reserve,
        )
        drawn = any(one.ttft for one in found)
        if plot is not None and drawn:
            picture.draw(found, Path(plot))
        saved = plot if plot is not None and drawn else ""
        print_answer(as_json, lambda d: d.curves_document(found), lambda s: s.show_curves(found, saved))
    return 0 if drawn else _NO


@click.command()
@click.argument("model")
@click.option(
    "--price", type=click.FloatRange(0), default=0.0, help="Of the hardware (default: not counted)."
)
@click.option(
    "--lifetime", type=options.Years(), default="3y", show_default=True, help="Then it is worth nothing."
)
@click.option("--hours-per-day", type=float, default=24.0, show_default=True, help="At work, at full use.")
@click.option("--electricity", type=click.FloatRange(0), help="Price of a kWh (default: not counted).")
@click.option(
    "--watts", type=click.FloatRange(0, min_open=True), help="Measured at the wall while computing."
)
@click.option("--idle-watts", type=click.FloatRange(0), default=0.0, help="Drawn in the hours at rest.")
@click.option("--currency", default="USD", show_default=True, help="Of all prices.")
@click.option(
    "--api", "apis", multiple=True, help="NAME=IN/OUT per million tokens, or a NAME whose price is known."
)
@click.option("--users", type=click.IntRange(1, 1024), default=1, show_default=True, help="Users at once.")
@click.option("--context", type=options.Tokens(), help="Tokens of context per user (default: 4096).")
@options.workload
@options.reserve
@options.device
@options.no_calibrate
@options.as_json
def cost(
    model: str,
    price: float,
    lifetime: float,
    hours_per_day: float,
    electricity: float | None,
    watts: float | None,
    idle_watts: float,
    currency: str,
    apis: tuple[str, ...],
    users: int,
    context: int | None,
    prompt: int,
    output: int,
    depth: int,
    kv_type: GgmlType,
    reserve: int | None,
    asked: tuple[Site, ...],
    no_calibrate: bool,
    as_json: bool,
) -> int:
    """What a million tokens cost on hardware of your own, beside an API's price; joules per token.

    Prices are yours to say; those of a few APIs are known. Exit code 1 when it does not fit or no speed is known.
    """
    from weigh.estimate.cost import Costs, api_price
    from weigh.estimate.cost import cost as price_tokens
    from weigh.estimate.setup import weigh
    from weigh.model.resolve import resolve

    given = Costs(price, lifetime, hours_per_day, electricity, watts, idle_watts, currency)
    prices = tuple(api_price(api) for api in apis)
    settings, workload = options.settings_and_workload(
        context=context, prompt=prompt, output=output, depth=depth, parallel=users, kv_type=kv_type
    )
    spec = resolve(model)
    with site_asked_for(asked, calibrate=not no_calibrate) as site:
        setup = weigh(spec, site, settings, workload, reserve_bytes=reserve)
        found = price_tokens(setup, given, prices)
        print_answer(as_json, lambda d: d.cost_document(found, setup), lambda s: s.show_cost(found, setup))
    return 0 if found else _NO


@click.command()
@click.option("--task", default="coding", show_default=True, help="What it is for; `--task list` shows all.")
@click.option("--context", type=options.Tokens(), help="Tokens of context per user (default: the task's).")
@click.option("--users", "--parallel", type=click.IntRange(1, 1024), help="Users at once (default: 1).")
@click.option("--min-speed", type=click.FloatRange(0), help="Least decode tokens/s (default: the task's).")
@click.option("--max-ttft", type=click.FloatRange(0), help="Longest wait for the first token, in seconds.")
@options.reserve
@click.option("--limit", type=click.IntRange(1, 100), default=8, show_default=True, help="Rows to show.")
@options.task_workload
@options.device
@options.no_calibrate
@options.as_json
def recommend(
    task: str,
    context: int | None,
    users: int | None,
    min_speed: float | None,
    max_ttft: float | None,
    reserve: int | None,
    limit: int,
    prompt: int | None,
    output: int | None,
    depth: int,
    kv_type: GgmlType,
    asked: tuple[Site, ...],
    no_calibrate: bool,
    as_json: bool,
) -> int:
    """The best models for a need on this machine or on a device by name, ranked, with reasons.

    What `weigh quality` measured here of the catalog's models counts in, and is said.

    Exit code 1 when nothing meets the need; the nearest misses are shown then.
    """
    if task == "list":
        from weigh.cli.screens import show_tasks

        show_tasks()
        return 0
    from weigh.advise.measured import evidence
    from weigh.advise.needs import need
    from weigh.advise.search import recommend as search
    from weigh.store import Store

    wishes = {
        "context_tokens": context,
        "users": users,
        "min_decode_tokens_per_s": min_speed,
        "max_ttft_s": max_ttft,
        "reserve_bytes": reserve,
        "prompt_tokens": prompt,
        "output_tokens": output,
    }
    wanted = need(task, **{name: wish for name, wish in wishes.items() if wish is not None})  # type: ignore[arg-type]
    _, workload = options.settings_and_workload(
        context=None,
        prompt=prompt or 512,
        output=output or 128,
        depth=depth,
        parallel=wanted.users,
        kv_type=kv_type,
    )
    with site_asked_for(asked, calibrate=not no_calibrate) as site:
        answer = search(
            wanted, site, workload=workload, kv_type=kv_type, limit=limit, evidence=evidence(Store())
        )
        print_answer(
            as_json, lambda d: d.answer_document(site, answer), lambda s: s.show_answer(site, answer)
        )
    return 0 if answer.ranked else _NO


@click.command()
@click.argument("model")
@click.option("--context", type=options.Tokens(), help="Tokens of context per sequence (default: 4096).")
@click.option(
    "--min-speed", type=click.FloatRange(0), help="Least decode tokens/s (default: 10).", default=10.0
)
@click.option("--max-ttft", type=click.FloatRange(0), help="Longest wait for the first token, in seconds.")
@options.workload
@options.parallel
@click.option("--all", "everything", is_flag=True, help="Every device that does it, not only the least ones.")
@options.as_json
def buy(
    model: str,
    context: int | None,
    min_speed: float,
    max_ttft: float | None,
    prompt: int,
    output: int,
    depth: int,
    kv_type: GgmlType,
    parallel: int,
    everything: bool,
    as_json: bool,
) -> int:
    """The least hardware that runs MODEL as fast as wanted: cards, sets of cards, Macs, boards, servers.

    Exit code 1 when no device weigh knows does it.
    """
    from weigh.advise.buy import purchases
    from weigh.model.resolve import resolve

    spec = resolve(model)
    settings, workload = options.settings_and_workload(
        context=context, prompt=prompt, output=output, depth=depth, parallel=parallel, kv_type=kv_type
    )
    with progress_line("Weighing it on every device") as progress:
        found = purchases(
            spec,
            settings,
            workload,
            min_decode_tokens_per_s=min_speed,
            max_ttft_s=max_ttft,
            everything=everything,
            progress=progress,
        )
    print_answer(
        as_json, lambda d: d.purchases_document(found), lambda s: s.show_purchases(found, asked=model)
    )
    return 0 if found.options else _NO


@click.command()
@click.option("--context", type=options.Tokens(), default=8192, help="Tokens of context (default: 8192).")
@options.device
@options.as_json
def table(
    context: int,
    asked: tuple[Site, ...],
    as_json: bool,
) -> int:
    """Rules of thumb about model sizes, beside what is computed; where each of them misleads."""
    from weigh.advise.table import size_table

    with site_asked_for(asked, calibrate=False) as site:
        found = size_table(site, context_tokens=context)
        print_answer(as_json, lambda d: d.table_document(found), lambda s: s.show_table(found))
    return 0
