"""`weigh check`: budgets for CI."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from weigh.cli import options
from weigh.cli.bench import at_url, key_env, leave_out, on_engine, run_bench, workload
from weigh.cli.durations import Percent, Seconds
from weigh.errors import EngineError

if TYPE_CHECKING:
    from weigh.errors import NotKept
    from weigh.store.measurement import Measurement

_NO = 1


@click.command()
@click.argument("model", required=False, metavar="[MODEL|URL]")
@click.option("--from", "beginning", help="Judge the stored measurement whose id begins so.")
@click.option("--max-memory", type=options.Bytes(), help="Most memory at its peak, e.g. 6GiB.")
@click.option("--max-load", type=Seconds(), help="Longest start: nothing cached where that can be measured.")
@click.option("--max-ttft", type=Seconds(), help="Longest time to the first token, e.g. 2s.")
@click.option("--max-itl", type=Seconds(), help="Longest gap between tokens, e.g. 100ms.")
@click.option("--min-decode", type=click.FloatRange(0, min_open=True), help="Least decode tokens/s.")
@click.option("--min-prefill", type=click.FloatRange(0, min_open=True), help="Least prefill tokens/s.")
@click.option("--junit", type=click.Path(), help="Write JUnit XML to this FILE.")
@on_engine
@at_url
@key_env
@workload(prompt="512", output=64)
@click.option("--context", type=options.Tokens(), help="Tokens of context per sequence (default: 4096).")
@click.option("--threads", type=click.IntRange(1, 4096), help="Threads (default: all cores).")
@click.option(
    "--precision",
    type=Percent(),
    default="5%",
    show_default=True,
    help="Go on until speeds are known so well.",
)
@click.option(
    "--max-time", type=Seconds(), default="1m", show_default=True, help="Begin nothing after this long."
)
@click.option(
    "--timeout", type=Seconds(), help="Longest wait for the engine (default: 10 min to start, 5 min silent)."
)
@options.as_json
@click.pass_context
def check(
    ctx: click.Context,
    model: str | None,
    beginning: str | None,
    max_memory: int | None,
    max_load: float | None,
    max_ttft: float | None,
    max_itl: float | None,
    min_decode: float | None,
    min_prefill: float | None,
    junit: str | None,
    engine: str | None,
    name: str | None,
    key_env: str | None,
    prompt: tuple[int, ...],
    output: int,
    depth: tuple[int, ...],
    parallel: tuple[int, ...],
    context: int | None,
    threads: int | None,
    precision: float,
    max_time: float,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Does MODEL keep its budgets here? A short benchmark of its own file, or a stored measurement, is judged.

    Exit code 0 when all are kept, 1 when one is missed. The median decides; a verdict says when it is not sure.
    """
    from weigh.bench import budget

    limits = {
        "max-memory": max_memory,
        "max-load": max_load,
        "max-ttft": max_ttft,
        "max-itl": max_itl,
        "min-decode": min_decode,
        "min-prefill": min_prefill,
    }
    budgets = tuple(budget.budget(name, limit) for name, limit in limits.items() if limit is not None)
    if not budgets:
        raise click.UsageError("no budget is given; name one, e.g. --max-memory 6GiB or --min-decode 8")
    if (model is None) == (beginning is None):
        raise click.UsageError("either a MODEL is measured, or a measurement is named with --from")
    if model is not None:
        leave_out(ctx, model, engine)
    if junit is not None:
        _writable(Path(junit))
    began_s = time.monotonic()
    try:
        if model is None:
            measurement, not_kept = _stored(beginning or ""), None
        else:
            measurement, not_kept = _measured(
                model,
                engine,
                name=name,
                key_env=key_env,
                context=context,
                prompt=prompt,
                output=output,
                depth=depth,
                parallel=parallel,
                threads=threads,
                precision=precision,
                max_time=max_time,
                timeout=timeout,
                loads=max_load is not None,
            )
    except EngineError as error:
        if junit is not None:
            Path(junit).write_bytes(budget.junit_of_failure(budgets, error.message))
        raise
    verdicts = budget.judge(measurement, budgets)
    if junit is not None:
        Path(junit).write_bytes(budget.junit(measurement, verdicts, time.monotonic() - began_s))
    if as_json:
        from weigh.cli.bench_document import check_document
        from weigh.cli.render import print_json

        print_json(check_document(measurement, verdicts))
    else:
        from weigh.cli.screens.bench import show_check

        show_check(measurement, verdicts)
    if not_kept is not None:
        raise not_kept
    return 0 if all(verdict.met for verdict in verdicts) else _NO


def _measured(
    model: str,
    engine: str | None,
    *,
    name: str | None,
    key_env: str | None,
    context: int | None,
    prompt: tuple[int, ...],
    output: int,
    depth: tuple[int, ...],
    parallel: tuple[int, ...],
    threads: int | None,
    precision: float,
    max_time: float,
    timeout: float | None,
    loads: bool,
) -> tuple[Measurement, NotKept | None]:
    """And why it is not in the store, if it is not.

    Raises EngineError, too, when the engine failed after something was measured: that is in the store.
    """
    from weigh.bench.measure import Asked
    from weigh.model.ggml_types import GgmlType

    settings, _ = options.settings_and_workload(
        context=context,
        prompt=max(prompt),
        output=output,
        depth=max(depth),
        parallel=1,
        kv_type=GgmlType.F16,
        threads=threads,
    )
    asked = Asked(
        prompts=prompt,
        output_tokens=output,
        depths=depth,
        parallel=parallel,
        precision=precision,
        most_s=max_time,
        starts=2 if loads else 0,
    )
    found = run_bench(
        model,
        engine,
        asked,
        settings,
        name=name,
        key_env=key_env,
        timeout_s=timeout,
        calibrate=False,
    )
    if found.ended is not None:
        raise found.not_kept or found.ended
    return found.measurement, found.not_kept


def _stored(beginning: str) -> Measurement:
    from weigh.errors import BadInput, UnknownName
    from weigh.store import Store
    from weigh.store.measurement import measurements

    found = [one for one in measurements(Store(), imported=True) if one.id.startswith(beginning)]
    if not found or not beginning:
        raise UnknownName("measurement", beginning, hint="`weigh history` lists their ids")
    if len(found) > 1:
        raise BadInput(f"{len(found)} measurements have ids that begin with `{beginning}`", hint="give more")
    return found[0]


def _writable(path: Path) -> None:
    """Before anything is measured: a report that cannot be written is no news for the end."""
    from weigh.errors import BadInput

    if path.is_dir() or not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise BadInput(f"{path}: cannot be written", hint="name a file in a folder that you may write to")
