"""Setups weighed: one, several side by side, those to buy, and one that was run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, Grid, interval, show
from weigh.cli.screens.extras import show_extras
from weigh.cli.screens.facts import facts, held, unknown_speed
from weigh.cli.screens.machine import site_facts

if TYPE_CHECKING:
    from weigh.advise.buy import Option, Purchases
    from weigh.bench.trial import Trial
    from weigh.engines.engine import Layout
    from weigh.estimate.extras import Extras
    from weigh.estimate.serving import Served
    from weigh.estimate.setup import SetupEstimate


def show_fit(
    found: SetupEstimate | Served, layout: Layout | None, *, asked: str, extras: Extras | None = None
) -> None:
    from weigh.estimate.serving import Served

    if isinstance(found, Served):
        _show_served(found)
        return
    show(Bold(f"{found.spec.name} at {found.spec.quantization}"), _verdict(found))
    show()
    facts(site_facts(found.site))
    show()
    facts(_memory_facts(found))
    if found.site.target.gpus:
        show()
        show(_split(found))
        facts([("Split", found.why), ("Arguments", " ".join(found.arguments))] if found.fits else [])
    if layout is not None:
        show()
        facts(_layout_facts(found, layout))
    show()
    facts(_speed_facts(found))
    if extras is not None:
        show_extras(extras)
    if found.fits and found.site.target.probed and found.spec.generates:
        show("\nProve it  ", Bold(f"weigh try {asked}"))


def _verdict(found: SetupEstimate) -> str:
    needed, room = found.memory.total_bytes, found.available_bytes
    if found.fits and found.placement.on_gpu:
        return f" fits: {held(found.devices)}"
    if found.fits:
        room = found.available[0]
        return f" fits: {units.gib(needed)} of {units.gib(room)}, {units.gib(room - needed)} to spare"
    if needed <= room:
        return f" does not fit: its {units.gib(needed)} cannot be split over the {units.gib(room)} there are"
    return (
        f" does not fit: it needs {units.gib(needed)}, {units.gib(needed - room)} more than the"
        f" {units.gib(room)} it may use"
    )


def _memory_facts(found: SetupEstimate) -> list[tuple[str, str]]:
    memory, settings, context = found.memory, found.settings, found.max_context_tokens
    trained = found.spec.context_train
    largest = f"{context:,} tokens" + (" (all it was trained for)" if context == trained else "")
    rows = [
        ("Weights", units.gib(memory.weights_bytes)),
        (
            "KV cache",
            f"{units.gib(memory.kv_cache_bytes)} for {settings.parallel} x {settings.context_tokens:,} tokens"
            f" in {settings.kv_type_k.name}"
            if memory.kv_cache_bytes
            else "none",
        ),
        (
            "Compute",
            f"{units.gib(memory.compute_bytes)} of buffers, {units.gib(memory.overhead_bytes)} of runtime",
        ),
        ("Total", f"{units.gib(memory.total_bytes)} (computed from the shapes)"),
        ("Largest context", largest if context else "none"),
    ]
    if trained and settings.context_tokens > trained:
        rows.append(("Note", f"the model was trained for {trained:,} tokens of context only"))
    return [*rows, *(("Note", note) for note in found.notes)]


def _split(found: SetupEstimate) -> Grid:
    columns = ("holds", "weights", "KV cache", "compute", "runtime", "total", "may use")
    table = Grid(columns, right=columns[1:])
    for device in found.devices:
        parts = (device.weights_bytes, device.kv_cache_bytes, device.compute_bytes, device.overhead_bytes)
        cells = [units.gib(part) for part in (*parts, device.total_bytes, device.available_bytes)]
        table.add(device.device, *cells)
    return table


def _show_served(found: Served) -> None:
    """Under transformers or vLLM: what one device holds, and what that leaves room for."""
    memory = found.memory
    show(
        Bold(f"{found.spec.name} at {found.spec.quantization}"),
        f" under {memory.engine} {_served_verdict(found)}",
    )
    show()
    facts(site_facts(found.site))
    show()
    which = "each of the" if memory.engine == "vllm" else "the fullest of"
    rows = [
        *([("Shown", f"{which} {found.devices} devices that share it")] if found.devices > 1 else []),
        ("Weights", units.gib(memory.weights_bytes)),
        ("KV cache", f"{units.gib(memory.kv_cache_bytes)} for {_asked_tokens(found)}"),
        ("Activations", units.gib(memory.activations_bytes)),
        ("Overhead", units.gib(memory.overhead_bytes)),
        ("Total", f"{interval(memory.total)} ({memory.total.basis})"),
    ]
    if memory.reserved_bytes:
        rows.append(
            (
                "Reserved",
                f"{units.gib(memory.reserved_bytes)} of it, whatever is asked; the cache gets what the rest leaves",
            )
        )
        tokens = f"{memory.kv_capacity_tokens:,} tokens of KV cache"
        rows.append(
            (
                "Room for",
                f"{tokens}: {memory.max_concurrency:.2f} requests of {found.settings.context_tokens:,}",
            )
        )
    if speed := found.speed:
        rows += [
            ("Decode", f"{interval(speed.decode_tokens_per_s)} tokens/s to each of {speed.at_once} at once"),
            ("Together", f"{interval(speed.total_tokens_per_s)} tokens/s"),
            ("First token", f"after {interval(speed.ttft_s)}, all prompts at once"),
            ("Basis", f"{speed.ttft_s.basis}; ranges hold 80 % of runs"),
        ]
    rows += [("Arguments", " ".join(memory.arguments))] if memory.arguments else []
    facts([*rows, *(("Note", note) for note in memory.notes)])


def _asked_tokens(found: Served) -> str:
    return f"{found.settings.parallel} x {found.settings.context_tokens:,} tokens"


def _served_verdict(found: Served) -> str:
    memory, each = found.memory, " on each device" if found.devices > 1 else ""
    asked = f"{found.settings.context_tokens:,} tokens"
    if found.fits:
        return f"fits: {interval(memory.total)} of {units.gib(found.available_bytes)}{each}"
    if memory.reserved_bytes and memory.total.value <= found.available_bytes:
        most = memory.max_context_tokens
        room = (
            f"{most:,} tokens are the most" if most else "weights and activations leave no room for a token"
        )
        return f"does not start with a context of {asked}: {room} in {units.gib(memory.reserved_bytes)}{each}"
    return f"does not fit: {interval(memory.total)} of {units.gib(found.available_bytes)}{each}"


def show_comparison(found: Sequence[SetupEstimate | Served]) -> None:
    """One model on several devices."""
    from weigh.estimate.serving import Served

    show(
        Bold(f"{found[0].spec.name} at {found[0].spec.quantization}"),
        f", {found[0].settings.context_tokens:,} tokens of context\n",
    )
    columns = (
        "on",
        "fits",
        "memory",
        "largest context",
        "prefill tok/s",
        "decode tok/s",
        "first token",
        "how",
    )
    table = Grid(columns, right=columns[2:7], prose=("how",))
    for one in found:
        if isinstance(one, Served):
            table.add(
                one.site.target.name,
                _yes(one.fits),
                interval(one.memory.total),
                "",
                "",
                "",
                "",
                one.memory.engine,
            )
            continue
        speed = one.speed
        table.add(
            one.site.target.name,
            _yes(one.fits),
            held(one.devices, of_room=False) if one.fits else units.gib(one.memory.total_bytes),
            f"{one.max_context_tokens:,}" if one.fits else "",
            interval(speed.prefill_tokens_per_s) if speed and one.fits else "",
            interval(speed.decode_tokens_per_s) if speed and one.fits else "",
            units.seconds(speed.ttft_s.value) if speed and one.fits else "",
            one.why if one.fits else _verdict(one).removeprefix(" does not fit: "),
        )
    show(table)
    assumed = [(one.site.target.name, "; ".join(one.site.target.assumed)) for one in found]
    if any(said for _, said in assumed):
        show("\nAssumed\n")
        facts([(name, said) for name, said in assumed if said])


def _yes(fits: bool) -> str:
    return "yes" if fits else "no"


def show_purchases(found: Purchases, *, asked: str) -> None:
    wanted = f"{units.rate(found.min_decode_tokens_per_s)} tokens/s or more"
    wait = f", first token within {units.seconds(found.max_ttft_s)}" if found.max_ttft_s else ""
    show(
        Bold(f"{found.spec.name} at {found.spec.quantization}"),
        f": {found.settings.context_tokens:,} tokens of context at {wanted}{wait};"
        f" {found.met} of {found.considered} devices do it\n",
    )
    columns = ("", "hardware", "memory", "decode tok/s", "first token", "power", "how")
    table = Grid(
        columns, right=("memory", "decode tok/s", "first token", "power"), prose=("how",), note=_NO_PRICES
    )
    kind = ""
    for option in found.options:
        table.add(option.kind if option.kind != kind else "", *_option_cells(option))
        kind = option.kind
    if found.options:
        show(table)
        show("\nSee how  ", Bold(f'weigh fit {asked} --on "{found.options[0].target.name}"'))
    elif found.nearest:
        show("None does. The fastest that holds it:\n")
        table.add("", *_option_cells(found.nearest))
        show(table)


_NO_PRICES = (
    "least first by cards, memory and bandwidth: prices are not known to weigh · ranges hold 80 % of runs"
)


def _option_cells(option: Option) -> tuple[str, ...]:
    target, setup = option.target, option.setup
    watts = [gpu.tdp_watts for gpu in target.gpus]
    return (
        target.name,
        held(setup.devices),
        interval(setup.speed.decode_tokens_per_s if setup.speed else None),
        units.seconds(setup.speed.ttft_s.value) if setup.speed else "unknown",
        f"{sum(w for w in watts if w):.0f} W" if watts and all(watts) else "unknown",
        setup.why + _leaning(option),
    )


def _leaning(option: Option) -> str:
    """What was assumed of the host, where a GPU leaves much of the model to it."""
    ram_bytes = option.setup.devices[0].total_bytes
    if not option.setup.placement.on_gpu or ram_bytes < 2 * units.GIB or not option.target.assumed:
        return ""
    return f" (assumed: {'; '.join(option.target.assumed)})"


def _layout_facts(found: SetupEstimate, layout: Layout) -> list[tuple[str, str]]:
    process = found.process
    ours = process.weights_bytes + process.kv_cache_bytes + process.compute_bytes if process else 0
    return [
        (
            "Engine says",
            f"weights {units.gib(layout.weights_bytes)}, KV cache {units.gib(layout.kv_cache_bytes)},"
            f" compute {units.gib(layout.compute_bytes)}: {units.gib(layout.total_bytes)}"
            + (f"; weigh {ours / layout.total_bytes - 1:+.2%}" if ours else ""),
        )
    ]


def _speed_facts(found: SetupEstimate) -> list[tuple[str, str]]:
    speed, load = found.speed, found.workload
    if speed is None:
        return [("Speed", unknown_speed(found))]
    if not found.fits:
        return []
    cold = f", {interval(speed.load_cold_s)} when it is not" if speed.load_cold_s else ""
    at = f" at depth {load.depth_tokens:,}" if load.depth_tokens else ""
    return [
        (
            "Prefill",
            f"{interval(speed.prefill_tokens_per_s)} tokens/s over {load.prompt_tokens:,} tokens{at}",
        ),
        ("Decode", f"{interval(speed.decode_tokens_per_s)} tokens/s over {load.output_tokens:,} tokens{at}"),
        ("First token", f"after {interval(speed.ttft_s)}"),
        ("Load", f"{interval(speed.load_s)} when the file is in memory already{cold}"),
        ("Basis", f"{speed.decode_tokens_per_s.basis}; ranges hold 80 % of runs"),
    ]


def show_trial(result: Trial) -> None:
    estimated, speed = result.estimate, result.estimate.speed
    kind = "test-driven on random weights of its shapes" if result.basis == "test-driven" else "measured"
    show(
        Bold(f"{estimated.spec.name} at {estimated.spec.quantization}"),
        f", {kind} on {result.engine} ({result.engine_version})\n",
    )
    rows = Grid(("", "estimated", "measured", "measured / estimated"), right=("estimated", "measured"))
    pairs = [
        ("load", speed.load_s if speed else None, result.load_s),
        ("prefill tokens/s", speed.prefill_tokens_per_s if speed else None, result.prefill_tokens_per_s),
        ("decode tokens/s", speed.decode_tokens_per_s if speed else None, result.decode_tokens_per_s),
        ("peak memory", estimated.peak_memory_bytes, result.peak_memory_bytes),
    ]
    for name, expected, seen in pairs:
        ratio = f"{seen.value / expected.value:.2f}" if expected else ""
        within = " (inside)" if expected and expected.low <= seen.value <= expected.high else ""
        rows.add(name, interval(expected), interval(seen), ratio + within)
    show(rows)
    load = estimated.workload
    depth = f" at depth {load.depth_tokens:,}" if load.depth_tokens else ""
    show(
        f"\nprefill over {load.prompt_tokens:,} tokens, decode over {load.output_tokens:,}{depth};"
        f" single steps varied by {result.noise:.0%} meanwhile"
    )
