"""`weigh bench`: measure the real thing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from weigh.cli import options
from weigh.cli.answering import this_machine
from weigh.cli.durations import Percent, Seconds
from weigh.cli.load import load_options, run_load
from weigh.cli.options import Command
from weigh.errors import BadInput

if TYPE_CHECKING:
    from weigh.bench.benchmark import Benchmark
    from weigh.bench.load import Asked as Load
    from weigh.bench.measure import Asked
    from weigh.engines.engine import Settings
    from weigh.model.ggml_types import GgmlType


ENGINES = ("llama.cpp", "transformers", "vllm")


def is_exported(model: str, engine: str | None) -> bool:
    """Whether it is an exported model in TensorFlow Serving, of whatever kind."""
    return engine == "tf-serving" or model.lower().startswith("grpc://")


def is_url(model: str) -> bool:
    return model.lower().startswith(("http://", "https://", "grpc://"))


on_engine = click.option(
    "--engine",
    type=click.Choice([*ENGINES, "openai", "ollama", "tf-serving"]),
    help="What runs it (default: llama.cpp; of a URL, what answers there).",
)
at_url = click.option("--model", "name", help="Of a server that has several: the model's name there.")
key_env = click.option(
    "--key-env", metavar="VARIABLE", help="Where the server's key is (default: OPENAI_API_KEY)."
)


def workload(*, prompt: str, output: int) -> Callable[[Command], Command]:
    """What is run, with these defaults."""
    return options.together(
        click.option(
            "--prompt",
            type=options.Each(options.Tokens()),
            default=prompt,
            show_default=True,
            help="Prompt tokens of prefills.",
        ),
        click.option(
            "--output",
            type=options.Tokens(),
            default=output,
            show_default=True,
            help="Output tokens of decodes.",
        ),
        options.depths,
        options.parallels(most=256),
    )


@click.command()
@click.argument("model", metavar="MODEL|URL")
@on_engine
@at_url
@key_env
@workload(prompt="128,512", output=128)
@click.option(
    "--context",
    type=options.Tokens(),
    help="Tokens of context per sequence (default: 4096, or what is asked).",
)
@click.option(
    "--kv-type",
    type=options.KvType(),
    default="F16",
    show_default=True,
    help="Number format of the KV cache.",
)
@click.option("--threads", type=click.IntRange(1, 4096), help="Threads (default: all cores).")
@click.option(
    "--precision",
    type=Percent(),
    default="2%",
    show_default=True,
    help="Go on until each speed is known so well.",
)
@click.option(
    "--max-time",
    type=Seconds(),
    default="2m",
    show_default=True,
    help="Begin nothing after this long; each is run once all the same.",
)
@click.option(
    "--starts",
    type=click.IntRange(0, 100),
    default=3,
    show_default=True,
    help="Starts of each kind, cold and cached.",
)
@click.option(
    "--timeout", type=Seconds(), help="Longest wait for the engine (default: 10 min to start, 5 min silent)."
)
@click.option(
    "--memory-limit", type=options.Bytes(), help="End the engine beyond this (default: what is free)."
)
@options.no_calibrate
@options.as_json
@load_options
@click.pass_context
def bench(
    ctx: click.Context,
    model: str,
    engine: str | None,
    name: str | None,
    key_env: str | None,
    prompt: tuple[int, ...],
    output: int,
    depth: tuple[int, ...],
    parallel: tuple[int, ...],
    context: int | None,
    kv_type: GgmlType,
    threads: int | None,
    precision: float,
    max_time: float,
    starts: int,
    timeout: float | None,
    memory_limit: int | None,
    no_calibrate: bool,
    as_json: bool,
    load: Load | None,
) -> int:
    """Measure MODEL's own file on a real engine, or what a server at URL has: loading, prefill, decode, latency,
    memory, energy.

    With --load requests arrive as they would in service, and percentiles, failures and goodput are measured.

    Turns go on until each speed is known to --precision, or --max-time is over. Every sample goes into the store
    before anything is shown; the estimate made before stands beside it. Ctrl-C keeps what was measured.
    """
    turns = load is None
    leave_out(ctx, model, engine, load=not turns)
    settings, _ = options.settings_and_workload(
        context=context,
        prompt=max(prompt) if turns else 1,
        output=output if turns else 1,
        depth=max(depth) if turns else 0,
        parallel=1,
        kv_type=kv_type,
        threads=threads,
    )
    if load is not None:
        return run_load(
            model,
            load,
            engine=engine,
            settings=replace(settings, parallel=max(parallel)),
            timeout_s=timeout,
            served_name=name,
            key_variable=key_env,
            as_json=as_json,
        )
    from weigh.bench.measure import Asked

    asked = Asked(
        prompts=prompt,
        output_tokens=output,
        depths=depth,
        parallel=parallel,
        precision=precision,
        most_s=max_time,
        starts=starts,
    )
    found = run_bench(
        model,
        engine,
        asked,
        settings,
        name=name,
        key_env=key_env,
        timeout_s=timeout,
        memory_bytes=memory_limit,
        calibrate=not no_calibrate,
    )
    show(found, as_json=as_json)
    return 0


_OF_TURNS = ("prompt", "output", "depth", "precision", "max_time", "starts", "memory_limit")
_OF_ENGINES_STARTED = ("starts", "memory_limit")
_OF_LANGUAGE_MODELS = (
    *("key_env", "prompt", "output", "depth", "context", "kv_type", "threads"),
    *_OF_ENGINES_STARTED,
)


def leave_out(ctx: click.Context, model: str, engine: str | None, *, load: bool = False) -> None:
    """Raises UsageError for an option that what is measured has no use for, so that none is ignored in silence."""
    given = ctx.params
    if not is_url(model) and (given["name"] or given["key_env"] or engine not in (None, *ENGINES)):
        raise click.UsageError(
            "--model, --key-env and the engines openai, ollama and tf-serving are for servers;"
            " give a URL, e.g. http://127.0.0.1:8080"
        )
    if load:
        if is_url(model) and engine not in (None, "openai"):
            raise click.UsageError(
                f"a load goes to a server over the OpenAI API, not by way of {engine}; leave out --engine"
            )
        _leave_out(ctx, _OF_TURNS, "is not of a load; leave it out, or --load")
    elif is_exported(model, engine):
        _leave_out(
            ctx,
            _OF_LANGUAGE_MODELS,
            "is not of an exported model in TensorFlow Serving, which takes --parallel (rows of a batch),"
            " --precision and --max-time; leave it out",
        )
    elif is_url(model):
        _leave_out(ctx, _OF_ENGINES_STARTED, "is of an engine that is started, not of a server; leave it out")


def _leave_out(ctx: click.Context, words: tuple[str, ...], why: str) -> None:
    for word in words:
        if ctx.get_parameter_source(word) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{word.replace('_', '-')} {why}")


def run_bench(
    model: str,
    engine: str | None,
    asked: Asked,
    settings: Settings,
    *,
    name: str | None = None,
    key_env: str | None = None,
    timeout_s: float | None,
    memory_bytes: int | None = None,
    calibrate: bool,
) -> Benchmark:
    """Of a file or a URL, with progress on standard error; `leave_out` has seen to the options."""
    if is_exported(model, engine):
        return _bench_predict(model, asked, name=name, timeout_s=timeout_s)
    if is_url(model):
        return _bench_url(model, engine, asked, settings, name=name, key_env=key_env, timeout_s=timeout_s)
    return _bench_file(
        model,
        engine or ENGINES[0],
        asked,
        settings,
        timeout_s=timeout_s,
        memory_bytes=memory_bytes,
        calibrate=calibrate,
    )


def _bench_url(
    url: str,
    engine: str | None,
    asked: Asked,
    settings: Settings,
    *,
    name: str | None,
    key_env: str | None,
    timeout_s: float | None,
) -> Benchmark:
    from weigh.bench.benchmark_url import benchmark_url
    from weigh.cli.render import ProgressLine
    from weigh.engines import URL_NAMES, served_model
    from weigh.engines.engine import Limits

    if engine is not None and engine not in URL_NAMES:
        raise BadInput(f"{engine} is started on a file; a server answers as {' or '.join(URL_NAMES)}")
    limits = Limits() if timeout_s is None else Limits(start_s=timeout_s, silence_s=timeout_s)
    with (
        served_model(
            url, engine, model=name, key_variable=key_env, settings=settings, limits=limits
        ) as served,
        closing(ProgressLine(f"Measuring {served.model}")) as progress,
    ):
        return benchmark_url(served, asked, progress=progress)


def _bench_predict(url: str, asked: Asked, *, name: str | None, timeout_s: float | None) -> Benchmark:
    """Of an exported model in TensorFlow Serving: what is asked for at once is the rows of a batch."""
    from weigh.bench.predict import benchmark_predict
    from weigh.cli.render import ProgressLine
    from weigh.engines.engine import Limits
    from weigh.engines.tf_serving import TfServing

    limits = Limits() if timeout_s is None else Limits(silence_s=timeout_s)
    with (
        TfServing(url, model=name, limits=limits) as served,
        closing(ProgressLine(f"Measuring {served.model}")) as progress,
    ):
        return benchmark_predict(
            served, asked.parallel, precision=asked.precision, most_s=asked.most_s, progress=progress
        )


def _bench_file(
    model: str,
    engine: str,
    asked: Asked,
    settings: Settings,
    *,
    timeout_s: float | None,
    memory_bytes: int | None,
    calibrate: bool,
) -> Benchmark:
    from weigh.bench.benchmark import benchmark, own_files
    from weigh.cli.render import ProgressLine
    from weigh.engines.engine import Limits
    from weigh.estimate.serving import STORED
    from weigh.model.resolve import resolve

    spec = resolve(model, checkpoint=engine in STORED)
    own_files(spec, "safetensors" if engine in STORED else "gguf")  # before the machine is measured in vain
    with this_machine(calibrate=calibrate) as machine:
        here = machine.on_host if engine == "llama.cpp" else machine.on_host.under(engine)
    bounds = Limits(memory_bytes=memory_bytes or here.available_bytes()[0])
    if timeout_s is not None:
        bounds = replace(bounds, start_s=timeout_s, silence_s=timeout_s)
    with closing(ProgressLine(f"Measuring {spec.name}")) as progress:
        return benchmark(spec, here, asked, settings, limits=bounds, progress=progress)


def show(found: Benchmark, *, as_json: bool) -> None:
    """Print what was measured; then what kept it from the store, or ended it early, goes its usual way."""
    if as_json:
        from weigh.cli.bench_document import bench_document
        from weigh.cli.render import print_json

        print_json(bench_document(found))
    else:
        from weigh.cli.screens.bench import show_bench

        show_bench(found)
    if (error := found.not_kept or found.ended) is not None:
        raise error
