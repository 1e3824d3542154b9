"""Options several commands share, and the parameter types that read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from weigh import units
from weigh.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from weigh.engines.engine import Settings
    from weigh.estimate.speed import Workload
    from weigh.model.ggml_types import GgmlType

Command = TypeVar("Command", bound=Callable[..., Any])

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


def _together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
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
_kv_type = click.option(
    "--kv-type", type=KvType(), default="F16", show_default=True, help="Number format of the KV cache."
)

workload = _together(
    click.option("--prompt", type=Tokens(), default=512, show_default=True, help="Prompt tokens."),
    click.option("--output", type=Tokens(), default=128, show_default=True, help="Output tokens."),
    _depth,
    _kv_type,
)

task_workload = _together(
    click.option("--prompt", type=Tokens(), help="Prompt tokens (default: 512; first token: the task's)."),
    click.option("--output", type=Tokens(), help="Output tokens (default: 128)."),
    _depth,
    _kv_type,
)

parallel = click.option(
    "--parallel", type=click.IntRange(1, 1024), default=1, show_default=True, help="Sequences at once."
)


def settings_and_workload(
    *, context: int | None, prompt: int, output: int, depth: int, parallel: int, kv_type: GgmlType
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
    )
    return settings, Workload(prompt, output, depth, parallel)
