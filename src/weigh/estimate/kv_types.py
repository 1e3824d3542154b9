"""What number formats of the KV cache cost and give: bytes, largest context, speed behind a long context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from weigh.engines.engine import Settings
from weigh.estimate.setup import SetupEstimate, weigh
from weigh.estimate.site import Site
from weigh.estimate.speed import Workload
from weigh.figure import Figure
from weigh.model.ggml_types import GgmlType
from weigh.model.spec import ModelSpec

COMPARED = (GgmlType.F16, GgmlType.Q8_0, GgmlType.Q5_1, GgmlType.Q4_0)


@dataclass(frozen=True, slots=True)
class KvChoice:
    """One number format of keys and values.

    Attributes:
        saved_bytes: of the cache, against F16 under the same settings; below zero for F32.
        gained_tokens: of the largest context that fits.
        decode_tokens_per_s, ttft_s: behind a context filled up to the workload's prompt and output;
            None where no speed is known.
    """

    kv_type: GgmlType
    setup: SetupEstimate
    depth_tokens: int
    saved_bytes: int
    gained_tokens: int
    decode_tokens_per_s: Figure | None
    ttft_s: Figure | None


def kv_choice(setup: SetupEstimate, reserve_bytes: int | None = None) -> KvChoice:
    """The setup's own format against F16."""
    full = replace(setup.settings, kv_type_k=GgmlType.F16, kv_type_v=GgmlType.F16)
    plain = setup
    if full != setup.settings:
        plain = weigh(setup.spec, setup.site, full, setup.workload, reserve_bytes=reserve_bytes)
    return _against(plain, setup)


def kv_choices(
    spec: ModelSpec,
    site: Site,
    settings: Settings,
    workload: Workload,
    types: Sequence[GgmlType] = COMPARED,
    *,
    reserve_bytes: int | None = None,
) -> tuple[KvChoice, ...]:
    """Each format, against F16. Keys and values take the same one."""

    def under(kv_type: GgmlType) -> SetupEstimate:
        other = replace(settings, kv_type_k=kv_type, kv_type_v=kv_type)
        return weigh(spec, site, other, workload, reserve_bytes=reserve_bytes)

    plain = under(GgmlType.F16)
    return tuple(_against(plain, plain if kind is GgmlType.F16 else under(kind)) for kind in types)


def _against(plain: SetupEstimate, setup: SetupEstimate) -> KvChoice:
    load, context = setup.workload, setup.settings.context_tokens
    depth = max(load.depth_tokens, context - load.prompt_tokens - load.output_tokens)
    deep = setup.at(replace(load, depth_tokens=depth)) if setup.fits else None
    return KvChoice(
        kv_type=setup.settings.kv_type_k,
        setup=setup,
        depth_tokens=depth,
        saved_bytes=plain.memory.kv_cache_bytes - setup.memory.kv_cache_bytes,
        gained_tokens=setup.max_context_tokens - plain.max_context_tokens,
        decode_tokens_per_s=deep.decode_tokens_per_s if deep else None,
        ttft_s=deep.ttft_s if deep else None,
    )


def told_apart(choices: Sequence[KvChoice]) -> bool:
    """Whether the speeds known here depend on the format: a calibration runs an F16 cache alone."""
    return len({c.decode_tokens_per_s.value for c in choices if c.decode_tokens_per_s}) > 1
