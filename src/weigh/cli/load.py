"""The options of `weigh bench --load`, and what it does with them."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weigh.cli import options
from weigh.cli.durations import Seconds
from weigh.cli.options import Command
from weigh.errors import BadInput

if TYPE_CHECKING:
    from weigh.bench.arrivals import Lengths
    from weigh.bench.load import Asked, Load
    from weigh.engines.engine import Settings
    from weigh.errors import NotKept
    from weigh.store.measurement import Measurement


_DURATION_S = 60.0


class LengthsType(click.ParamType["Lengths"]):
    """Tokens of prompts or outputs: `512`, `128-1024`, `512~0.5`."""

    name = "lengths"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Lengths:
        from weigh.bench.arrivals import Lengths

        if isinstance(value, Lengths):
            return value
        try:
            return Lengths.parse(value)
        except BadInput as error:
            self.fail(f"{error.message}; {error.hint}", param, ctx)


_RATE = click.FloatRange(min=0, min_open=True, max=1e6)
_OPTIONS = {
    "rate": click.option(
        "--rate",
        type=options.Each(_RATE),
        help="Requests per second; several between commas, one after another.",
    ),
    "sweep": click.option(
        "--sweep", is_flag=True, default=None, help="Raise the rate until the server saturates (the default)."
    ),
    "clients": click.option(
        "--clients",
        type=click.IntRange(1, 10_000),
        help="A closed loop instead: so many clients, each waiting for its answer.",
    ),
    "trace": click.option(
        "--trace", type=click.Path(), help="Arrivals and lengths from a CSV or JSONL file, as Azure's traces."
    ),
    "stretch": click.option(
        "--stretch",
        type=click.FloatRange(min=0, min_open=True, max=1e6),
        help="Multiply the trace's gaps; 10 makes it ten times lighter.",
    ),
    "arrivals": click.option(
        "--arrivals",
        type=click.Choice(["poisson", "constant", "burst"]),
        help="How requests follow one another (default: poisson).",
    ),
    "burst": click.option(
        "--burst", type=click.IntRange(1, 10_000), help="Requests in a burst (default: 8)."
    ),
    "duration": click.option(
        "--duration", type=Seconds(), help="Of each rate (default: 1 min; a trace: all of it)."
    ),
    "prompt_tokens": click.option(
        "--prompt-tokens",
        type=LengthsType(),
        help="Of each request: 512 (the default), 128-1024 (evenly), 512~0.5 (log-normal: median, sigma).",
    ),
    "output_tokens": click.option(
        "--output-tokens", type=LengthsType(), help="Of each request, likewise (default: 128)."
    ),
    "shared_prefix": click.option(
        "--shared-prefix",
        type=options.Tokens(zero=True),
        help="Tokens that all prompts begin with, for caches to find (default: 0, and no cache is used).",
    ),
    "ttft": click.option(
        "--ttft", type=Seconds(), help="Good requests have their first token by then, e.g. 500ms."
    ),
    "itl": click.option(
        "--itl", type=Seconds(), help="Good requests have a token so often, e.g. 50ms (mean gap)."
    ),
    "seed": click.option(
        "--seed", type=click.IntRange(0), help="The same seed is the same load (default: 0)."
    ),
    "drain": click.option(
        "--drain", type=Seconds(), help="Wait so long for answers after the last arrival (default: 30 s)."
    ),
}


def load_options(command: Command) -> Command:
    """Give `command` the options of a load; it gets them as `load`: an `Asked`, or None without `--load`."""

    @wraps(command)
    def gathered(*args: Any, **given: Any) -> Any:
        wanted = given.pop("load")
        words = {name: given.pop(name) for name in _OPTIONS}
        said = [name for name, value in words.items() if value is not None]
        if said and not wanted:
            raise click.UsageError(f"--{said[0].replace('_', '-')} is of a load; add --load")
        return command(*args, load=_asked(**words) if wanted else None, **given)

    made: Any = gathered
    for option in reversed(list(_OPTIONS.values())):
        made = option(made)
    found: Command = click.option(
        "--load", is_flag=True, help="Send many requests at once as they would arrive; see the options below."
    )(made)
    return found


def _asked(
    *,
    rate: tuple[float, ...] | None,
    sweep: bool | None,
    clients: int | None,
    trace: str | None,
    stretch: float | None,
    arrivals: str | None,
    burst: int | None,
    duration: float | None,
    prompt_tokens: Lengths | None,
    output_tokens: Lengths | None,
    shared_prefix: int | None,
    ttft: float | None,
    itl: float | None,
    seed: int | None,
    drain: float | None,
) -> Asked:
    from weigh.bench.arrivals import Process, read_trace
    from weigh.bench.load import Asked, Targets

    ways = [
        name
        for name, given in (("rate", rate), ("sweep", sweep), ("clients", clients), ("trace", trace))
        if given
    ]
    if len(ways) > 1:
        raise click.UsageError(
            f"--{ways[0]} and --{ways[1]} each say how much load there is; give one of them"
        )
    if trace is None and stretch is not None:
        raise click.UsageError("--stretch is of a --trace")
    if trace is not None and (prompt_tokens or output_tokens):
        raise click.UsageError(
            "a trace has lengths of its own; leave out --prompt-tokens and --output-tokens"
        )
    if (trace or clients) and arrivals:
        raise click.UsageError(f"--arrivals is of a rate, and --{ways[0]} has none")
    if burst is not None and arrivals != "burst":
        raise click.UsageError("--burst is of --arrivals burst")
    found = Asked(
        process=Process(arrivals or "poisson"),
        rates_per_s=rate or (),
        sweep=sweep or not ways,
        clients=clients,
        seconds=duration or _DURATION_S,
        shared_prefix=shared_prefix or 0,
        targets=Targets(ttft, itl),
    )
    if trace is not None:
        read = read_trace(Path(trace), stretch=stretch or 1.0, seconds=duration)
        found = replace(found, trace=read, trace_name=Path(trace).name)
    changes = {
        "prompt": prompt_tokens,
        "output": output_tokens,
        "burst": burst,
        "seed": seed,
        "drain_s": drain,
    }
    return replace(found, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]


def run_load(
    target: str,
    asked: Asked,
    *,
    engine: str | None = None,
    settings: Settings | None = None,
    timeout_s: float | None = None,
    served_name: str | None = None,
    key_variable: str | None = None,
    as_json: bool = False,
) -> int:
    """Load the server at a URL, or one started here for a MODEL's own file; keep the result and show it.

    Args:
        engine: that runs the MODEL; None for the one that is found.
        settings: `parallel` are the server's slots; the context grows to hold the longest request.
        timeout_s: nothing of an answer for so long is a failure (default: 60).
        served_name: of the model at the URL; key_variable: of the environment, holding the key.

    Raises:
        WeighError: it could not begin; or, after the result is kept and shown, what ended it early.
        KeyboardInterrupt: likewise.
    """
    if timeout_s is not None:
        asked = replace(asked, silence_s=timeout_s)
    if "://" in target:
        found, kept, not_kept = _load_url(target, asked, served_name, key_variable)
    else:
        found, kept, not_kept = _load_model(target, asked, engine, settings)
    _show(found, kept, stored=not_kept is None, as_json=as_json)
    if (error := not_kept or found.ended) is not None:
        raise error
    if not found.answered:
        from weigh.errors import EngineCrashed

        raise EngineCrashed("no request was answered")
    return 0


def _load_url(
    url: str, asked: Asked, served_name: str | None, key_variable: str | None
) -> tuple[Load, Measurement, NotKept | None]:
    """And why it is not in the store, if it is not."""
    from weigh.bench.load_record import measurement_of
    from weigh.bench.load_run import run_load as load_server
    from weigh.cli.render import ProgressLine
    from weigh.engines.engine import Limits
    from weigh.engines.openai_api import OpenAiModel
    from weigh.machine import probe
    from weigh.store import Store
    from weigh.store.measurement import try_to_save

    limits = Limits(
        silence_s=max(asked.silence_s, Limits().silence_s)
    )  # a first request may warm the server up
    with OpenAiModel(url, model=served_name, key_variable=key_variable, limits=limits) as served:
        with closing(ProgressLine(f"Loading {served.model}")) as progress:
            found = load_server(served, asked, progress)
        here = served.endpoint.is_local
        kept = measurement_of(
            found, machine=probe() if here else None, memory=served.memory() if here else None
        )
    return found, kept, try_to_save(Store(), kept)


def _load_model(
    model: str, asked: Asked, engine_name: str | None, settings: Settings | None
) -> tuple[Load, Measurement, NotKept | None]:
    from weigh.bench.alone import alone
    from weigh.bench.benchmark import own_files
    from weigh.bench.here import gpus_left_alone, scratch_folder
    from weigh.bench.load_record import measurement_of
    from weigh.bench.load_run import run_load as load_server
    from weigh.cli.render import ProgressLine
    from weigh.engines import default_engine, engine_named
    from weigh.engines.engine import Limits, Settings
    from weigh.engines.http_session import HttpSession
    from weigh.engines.openai_api import OpenAiModel
    from weigh.errors import NotSupported
    from weigh.estimate.serving import STORED
    from weigh.machine import probe
    from weigh.model.resolve import resolve
    from weigh.store import Store
    from weigh.store.measurement import try_to_save

    spec = resolve(model, checkpoint=engine_name in STORED)
    engine = default_engine() if engine_name in (None, "llama.cpp") else engine_named(engine_name)
    own_files(spec, engine.takes)
    assert spec.file is not None
    longest = max(
        (one.prompt_tokens + one.output_tokens for one in asked.trace),
        default=asked.prompt.most + asked.output.most,
    )
    given = settings or Settings()
    given = replace(given, context_tokens=max(given.context_tokens, longest))
    version = engine.version()
    with ExitStack() as stack:
        stack.enter_context(alone(scratch_folder()))
        progress = stack.enter_context(closing(ProgressLine(f"Loading {spec.name}")))
        progress("starting the engine", 0.0)
        session = stack.enter_context(engine.start(spec.file, given, Limits()))
        if not isinstance(session, HttpSession):
            raise NotSupported(
                f"{engine.name} is no server, so that there is nothing to load", hint="take llama.cpp"
            )
        served = stack.enter_context(OpenAiModel(session.url))
        found = load_server(served, asked, progress, check=session.check)
        machine = probe()
        found.notes += gpus_left_alone(engine.name, machine)
        kept = measurement_of(
            found,
            machine=machine,
            spec=spec,
            settings=given,
            memory=session.memory(),
            command=session.command,
            engine=(engine.name, version),
        )
        return found, kept, try_to_save(Store(), kept)


def _show(found: Load, kept: Measurement, *, stored: bool, as_json: bool) -> None:
    if as_json:
        from weigh.cli.load_document import load_document
        from weigh.cli.render import print_json

        print_json(load_document(found, kept, stored=stored))
    else:
        from weigh.cli.screens.load import show_load

        show_load(found, kept, stored=stored)
