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


def show_trials(trials: Sequence[Trial]) -> None:
    first = trials[0]
    spec = first.estimate.spec
    show(Bold(f"{spec.name} at {spec.quantization}"), f" on {first.engine} ({first.engine_version})\n")
    if len(trials) == 1:
        _show_trial(first)
    else:
        _show_sweep(trials)
    if not all(trial.estimate.fits for trial in trials):
        show("\nit does not fit here: these are the speeds it would have if it did")
    for problem in dict.fromkeys(problem for trial in trials for problem in trial.problems):
        show(f"\nnot to be trusted: {problem} meanwhile; try again when the machine is quiet")


_TRIAL_ROWS = {
    "load_s": "load",
    "prefill_tokens_per_s": "prefill tokens/s",
    "decode_tokens_per_s": "decode tokens/s",
    "peak_memory_bytes": "peak memory",
}


def _show_trial(result: Trial) -> None:
    came_out = str(result.kind)
    rows = Grid(("", "estimated", came_out, f"{came_out} / estimated"), right=("estimated", came_out))
    for one in result.compared:
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}{' (inside)' if one.inside else ''}"
        rows.add(_TRIAL_ROWS[one.name], interval(one.estimated), interval(one.found), ratio)
    show(rows)
    load = result.estimate.workload
    depth = f" at depth {load.depth_tokens:,}" if load.depth_tokens else ""
    several = f", {load.parallel} sequences at once" if load.parallel > 1 else ""
    show(
        f"\nprefill over {load.prompt_tokens:,} tokens, decode over {load.output_tokens:,}{depth}{several};"
        f" single steps varied by {result.noise:.0%} meanwhile"
    )
    show(_how(result))


def _how(result: Trial) -> str:
    cost = f"in {units.seconds(result.took_s)}, with {units.gib(result.took_bytes)}"
    because = f"; {result.why}" if result.why else ""
    if not result.shorts:
        what = "the file itself" if result.kind == "measured" else "random weights of its shapes"
        return f"run in full on {what} {cost}{because}"
    layers = " and ".join(str(count) for count in result.shorts)
    models = "short models" if len(result.shorts) > 1 else "a short model"
    return (
        f"told from {models} of {layers} of its {result.estimate.spec.layers} layers, run in turns"
        f" {cost}{because} (--full runs all of it)"
    )


def _show_sweep(trials: Sequence[Trial]) -> None:
    asked = [
        {
            "context": f"{one.estimate.settings.context_tokens:,}",
            "prompt": f"{one.estimate.workload.prompt_tokens:,}",
            "depth": f"{one.estimate.workload.depth_tokens:,}",
            "KV cache": one.estimate.settings.kv_type_k.name,
            "sequences": str(one.estimate.settings.parallel),
            "threads": str(one.estimate.settings.threads or "all"),
        }
        for one in trials
    ]
    swept = [name for name in asked[0] if len({row[name] for row in asked}) > 1]
    numbers = ("prefill tokens/s", "estimated", "decode tokens/s", "estimated ", "peak memory")
    rows = Grid((*swept, *numbers, "how"), right=(*swept, *numbers))
    for values, one in zip(asked, trials, strict=True):
        _, prefill, decode, peak = one.compared
        rows.add(
            *(values[name] for name in swept),
            interval(prefill.found),
            interval(prefill.estimated),
            interval(decode.found),
            interval(decode.estimated),
            interval(peak.found),
            str(one.kind),
        )
    show(rows)
    show(f"\ndecode over {trials[0].estimate.workload.output_tokens:,} tokens, of each sequence")
