"""`weigh watch` and `weigh run`: the machine live, and a guard on processes that are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import click

from weigh.cli import options
from weigh.cli.durations import Seconds
from weigh.errors import BadInput

if TYPE_CHECKING:
    from weigh.monitor.guard import Limit
    from weigh.monitor.watch import Guarding

_NO = 1
_LEAST_INTERVAL_S = 0.1


class MemoryLimit(click.ParamType["Limit"]):
    """A share or a size: `90%`, `20GiB`."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Limit:
        from weigh.monitor.guard import Limit, parse_limit

        if isinstance(value, Limit):
            return value
        try:
            return parse_limit(value)
        except BadInput as error:
            self.fail("; ".join(filter(None, (error.message, error.hint))), param, ctx)


_interval = click.option(
    "--interval",
    "interval_s",
    type=Seconds(),
    default="1s",
    show_default=True,
    help="Between two looks; near a limit the guard looks more often.",
)
_gpu_guard = click.option("--gpu-guard", type=MemoryLimit(), help="The same for each NVIDIA GPU's memory.")
_grace = click.option(
    "--grace",
    "grace_s",
    type=Seconds(),
    default="5s",
    show_default=True,
    help="Between asking a process to end and ending it.",
)


def _on_limit(help_text: str) -> Callable[[options.Command], options.Command]:
    return click.option("--on-limit", type=click.Choice(["warn", "pause", "stop"]), help=help_text)


@click.command()
@_interval
@click.option("--pid", "pids", type=click.IntRange(1), multiple=True, help="A process, with its children.")
@click.option(
    "--name", "names", multiple=True, help="Processes of this program, also those that start later."
)
@click.option("--url", "urls", multiple=True, help="A server by its address.")
@click.option("--guard", type=MemoryLimit(), help="Of what may be used: 90% or 20GiB.")
@_gpu_guard
@_on_limit("What the guard does (default: pause what --pid and --name name; else warn).")
@_grace
@click.option("--once", is_flag=True, help="Look once and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def watch(
    interval_s: float,
    pids: tuple[int, ...],
    names: tuple[str, ...],
    urls: tuple[str, ...],
    guard: Limit | None,
    gpu_guard: Limit | None,
    on_limit: str | None,
    grace_s: float,
    once: bool,
    as_json: bool,
) -> int:
    """Memory, processors, GPUs, power, heat, swap, and what engines hold and give, live; Ctrl-C ends it.

    Engines are found by name; --pid, --name and --url watch others instead. With --guard, memory is kept
    below a limit: a step before it you are warned, at it the named processes are paused (and resumed when
    memory is free again) or stopped. Nothing that was not named is ever touched.
    """
    from itertools import islice

    from weigh.cli.screens.watch import watch_screen
    from weigh.monitor.engines import Named
    from weigh.monitor.watch import watch as watching

    _check(interval_s)
    guarding = _guarding(guard, gpu_guard, on_limit, grace_s)
    screen = watch_screen(interval_s, guarding, as_json=as_json, once=once)
    with (
        _EndedBySignals() as ending,
        screen,
        watching(Named(pids, names, urls), guarding, interval_s=interval_s, said=screen.said) as samples,
    ):
        for sample in islice(samples, 1) if once else samples:
            ending.check()
            screen.show(sample)
    return 0


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--guard",
    type=MemoryLimit(),
    default="90%",
    show_default=True,
    help="Of the machine's memory that may be used: 90% or 20GiB.",
)
@_gpu_guard
@click.option("--max-memory", type=options.Bytes(), help="The command's own memory, its children's included.")
@_on_limit("What the guard does at a limit (default: stop).")
@_grace
@_interval
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, on standard error too.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
def run(
    guard: Limit,
    gpu_guard: Limit | None,
    max_memory: int | None,
    on_limit: str | None,
    grace_s: float,
    interval_s: float,
    as_json: bool,
    command: tuple[str, ...],
) -> int:
    """Run a command under the guard, which stops it before the kernel runs out of memory.

    Its output and its exit code are passed on, signals are forwarded to it, and nothing it started is left
    running. A summary is printed on standard error. Exit code 1 when the limit is reached already, so that
    it is not started; 143 when the guard stopped it and it said it was done.
    """
    from weigh.cli.screens.watch import say_act, show_finished
    from weigh.monitor.guard import Act
    from weigh.monitor.run import run as run_command

    _check(interval_s)
    done = run_command(
        command,
        _guarding(guard, gpu_guard, on_limit, grace_s),
        max_memory_bytes=max_memory,
        interval_s=interval_s,
        said=say_act,
    )
    if isinstance(done, Act):
        say_act(done)
        return _NO
    show_finished(done, as_json=as_json)
    return done.exit_code


def _check(interval_s: float) -> None:
    if interval_s < _LEAST_INTERVAL_S:
        raise BadInput(
            f"an interval of {interval_s:g} s is too short", hint=f"{_LEAST_INTERVAL_S:g} s is the least"
        )


def _guarding(guard: Limit | None, gpu_guard: Limit | None, on_limit: str | None, grace_s: float) -> Guarding:
    from weigh.monitor.guard import OnLimit
    from weigh.monitor.watch import Guarding

    if on_limit is not None and guard is None and gpu_guard is None:
        raise BadInput("there is no limit to act on", hint="add --guard or --gpu-guard")
    return Guarding(guard, gpu_guard, OnLimit(on_limit) if on_limit else None, grace_s)


class _EndedBySignals:
    """SIGTERM and SIGHUP end it as Ctrl-C does: the terminal is cleaned and nothing stays paused.

    An exception that a signal raises in the midst of some library may be lost there, so it is raised again
    by `check`.
    """

    def __enter__(self) -> Self:
        import signal

        self._came: int | None = None
        self._interrupt = int(signal.SIGINT)
        names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        numbers = [
            number for name in names if signal.getsignal(number := getattr(signal, name)) != signal.SIG_IGN
        ]
        self._before = {number: signal.signal(number, self._end) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        import signal

        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _end(self, number: int, _frame: object) -> None:
        self._came = number
        self.check()

    def check(self) -> None:
        if self._came is not None:
            raise KeyboardInterrupt if self._came == self._interrupt else SystemExit(128 + self._came)


ALL: tuple[click.Command, ...] = (watch, run)
