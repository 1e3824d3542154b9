"""The commands: each parses, calls one library function, renders, and picks the exit code.

Exit codes: 0 done, 1 the answer is no, 2 bad input, 3 the engine failed, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from weigh.cli import options
from weigh.errors import BadInput, EngineError, WeighError

if TYPE_CHECKING:
    from weigh.model.ggml_types import GgmlType

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_NO = 1


class _Group(click.Group):
    """Says which command was probably meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            from difflib import get_close_matches

            from weigh.errors import UnknownName

            close = get_close_matches(name, list(self.commands), n=2)
            raise UnknownName("command", name, close=close, hint="see `weigh --help`")
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, invoke_without_command=True, context_settings=_SETTINGS)
@click.version_option(package_name="weigh", message="%(prog)s %(version)s")
@options.as_json
@options.no_calibrate
@click.pass_context
def app(ctx: click.Context, as_json: bool, no_calibrate: bool) -> int | None:
    """Weigh a language model before you run it.

    Without a command: this machine in a few lines, and the best models for a coding assistant on it.
    The first call measures the machine, about half a minute; later calls answer at once.
    """
    if ctx.invoked_subcommand is not None:
        return None
    found: int = ctx.invoke(recommend, as_json=as_json, no_calibrate=no_calibrate)
    return found


@app.command()
@click.option("--calibrate", is_flag=True, help="Measure again: about half a minute.")
@options.as_json
def machine(calibrate: bool, as_json: bool) -> int:
    """What was found here: processors, memory, GPUs, disk, and what was measured."""
    with _here(calibrate=calibrate, again=calibrate) as here:
        if as_json:
            from weigh.cli.documents import here_document
            from weigh.cli.render import print_json

            print_json(here_document(here))
        else:
            from weigh.cli.screens import show_machine

            show_machine(here)
    return 0


@app.command()
@click.argument("model")
@options.as_json
def model(model: str, as_json: bool) -> int:
    """What MODEL is made of: parameters, number formats, bits per weight, KV cache per token.

    MODEL is a GGUF file, a config.json or its folder, or a catalog name such as qwen2.5-coder-7b,
    with an optional quantization: llama-3.1-8b:Q4_K_M.
    """
    from weigh.model.resolve import resolve

    spec = resolve(model)
    if as_json:
        from weigh.cli.documents import model_document
        from weigh.cli.render import print_json

        print_json(model_document(spec))
    else:
        from weigh.cli.screens import show_model

        show_model(spec)
    return 0


@app.command()
@click.argument("model")
@click.option("--context", type=options.Tokens(), help="Tokens of context per sequence (default: 4096).")
@options.workload
@options.parallel
@options.reserve
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
    ask_engine: bool,
    no_calibrate: bool,
    as_json: bool,
) -> int:
    """Does MODEL fit here, how fast is it, and how much context can it hold?

    Exit code 1 when it does not fit.
    """
    from weigh.bench.here import ask_layout, weigh_here
    from weigh.model.resolve import resolve

    spec = resolve(model)
    settings, workload = options.settings_and_workload(
        context=context, prompt=prompt, output=output, depth=depth, parallel=parallel, kv_type=kv_type
    )
    with _here(calibrate=not no_calibrate) as here:
        found = weigh_here(here, spec, settings, workload, reserve_bytes=reserve)
        layout = ask_layout(here, spec, settings) if ask_engine else None
        if as_json:
            from weigh.cli.documents import setup_document
            from weigh.cli.render import print_json

            print_json(setup_document(found, layout))
        else:
            from weigh.cli.screens import show_fit

            show_fit(here, found, layout, asked=model)
    return 0 if found.fits else _NO


@app.command()
@click.option("--task", default="coding", show_default=True, help="What it is for; `--task list` shows all.")
@click.option("--context", type=options.Tokens(), help="Tokens of context per user (default: the task's).")
@click.option("--users", "--parallel", type=click.IntRange(1, 1024), help="Users at once (default: 1).")
@click.option("--min-speed", type=click.FloatRange(0), help="Least decode tokens/s (default: the task's).")
@click.option("--max-ttft", type=click.FloatRange(0), help="Longest wait for the first token, in seconds.")
@options.reserve
@click.option("--limit", type=click.IntRange(1, 100), default=8, show_default=True, help="Rows to show.")
@options.task_workload
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
    no_calibrate: bool,
    as_json: bool,
) -> int:
    """The best models for a need on this machine, ranked, with reasons.

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
    asked = need(task, **{name: wish for name, wish in wishes.items() if wish is not None})  # type: ignore[arg-type]
    _, workload = options.settings_and_workload(
        context=None,
        prompt=prompt or 512,
        output=output or 128,
        depth=depth,
        parallel=asked.users,
        kv_type=kv_type,
    )
    with _here(calibrate=not no_calibrate) as here:
        answer = search(asked, here, workload=workload, kv_type=kv_type, limit=limit)
        if as_json:
            from weigh.cli.documents import answer_document
            from weigh.cli.render import print_json

            print_json(answer_document(here, answer))
        else:
            from weigh.cli.screens import show_answer

            show_answer(here, answer)
    return 0 if answer.ranked else _NO


@app.command(name="try")
@click.argument("model")
@click.option("--context", type=options.Tokens(), help="Tokens of context per sequence (default: 4096).")
@options.workload
@options.parallel
@options.reserve
@click.option(
    "--repetitions", type=click.IntRange(1, 100), default=2, show_default=True, help="Runs of each kind."
)
@options.no_calibrate
@options.as_json
def try_(
    model: str,
    context: int | None,
    prompt: int,
    output: int,
    depth: int,
    parallel: int,
    kv_type: GgmlType,
    reserve: int | None,
    repetitions: int,
    no_calibrate: bool,
    as_json: bool,
) -> int:
    """Test-drive MODEL here: the real engine on weights of the true shapes, nothing downloaded.

    A file of the user's own is run as it is. The estimate made before stands beside what was measured.
    """
    from weigh.bench.here import weigh_here
    from weigh.bench.trial import expected_seconds, run_trial
    from weigh.model.resolve import resolve

    spec = resolve(model)
    settings, workload = options.settings_and_workload(
        context=context, prompt=prompt, output=output, depth=depth, parallel=parallel, kv_type=kv_type
    )
    with _here(calibrate=not no_calibrate) as here:
        found = weigh_here(here, spec, settings, workload, reserve_bytes=reserve)
        if not found.fits:
            if not as_json:
                from weigh.cli.screens import show_fit

                show_fit(here, found, None, asked=model)
            else:
                from weigh.cli.documents import setup_document
                from weigh.cli.render import print_json

                print_json(setup_document(found, None))
            return _NO
        with _progress(f"Test-driving {spec.name}", expected_seconds(found, repetitions)) as progress:
            result = run_trial(found, here, repetitions=repetitions, progress=progress)
        if as_json:
            from weigh.cli.documents import trial_document
            from weigh.cli.render import print_json

            print_json(trial_document(result))
        else:
            from weigh.cli.screens import show_trial

            show_trial(result)
    return 0


@app.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script for SHELL; e.g. eval "$(weigh completion bash)"."""
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None  # the choice above lists only shells click knows
    click.echo(script(app, {}, "weigh", "_WEIGH_COMPLETE").source())
    return 0


@contextmanager
def _here(*, calibrate: bool, again: bool = False) -> Iterator[Any]:
    """This machine, calibrated now if it has to be, with a progress line while that takes."""
    from weigh.bench.here import here

    with _progress("Measuring this machine (once, about 30 s)") as progress:
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


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; every error on purpose becomes one line and an exit code."""
    try:
        code = app.main(args=arguments, prog_name="weigh", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "weigh"
        print(f"{command}: {_sentence(error.format_message())}; see `{command} --help`", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; Python would complain at exit
        return 141
    except WeighError as error:
        _tell(error)
        return 2 if isinstance(error, BadInput) else 3 if isinstance(error, EngineError) else 2


def _sentence(text: str) -> str:
    """Click's messages end in a full stop and begin in upper case; weigh's do not."""
    return " ".join((text[:1].lower() + text[1:]).rstrip(".").split())


def _tell(error: WeighError) -> None:
    hint = f"; {error.hint}" if error.hint else ""
    print(f"weigh: {error.message}{hint}", file=sys.stderr)
