"""The machine live: redrawn in a terminal, a line a sample in a pipe, a JSON object a sample; and the guard's words."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, Self

from weigh import units
from weigh.cli.render import Grid, show
from weigh.monitor.view import History, Series

if TYPE_CHECKING:
    from types import TracebackType

    from rich.live import Live

    from weigh.monitor.engines import EngineLoad
    from weigh.monitor.gpus import GpuLoad
    from weigh.monitor.guard import Act
    from weigh.monitor.run import Finished
    from weigh.monitor.sample import Sample
    from weigh.monitor.token_rates import TokenRate
    from weigh.monitor.watch import Guarding

_BLOCKS = "▁▂▃▄▅▆▇█"
_UNREADABLE = "not readable here"
_MOST_ACTS = 3
_LABEL, _LINE = 9, 24  # columns of a row's name and of its time line
_MOST_CORES = 64


class Screen(Protocol):
    """Shows samples as they come."""

    def show(self, sample: Sample) -> None: ...

    def said(self, act: Act) -> None:
        """In another thread."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def watch_screen(interval_s: float, guarding: Guarding, *, as_json: bool, once: bool) -> Screen:
    if as_json:
        return _JsonLines()
    if once:
        return _Once()
    return _Redrawn(interval_s, guarding) if sys.stdout.isatty() else _Lines()


class _Plain:
    def said(self, act: Act) -> None:
        say_act(act)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _JsonLines(_Plain):
    def show(self, sample: Sample) -> None:
        _print_line(json.dumps(sample.to_json(), ensure_ascii=False))

    def said(self, act: Act) -> None:
        _print_line(json.dumps({"act": act.to_json()}, ensure_ascii=False))


class _Lines(_Plain):
    def show(self, sample: Sample) -> None:
        _print_line(_one_line(sample))


class _Once(_Plain):
    def show(self, sample: Sample) -> None:
        history = History()
        history.add(sample)
        for name, line in _rows(sample, history, 0):
            show(f"{name:<{_LABEL}}{line}")
        _show_engines(sample)


class _Redrawn(_Plain):
    """The whole screen, drawn again for each sample; what the guard does stays in sight below."""

    def __init__(self, interval_s: float, guarding: Guarding) -> None:
        self._interval_s, self._guarding = interval_s, guarding
        self._history = History()
        self._acts: list[Act] = []
        self._drawn = 0  # how many acts the screen has shown
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.live import Live

        console = Console(highlight=False)
        self._live = Live(console=console, auto_refresh=False, screen=False, vertical_overflow="crop")
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.__exit__(kind, error, trace)
        for act in self._acts[self._drawn :]:  # the last words come when the screen is gone
            say_act(act)

    def said(self, act: Act) -> None:
        self._acts.append(act)

    def show(self, sample: Sample) -> None:
        from rich.text import Text

        if self._live is None:
            return
        self._history.add(sample)
        width = self._live.console.width
        lines = [self._head(), ""]
        lines += [f"{name:<{_LABEL}}{line}" for name, line in _rows(sample, self._history, _LINE)]
        lines += ["", *_engine_lines(sample, self._history)]
        self._drawn = len(self._acts)
        lines += [_act_line(act) for act in self._acts[: self._drawn][-_MOST_ACTS:]]
        text = Text("\n".join(_cut(line, width) for line in lines), no_wrap=True, overflow="crop")
        self._live.update(text, refresh=True)

    def _head(self) -> str:
        limits = [f"guard {one}" for one in (self._guarding.memory, self._guarding.gpu_memory) if one]
        parts = [
            time.strftime("%H:%M:%S"),
            f"every {units.seconds(self._interval_s)}",
            *limits,
            "Ctrl-C ends it",
        ]
        return " · ".join(parts)


# --- rows ------------------------------------------------------------------------------------------------


def _rows(sample: Sample, history: History, line: int) -> list[tuple[str, str]]:
    """Name and content of each row; `line` columns are for time lines."""
    memory, processors = sample.memory, sample.processors
    used, usable = sample.used_bytes, memory.usable_bytes
    limit = f" ({memory.limited_by})" if memory.limited_by else ""
    rows = [
        ("memory", _with_line(history.memory(line), line, f"{_of(used, usable)}{limit}")),
        ("", f"page cache {units.gib(memory.page_cache_bytes)} · {_pressure(sample)}"),
        ("swap", _swap(sample)),
        ("cpu", _with_line(history.busy(line), line, f"{_percent(processors.busy)}  {_cores(sample)}")),
        ("", _processor_facts(sample)),
    ]
    for index, gpu in enumerate(sample.gpus):
        rows.append((f"gpu {index}", _with_line(history.gpu_busy(index, line), line, _gpu(gpu))))
        rows += [("", _gpu_facts(gpu))] if not gpu.problem else []
    power = [f"{one.name} {one.watts:.1f} W" for one in sample.power]
    heat = [f"{one.name} {one.celsius:.0f} °C" for one in sample.heat]
    rows += [("power", _listed(power)), ("heat", _listed(heat))]
    return rows


def _with_line(series: Series, columns: int, words: str) -> str:
    return f"{_time_line(series):>{columns}}  {words}" if columns else words


def _time_line(series: Series) -> str:
    return "".join(" " if share is None else _block(share) for share in series)


def _block(share: float) -> str:
    return _BLOCKS[min(len(_BLOCKS) - 1, max(0, int(share * len(_BLOCKS))))]


def _of(used_bytes: int, usable_bytes: int) -> str:
    return f"{used_bytes / usable_bytes:.0%} · {units.gib(used_bytes)} of {units.gib(usable_bytes)}"


def _percent(share: float | None) -> str:
    return _UNREADABLE if share is None else f"{share:.0%}"


def _listed(words: Iterable[str]) -> str:
    return " · ".join(words) or _UNREADABLE


def _pressure(sample: Sample) -> str:
    if sample.pressure is None:
        return f"pressure {_UNREADABLE}"
    return f"pressure {sample.pressure.some:.1%} ({sample.pressure.of})"


def _swap(sample: Sample) -> str:
    memory = sample.memory
    if not memory.swap_total_bytes:
        return "none"
    rates = (sample.swapped_in_bytes_per_s, sample.swapped_out_bytes_per_s)
    moved = [
        f"{units.gib(rate)}/s {way}"
        for rate, way in zip(rates, ("in", "out"), strict=True)
        if rate is not None
    ]
    return " · ".join(
        (_of(memory.swap_total_bytes - memory.swap_free_bytes, memory.swap_total_bytes), *moved)
    )


def _cores(sample: Sample) -> str:
    cores = sample.processors.by_core
    lines = "".join(map(_block, cores)) if len(cores) <= _MOST_CORES else ""
    return f"{len(cores)} cores {lines}".rstrip() if cores else ""


def _processor_facts(sample: Sample) -> str:
    processors = sample.processors
    told = {
        "stolen by the host": None if processors.stolen is None else f"{processors.stolen:.0%}",
        "clock": None if processors.clock_hz is None else f"{processors.clock_hz / 1e9:.2f} GHz",
        "throttled": None if processors.throttled is None else f"{processors.throttled} times",
    }
    facts = [f"{name} {value}" for name, value in told.items() if value is not None]
    if processors.held_back is not None:
        facts.append(f"held back by a quota {processors.held_back:.0%}")
    unknown = [name for name, value in told.items() if value is None]
    return " · ".join(facts + ([f"{', '.join(unknown)} {_UNREADABLE}"] if unknown else []))


def _gpu(gpu: GpuLoad) -> str:
    if gpu.problem:
        return f"{gpu.name}: {gpu.problem}"
    return f"{_percent(gpu.busy)}  {gpu.name}"


def _gpu_facts(gpu: GpuLoad) -> str:
    known = gpu.used_bytes is not None and gpu.total_bytes
    facts = [_of(gpu.used_bytes or 0, gpu.total_bytes or 1) if known else f"memory {_UNREADABLE}"]
    facts += [f"{gpu.watts:.0f} W"] if gpu.watts is not None else []
    facts += [f"{gpu.celsius:.0f} °C"] if gpu.celsius is not None else []
    facts += [f"{gpu.clock_hz / 1e9:.2f} GHz"] if gpu.clock_hz is not None else []
    facts += [f"slowed by {', '.join(gpu.slowed)}"] if gpu.slowed else []
    return " · ".join(facts)


# --- engines ---------------------------------------------------------------------------------------------


_NOTHING = "no engine runs that is known by name, or none that was named"


def _engine_lines(sample: Sample, history: History) -> list[str]:
    lines = []
    for engine in sample.engines:
        tokens = f"  {_time_line(history.tokens(engine, _LINE))}" if _rate_of(engine) is not None else ""
        lines += [f"{_name(engine)}  {_held(engine)}", f"{'':<{_LABEL}}{_tokens(engine.tokens)}{tokens}"]
    return lines or [_NOTHING]


def _show_engines(sample: Sample) -> None:
    grid = Grid(("engine", "private", "mapped", "GPU", "tokens"), prose=("tokens",))
    for engine in sample.engines:
        sizes = (engine.private_bytes, engine.file_bytes, engine.gpu_bytes)
        grid.add(
            _name(engine),
            *("" if size is None else units.gib(size) for size in sizes),
            _tokens(engine.tokens),
        )
    show("")
    show(grid if grid.rows else _NOTHING)


def _name(engine: EngineLoad) -> str:
    more = f" +{engine.processes - 1}" if engine.processes > 1 else ""
    pid = f" {engine.pid}{more}" if engine.pid else ""
    return f"{engine.name}{pid}{' (paused)' if engine.paused else ''}"


def _held(engine: EngineLoad) -> str:
    if engine.private_bytes is None:
        return f"memory {_UNREADABLE}"
    facts = [f"private {units.gib(engine.private_bytes)}", f"mapped {units.gib(engine.file_bytes or 0)}"]
    facts += [f"GPU {units.gib(engine.gpu_bytes)}"] if engine.gpu_bytes is not None else []
    return " · ".join(facts)


def _rate_of(engine: EngineLoad) -> float | None:
    return engine.tokens.decode_tokens_per_s if engine.tokens else None


def _tokens(tokens: TokenRate | None) -> str:
    if tokens is None:
        return f"tokens {_UNREADABLE}"
    facts = [", ".join(tokens.models)] if tokens.models else []
    if tokens.decode_tokens_per_s is not None:
        late = " (counted when requests end)" if "ends" in tokens.counts else ""
        facts.append(f"{units.rate(tokens.decode_tokens_per_s)} tok/s{late}")
    if tokens.prefill_tokens_per_s is not None:
        facts.append(f"prefill {units.rate(tokens.prefill_tokens_per_s)} tok/s")
    if tokens.running is not None:
        waiting = f", {tokens.waiting} waiting" if tokens.waiting else ""
        facts.append(f"{tokens.running} running{waiting}")
    if tokens.problem:
        facts.append(f"tokens not readable: {tokens.problem}")
    return " · ".join(facts) or "tokens from the next look on"


def _one_line(sample: Sample) -> str:
    when = time.strftime("%H:%M:%S", time.localtime(sample.when_unix_s))
    stolen = sample.processors.stolen
    facts = [
        f"memory {_of(sample.used_bytes, sample.memory.usable_bytes)}",
        f"swap {_swap(sample)}" if sample.memory.swap_total_bytes else "",
        f"cpu {_percent(sample.processors.busy)}",
        f"stolen {stolen:.0%}" if stolen is not None else "",
        *(f"gpu {_percent(gpu.busy)}" for gpu in sample.gpus),
        *(f"{one.name} {one.watts:.0f} W" for one in sample.power),
        *(f"{_name(engine)}: {_held(engine)}, {_tokens(engine.tokens)}" for engine in sample.engines),
    ]
    return f"{when}  " + "  ".join(filter(None, facts))


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: max(0, width - 1)] + "…"


def _print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# --- the guard -------------------------------------------------------------------------------------------


def _act_line(act: Act) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(act.when_unix_s))} {act.kind}: {act.text}"


def say_act(act: Act) -> None:
    sys.stderr.write(f"weigh: {act.text}\n")
    sys.stderr.flush()


def show_finished(done: Finished, *, as_json: bool) -> None:
    """On standard error: standard output is the command's."""
    if as_json:
        line = json.dumps(done.to_json(), ensure_ascii=False)
    else:
        line = f"weigh: {_ended(done)}; {', '.join(_taken(done))}"
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _ended(done: Finished) -> str:
    return f"`{done.command[0]}` ended with {done.exit_code} after {units.seconds(done.took_s)}"


def _peak(done: Finished) -> str:
    if done.peak_private_bytes is None or done.peak_bytes is None:
        return "peak memory unknown (it ended before it was looked at)"
    return f"peak memory {units.gib(done.peak_private_bytes)} private, {units.gib(done.peak_bytes)} in all"


def _taken(done: Finished) -> list[str]:
    energy: Any = _UNREADABLE if done.joules is None else f"{done.joules:.1f} J ({', '.join(done.energy_of)})"
    acts = list(dict.fromkeys(act.kind for act in done.acts))
    facts = [
        _peak(done),
        f"processor time {units.seconds(done.cpu_s)}",
        f"energy {energy}",
        f"the guard {' and '.join(acts)} it" if acts else "the guard had nothing to do",
    ]
    return [*facts, *([f"{done.left} left running and ended"] if done.left else [])]
