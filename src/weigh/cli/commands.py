"""The commands: each parses, calls one library function, renders, and picks the exit code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from weigh.cli import options

if TYPE_CHECKING:
    from weigh.bench.here import Here
    from weigh.estimate.extras import Extras
    from weigh.estimate.serving import Served
    from weigh.estimate.setup import SetupEstimate
    from weigh.estimate.site import Site
    from weigh.model.ggml_types import GgmlType

_NO = 1
_MOST_TRIALS = 64


def _answer(as_json: bool, document: Callable[[Any], Any], screen: Callable[[Any], None]) -> None:
    """Print one of the two forms of an answer; the module of the other is not even imported."""
    if as_json:
        from weigh.cli import documents
        from weigh.cli.render import print_json

        print_json(document(documents))
    else:
        from weigh.cli import screens

        screen(screens)


@click.command()
@click.option("--calibrate", is_flag=True, help="Measure again: about 40 seconds.")
@click.option("--doctor", is_flag=True, help="What each probe saw, for a bug report; nothing is measured.")
@options.on
@options.as_json
def machine(calibrate: bool, doctor: bool, named: str | None, as_json: bool) -> int:
    """What was found here: processors, memory, GPUs, disk, and what was measured.

    With --on: what is known of a device that is only named.
    """
    if (named is not None) + calibrate + doctor > 1:
        raise click.UsageError("--on, --calibrate and --doctor ask for different things; give one of them")
    if named is not None:
        (site,) = options.sites([named], None, None, None)
        _answer(as_json, lambda d: d.target_document(site.target), lambda s: s.show_target(site.target))
        return 0
    if doctor:
        from weigh.machine.doctor import examine

        found = examine()
        _answer(as_json, lambda d: d.doctor_document(found), lambda s: s.show_doctor(found))
        return 0
    with _here(calibrate=calibrate, again=calibrate) as here:
        _answer(as_json, lambda d: d.here_document(here), lambda s: s.show_machine(here))
    return 0


@click.command()
@click.argument("model")
@options.as_json
def model(model: str, as_json: bool) -> int:
    """What MODEL is made of: parameters, number formats, bits per weight, KV cache per token.

    MODEL is a GGUF file, a safetensors folder, a config.json, ollama:NAME, hf:ORG/NAME, or a catalog name
    such as qwen2.5-coder-7b, with an optional quantization: llama-3.1-8b:Q4_K_M.
    """
    from weigh.model.resolve import resolve

    spec = resolve(model)
    _answer(as_json, lambda d: d.model_document(spec), lambda s: s.show_model(spec))
    return 0


@click.command()
@click.argument("folders", nargs=-1, type=click.Path())
@options.device
@options.as_json
def models(
    folders: tuple[str, ...],
    named: str | None,
    vram: int | None,
    bandwidth: float | None,
    ram: int | None,
    as_json: bool,
) -> int:
    """The models already on this machine, where they lie, and whether they fit.

    Looked through: Ollama's store, the Hugging Face cache, LM Studio's and llama.cpp's folders, FOLDERS with
    what lies in them, and the current folder.
    """
    from pathlib import Path

    from weigh.advise.shelf import shelf

    asked = options.sites([named] if named is not None else [], vram, bandwidth, ram)
    with _site(asked, calibrate=False) as site:
        found = shelf([Path(folder) for folder in folders], site)
        _answer(as_json, lambda d: d.shelf_document(found), lambda s: s.show_shelf(found, site))
    return 0


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
    named: tuple[str, ...],
    vram: int | None,
    bandwidth: float | None,
    ram: int | None,
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
    asked = options.sites(named, vram, bandwidth, ram)
    with _site(asked, calibrate=not no_calibrate) as first:
        sites = asked or (first,)
        found = [serve(engine, spec, site, settings, workload, reserve_bytes=reserve) for site in sites]
        layout = ask_layout(_asked_here(first), spec, settings) if ask_engine else None
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
            _answer(as_json, lambda d: d.comparison_document(found), lambda s: s.show_comparison(found))
        else:
            _answer(
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
    named: tuple[str, ...],
    vram: int | None,
    bandwidth: float | None,
    ram: int | None,
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
    asked = options.sites(named, vram, bandwidth, ram)
    with _site(asked, calibrate=not no_calibrate) as first:
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
        _answer(as_json, lambda d: d.curves_document(found), lambda s: s.show_curves(found, saved))
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
    named: str | None,
    vram: int | None,
    bandwidth: float | None,
    ram: int | None,
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
    asked = options.sites([named] if named is not None else [], vram, bandwidth, ram)
    with _site(asked, calibrate=not no_calibrate) as site:
        setup = weigh(spec, site, settings, workload, reserve_bytes=reserve)
        found = price_tokens(setup, given, prices)
        _answer(as_json, lambda d: d.cost_document(found, setup), lambda s: s.show_cost(found, setup))
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
    named: str | None,
    vram: int | None,
    bandwidth: float | None,
    ram: int | None,
    no_calibrate: bool,
    as_json: bool,
) -> int:
    """The best models for a need on this machine or on a device by name, ranked, with reasons.

    Exit code 1 when nothing meets the need; the nearest misses are shown then.
    """
    if task == "list":
        from weigh.cli.screens import show_tasks

        show_tasks()
        return 0
    from weigh.advise.needs import need
    from weigh.advise.search import recommend as search

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
    asked = options.sites([named] if named is not None else [], vram, bandwidth, ram)
    with _site(asked, calibrate=not no_calibrate) as site:
        answer = search(wanted, site, workload=workload, kv_type=kv_type, limit=limit)
        _answer(as_json, lambda d: d.answer_document(site, answer), lambda s: s.show_answer(site, answer))
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
    with _progress("Weighing it on every device") as progress:
        found = purchases(
            spec,
            settings,
            workload,
            min_decode_tokens_per_s=min_speed,
            max_ttft_s=max_ttft,
            everything=everything,
            progress=progress,
        )
    _answer(as_json, lambda d: d.purchases_document(found), lambda s: s.show_purchases(found, asked=model))
    return 0 if found.options else _NO


@click.command()
@click.option("--context", type=options.Tokens(), default=8192, help="Tokens of context (default: 8192).")
@options.device
@options.as_json
def table(
    context: int,
    named: str | None,
    vram: int | None,
    bandwidth: float | None,
    ram: int | None,
    as_json: bool,
) -> int:
    """Rules of thumb about model sizes, beside what is computed; where each of them misleads."""
    from weigh.advise.table import size_table

    asked = options.sites([named] if named is not None else [], vram, bandwidth, ram)
    with _site(asked, calibrate=False) as site:
        found = size_table(site, context_tokens=context)
        _answer(as_json, lambda d: d.table_document(found), lambda s: s.show_table(found))
    return 0


@click.command()
@click.argument("name", required=False)
@options.as_json
def devices(name: str | None, as_json: bool) -> int:
    """The devices weigh knows by name, or those whose name holds NAME."""
    from weigh.machine.device_sheets import known_devices

    found = known_devices(name or "")
    _answer(as_json, lambda d: d.devices_document(found), lambda s: s.show_devices(found, name or ""))
    return 0 if found else _NO


@click.command(name="try")
@click.argument("model")
@options.sweep
@options.reserve
@click.option(
    "--engine",
    type=click.Choice(["llama.cpp", "transformers", "vllm"]),
    default="llama.cpp",
    show_default=True,
    help="What to run it on.",
)
@click.option(
    "--full/--short",
    default=None,
    help="All of the model, or short ones of its shapes (default: short where all would take over 30 s).",
)
@click.option("--repetitions", type=click.IntRange(1, 100), help="Runs of the whole model (default: 2).")
@options.no_calibrate
@options.as_json
def try_(
    model: str,
    context: tuple[int, ...] | None,
    prompt: tuple[int, ...],
    output: int,
    depth: tuple[int, ...],
    kv_type: tuple[GgmlType, ...],
    parallel: tuple[int, ...],
    threads: tuple[int, ...] | None,
    reserve: int | None,
    engine: str,
    full: bool | None,
    repetitions: int | None,
    no_calibrate: bool,
    as_json: bool,
) -> int:
    """Test-drive MODEL here: the real engine on weights of the true shapes, nothing downloaded.

    Where running all of it would take long, or it does not fit, short models of its layers are run in turns
    and the whole is told from them. A file of the user's own is run as it is. The estimate made before stands
    beside what came out. Options with several values between commas are tried one after another. Exit code 1
    when it does not fit here; its speeds are then those it would have if it did.
    """
    from itertools import product

    from weigh.bench.trial import Trial, choose_way, run_trial
    from weigh.errors import BadInput
    from weigh.estimate.serving import STORED, serve
    from weigh.model.resolve import resolve

    spec = resolve(model, checkpoint=engine in STORED)
    asked = [
        options.settings_and_workload(
            context=tokens, prompt=p, output=output, depth=d, kv_type=kv, parallel=sequences, threads=t
        )
        for tokens, p, d, kv, sequences, t in product(
            context or (None,), prompt, depth, kv_type, parallel, threads or (None,)
        )
    ]
    if len(asked) > _MOST_TRIALS:
        raise BadInput(
            f"{len(asked)} combinations would be tried, one after another",
            hint=f"at most {_MOST_TRIALS}; ask for fewer values",
        )
    found: list[Trial] = []
    with _here(calibrate=not no_calibrate) as machine:
        here = machine.on_host if engine == "llama.cpp" else machine.on_host.under(engine)
        estimates = [
            serve(engine, spec, here, settings, workload, reserve_bytes=reserve)
            for settings, workload in asked
        ]
        try:
            for number, estimate in enumerate(estimates, start=1):
                way = choose_way(estimate, here, full=full, repetitions=repetitions)
                count = f" ({number} of {len(asked)})" if len(asked) > 1 else ""
                with _progress(f"Test-driving {spec.name}{count}", way.seconds) as progress:
                    found.append(run_trial(estimate, here, way, repetitions=repetitions, progress=progress))
        finally:  # Ctrl-C keeps what is done
            if found:
                _answer(as_json, lambda d: d.trials_document(found), lambda s: s.show_trials(found))
    return 0 if all(one.estimate.fits for one in found) else _NO


@click.command()
@click.argument("model", required=False)
@click.option(
    "--limit", type=click.IntRange(1), help="Of each to show, newest first (default: 20; exports: all)."
)
@click.option("--all-origins", is_flag=True, help="Imported ones too.")
@click.option(
    "--export", "export_to", type=click.Path(), help="Write your own to a new FILE: .json, .csv or .md."
)
@click.option(
    "--import",
    "import_from",
    type=click.Path(),
    help="Take in a FILE that weigh exported, or of llama-bench, GuideLLM or vllm bench serve.",
)
@click.option("--origin", help="Whose the imported ones are.")
@click.option("--mine", is_flag=True, help="They are your own, as of a file written when the disk was full.")
@click.option("--remove", "run_id", help="Forget the run or measurement whose id begins so.")
@click.option("--events", is_flag=True, help="What the guard of `weigh watch` and `weigh run` did, and why.")
@options.as_json
def history(
    model: str | None,
    limit: int | None,
    all_origins: bool,
    export_to: str | None,
    import_from: str | None,
    origin: str | None,
    mine: bool,
    run_id: str | None,
    events: bool,
    as_json: bool,
) -> int:
    """Test-drives beside the estimates made before them, and what was benchmarked, newest first.

    Of MODEL (part of a name, with or without :Q4_K_M) or all. What others measured, taken in with --import, is
    kept apart and named by its origin.
    """
    from pathlib import Path

    from weigh.store import Store, exchange, ledger
    from weigh.store import measurement as kept

    if sum(option is not None for option in (export_to, import_from, run_id)) + events > 1:
        raise click.UsageError("only one of --export, --import, --remove and --events at a time")
    if (origin is not None or mine) and import_from is None:
        raise click.UsageError("--origin and --mine say whose the runs of --import are")
    if origin is not None and mine:
        raise click.UsageError("--origin and --mine exclude each other")
    store = Store()
    if import_from is not None:
        taken = exchange.take_in(store, Path(import_from), origin or "", own=mine)
        _answer(as_json, lambda d: d.imported_document(taken), lambda s: s.show_imported(taken))
        return 0
    if run_id is not None:
        gone = ledger.remove(store, run_id)
        _answer(as_json, lambda d: d.removed_document(gone), lambda s: s.show_removed(gone))
        return 0
    most = limit if export_to is not None else limit or 20
    if events:
        told = kept.events(store, most)
        _answer(as_json, lambda d: d.events_document(told), lambda s: s.show_events(told))
        return 0
    runs = ledger.runs(store, model, imported=all_origins, limit=most)
    measured = kept.measurements(store, model, imported=all_origins, limit=most, raw=export_to is not None)
    if export_to is not None:
        path = Path(export_to)
        exchange.export(path, runs, measured)
        _answer(
            as_json,
            lambda d: d.history_document(runs, measured),
            lambda s: s.show_exported(runs, measured, path),
        )
        return 0
    _answer(
        as_json,
        lambda d: d.history_document(runs, measured),
        lambda s: s.show_history(runs, measured, origins=all_origins),
    )
    return 0


@click.command()
@click.option(
    "--by",
    type=click.Choice(["machine", "engine", "formula", "family", "quantization", "kind"]),
    help="What to tell runs apart by.",
)
@options.as_json
def accuracy(by: str | None, as_json: bool) -> int:
    """How right the estimates were: errors over the runs made here and, apart from them, over imported ones."""
    from weigh.store import Store, ledger
    from weigh.store.accuracy import accuracy as errors

    found = errors(ledger.runs(Store(), imported=True), by)
    _answer(as_json, lambda d: d.accuracy_document(found, by), lambda s: s.show_accuracy(found, by))
    return 0


@contextmanager
def _site(asked: tuple[Site, ...], *, calibrate: bool) -> Iterator[Site]:
    """The first device asked for; this machine when none is."""
    if asked:
        yield asked[0]
    else:
        with _here(calibrate=calibrate) as here:
            yield here


def _asked_here(site: Site) -> Here:
    """Raises BadInput for a device that is only named: no engine runs there."""
    from weigh.bench.here import Here
    from weigh.errors import BadInput

    if not isinstance(site, Here):
        raise BadInput("the engine can be asked on this machine only", hint="leave out --on or --ask-engine")
    return site


@contextmanager
def _here(*, calibrate: bool, again: bool = False) -> Iterator[Here]:
    """This machine, calibrated now if it has to be, with a progress line while that takes."""
    from weigh.bench.here import here

    with _progress("Measuring this machine (once, about 40 s)") as progress:
        found = here(calibrate=calibrate, again=again, progress=progress)
    yield found


@contextmanager
def _progress(title: str, expected_s: float | None = None) -> Iterator[Any]:
    from weigh import units
    from weigh.cli.render import ProgressLine

    line = ProgressLine(f"{title}, about {units.seconds(expected_s)}" if expected_s else title)
    try:
        yield line
    finally:
        line.close()


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
