"""Options several commands share, and the parameter types that read them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from weigh import units
from weigh.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from weigh.engines.engine import Settings
    from weigh.estimate.site import Site
    from weigh.estimate.speed import Workload
    from weigh.machine.target import Target
    from weigh.model.ggml_types import GgmlType

Command = TypeVar("Command", bound=Callable[..., Any])

_ASSUMED_RAM_BYTES = 32 * units.GIB  # beside a card of which nothing else is said
KV_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")


class Bytes(click.ParamType[int]):
    """A size such as `4G`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else units.parse_bytes(value)
        except BadInput as error:
            self.fail(f"{error.message}; {error.hint}", param, ctx)


class Tokens(click.ParamType[int]):
    """A number of tokens such as `8192` or `8k`."""

    name = "tokens"

    def __init__(self, *, zero: bool = False) -> None:
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int) or (self._zero and value.strip() == "0"):
            return int(value)
        try:
            return units.parse_tokens(value)
        except BadInput as error:
            self.fail(f"{error.message}; {error.hint}", param, ctx)


class KvType(click.ParamType["GgmlType"]):
    """A number format of the KV cache."""

    name = "type"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> GgmlType:
        from weigh.model.ggml_types import GgmlType

        if isinstance(value, GgmlType):
            return value
        if value.upper() not in KV_TYPES:
            raise UnknownName("KV cache type", value, hint=f"one of {', '.join(KV_TYPES)}")
        return GgmlType[value.upper()]


class Each(click.ParamType[tuple[Any, ...]]):
    """Values of one type between commas, to be tried one after another."""

    def __init__(self, one: click.ParamType[Any]) -> None:
        self._one = one
        self.name = f"{one.name}[,{one.name}…]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        texts = [text.strip() for text in value.split(",")]
        return tuple(dict.fromkeys(self._one.convert(text, param, ctx) for text in texts))


class Years(click.ParamType[float]):
    """A lifetime such as `3y`, `3` or `18m`."""

    name = "years"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([ym]?)\s*", value.lower())
        if match is None or not float(match[1]):
            self.fail(f"`{value}` is not a lifetime; write it like `3y` or `18m`", param, ctx)
        return float(match[1]) / (12 if match[2] == "m" else 1)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def apply(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")

reserve = click.option(
    "--reserve", type=Bytes(), help="Memory to leave free, e.g. 4G (default: 2 GiB, an eighth at most)."
)

no_calibrate = click.option(
    "--no-calibrate",
    is_flag=True,
    help="Do not measure this machine when it has not been yet; speeds stay unknown.",
)

_depth = click.option(
    "--depth", type=Tokens(zero=True), default=0, show_default=True, help="Tokens already in the context."
)
kv_types = click.option(
    "--kv-type",
    "kv_types",
    type=KvType(),
    multiple=True,
    help="Number format of the KV cache (default: F16); again to compare.",
)
_kv_type = click.option(
    "--kv-type", type=KvType(), default="F16", show_default=True, help="Number format of the KV cache."
)

workload = together(
    click.option("--prompt", type=Tokens(), default=512, show_default=True, help="Prompt tokens."),
    click.option("--output", type=Tokens(), default=128, show_default=True, help="Output tokens."),
    _depth,
    _kv_type,
)

task_workload = together(
    click.option("--prompt", type=Tokens(), help="Prompt tokens (default: 512; first token: the task's)."),
    click.option("--output", type=Tokens(), help="Output tokens (default: 128)."),
    _depth,
    _kv_type,
)

parallel = click.option(
    "--parallel", type=click.IntRange(1, 1024), default=1, show_default=True, help="Sequences at once."
)

depths = click.option(
    "--depth",
    type=Each(Tokens(zero=True)),
    default="0",
    show_default=True,
    help="Tokens already in the context.",
)


def parallels(*, most: int) -> Callable[[Command], Command]:
    return click.option(
        "--parallel",
        type=Each(click.IntRange(1, most)),
        default="1",
        show_default=True,
        help="Sequences at once.",
    )


sweep = together(
    click.option("--context", type=Each(Tokens()), help="Tokens of context per sequence (default: 4096)."),
    click.option("--prompt", type=Each(Tokens()), default="512", show_default=True, help="Prompt tokens."),
    click.option("--output", type=Tokens(), default=128, show_default=True, help="Output tokens."),
    depths,
    click.option(
        "--kv-type",
        type=Each(KvType()),
        default="F16",
        show_default=True,
        help="Number format of the KV cache.",
    ),
    parallels(most=1024),
    click.option("--threads", type=Each(click.IntRange(1, 4096)), help="Threads (default: all cores)."),
)

engine = click.option(
    "--engine",
    type=click.Choice(["llama.cpp", "ollama", "transformers", "vllm"]),
    default="llama.cpp",
    show_default=True,
    help="Whose memory and settings.",
)

extras = together(
    click.option(
        "--draft", help="Draft for speculative decoding: a MODEL, `ngram`, or `mtp` (its own layers)."
    ),
    click.option(
        "--acceptance", type=float, help="Share of drafted tokens accepted, 0 to 1 (default: a grid)."
    ),
    click.option("--draft-tokens", type=click.IntRange(1, 256), help="Drafted a round (default: the best)."),
    click.option("--cached-prompt", type=Tokens(zero=True), help="Tokens of the prompt found in the cache."),
    click.option("--compare-kv", is_flag=True, help="Number formats of the KV cache side by side."),
)

on = click.option("--on", "named", help="A device by name instead of this machine, e.g. 'RTX 4090'.")
ons = click.option(
    "--on",
    "named",
    multiple=True,
    help="A device by name instead of this machine, e.g. 'RTX 4090' or '2x RTX 3090, 64GB'; again to compare.",
)

_own = together(
    click.option("--vram", type=Bytes(), help="A GPU of your own figures: its memory, e.g. 24G."),
    click.option("--bandwidth", type=click.FloatRange(min=0, min_open=True), help="Its bandwidth in GB/s."),
    click.option("--ram", type=Bytes(), help="RAM beside it, or of a machine without a GPU."),
)


def device(command: Command) -> Command:
    """`--on`, or the figures of a device nobody has named; the command gets it as `asked`, () for this machine."""
    return on(_own(_with_sites(command)))


def devices(command: Command) -> Command:
    """As `device`; each that is named."""
    return ons(_own(_with_sites(command)))


def _with_sites(command: Command) -> Command:
    @wraps(command)
    def gathered(
        *args: Any,
        named: str | tuple[str, ...] | None,
        vram: int | None,
        bandwidth: float | None,
        ram: int | None,
        **given: Any,
    ) -> Any:
        names = (named,) if isinstance(named, str) else named or ()
        return command(*args, asked=sites(names, vram, bandwidth, ram), **given)

    made: Any = gathered
    found: Command = made
    return found


def sites(
    named: Sequence[str], vram: int | None, bandwidth: float | None, ram: int | None
) -> tuple[Site, ...]:
    """The devices the options name; none means this machine.

    Raises:
        BadInput: a device is unknown, or its figures do not make one.
    """
    from weigh.estimate.site import Site
    from weigh.machine.profiles import target_of

    if vram is None and bandwidth is None and ram is None:
        return tuple(Site(target_of(name)) for name in named)
    if named:
        raise BadInput(
            "a device is either named or described", hint="leave out --on, or --vram, --bandwidth and --ram"
        )
    return (Site(_described(vram, bandwidth, ram)),)


def _described(vram: int | None, bandwidth: float | None, ram: int | None) -> Target:
    from dataclasses import replace

    from weigh.machine.devices import target_custom, target_named

    if vram == 0 or ram == 0:
        what = "GPU" if vram == 0 else "machine"
        raise BadInput(
            f"a {what} without memory runs nothing", hint="leave the size out, or give one above 0"
        )
    if vram is None and bandwidth is None and ram is not None:
        return target_named(f"CPU only, {ram / units.GIB:g}GB")
    if bandwidth is None:
        raise BadInput("speed goes by the memory's bandwidth", hint="add --bandwidth, in GB/s")
    if vram is None and ram is None:
        raise BadInput("a bandwidth alone is no device", hint="add --vram or --ram")
    made = target_custom(vram or 0, bandwidth * units.GB, _ASSUMED_RAM_BYTES if ram is None else ram)
    said = f"{units.gib(_ASSUMED_RAM_BYTES)} of RAM"
    return made if ram is not None else replace(made, assumed=(*made.assumed, said))


def settings_and_workload(
    *,
    context: int | None,
    prompt: int,
    output: int,
    depth: int,
    parallel: int,
    kv_type: GgmlType,
    threads: int | None = None,
) -> tuple[Settings, Workload]:
    """What the options ask for; the context grows to hold the workload when none is named.

    Raises:
        BadInput: the workload does not fit into the context.
    """
    from weigh.engines.engine import Settings
    from weigh.estimate.speed import Workload

    tokens = prompt + output + depth
    if context is not None and tokens > context:
        raise BadInput(
            f"{depth} + {prompt} + {output} tokens do not fit into a context of {context}",
            hint=f"ask for a context of {tokens} or more",
        )
    settings = Settings(
        context_tokens=context or max(4096, tokens),
        parallel=parallel,
        kv_type_k=kv_type,
        kv_type_v=kv_type,
        threads=threads,
    )
    return settings, Workload(prompt, output, depth, parallel)
