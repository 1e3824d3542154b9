"""`weigh try`, `history` and `accuracy`: run a model, and look at what was run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from weigh.cli import options
from weigh.cli.answering import print_answer, progress_line, this_machine

if TYPE_CHECKING:
    from weigh.model.ggml_types import GgmlType

_NO = 1
_MOST_TRIALS = 64


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
    with this_machine(calibrate=not no_calibrate) as machine:
        here = machine.on_host if engine == "llama.cpp" else machine.on_host.under(engine)
        estimates = [
            serve(engine, spec, here, settings, workload, reserve_bytes=reserve)
            for settings, workload in asked
        ]
        try:
            for number, estimate in enumerate(estimates, start=1):
                way = choose_way(estimate, here, full=full, repetitions=repetitions)
                count = f" ({number} of {len(asked)})" if len(asked) > 1 else ""
                with progress_line(f"Test-driving {spec.name}{count}", way.seconds) as progress:
                    found.append(run_trial(estimate, here, way, repetitions=repetitions, progress=progress))
        finally:  # Ctrl-C keeps what is done
            if found:
                print_answer(as_json, lambda d: d.trials_document(found), lambda s: s.show_trials(found))
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
@click.option("--remove", "run_id", help="Forget the run, measurement or quality whose id begins so.")
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
    """Test-drives beside the estimates made before them, what was benchmarked, and measured quality, newest first.

    Of MODEL (part of a name, with or without :Q4_K_M) or all. What others measured, taken in with --import, is
    kept apart and named by its origin.
    """
    from pathlib import Path

    from weigh.store import Store, exchange, ledger
    from weigh.store import measurement as kept
    from weigh.store.quality_result import quality_results

    if sum(option is not None for option in (export_to, import_from, run_id)) + events > 1:
        raise click.UsageError("only one of --export, --import, --remove and --events at a time")
    if (origin is not None or mine) and import_from is None:
        raise click.UsageError("--origin and --mine say whose the runs of --import are")
    if origin is not None and mine:
        raise click.UsageError("--origin and --mine exclude each other")
    store = Store()
    if import_from is not None:
        taken = exchange.take_in(store, Path(import_from), origin or "", own=mine)
        print_answer(as_json, lambda d: d.imported_document(taken), lambda s: s.show_imported(taken))
        return 0
    if run_id is not None:
        gone = ledger.remove(store, run_id)
        print_answer(as_json, lambda d: d.removed_document(gone), lambda s: s.show_removed(gone))
        return 0
    most = limit if export_to is not None else limit or 20
    if events:
        told = kept.events(store, most)
        print_answer(as_json, lambda d: d.events_document(told), lambda s: s.show_events(told))
        return 0
    runs = ledger.runs(store, model, imported=all_origins, limit=most)
    measured = kept.measurements(store, model, imported=all_origins, limit=most, raw=export_to is not None)
    judged = quality_results(store, model, imported=all_origins, limit=most, pieces=export_to is not None)
    if export_to is not None:
        path = Path(export_to)
        exchange.export(path, runs, measured, judged)
        print_answer(
            as_json,
            lambda d: d.history_document(runs, measured, judged),
            lambda s: s.show_exported(runs, measured, judged, path),
        )
        return 0
    print_answer(
        as_json,
        lambda d: d.history_document(runs, measured, judged),
        lambda s: s.show_history(runs, measured, judged, origins=all_origins),
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
    print_answer(as_json, lambda d: d.accuracy_document(found, by), lambda s: s.show_accuracy(found, by))
    return 0
