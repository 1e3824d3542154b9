"""What each command shows: the answer first, then its reasons and figures, then one next command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weigh import units
from weigh.cli.render import Bold, Grid, interval, screen_width, show

if TYPE_CHECKING:
    from weigh.advise.search import Answer, Recommendation
    from weigh.bench.here import Here
    from weigh.bench.trial import Trial
    from weigh.engines.engine import Layout
    from weigh.estimate.setup import SetupEstimate
    from weigh.machine import Gpu, Machine
    from weigh.model.spec import ModelSpec

# Columns of the ranking, each with the width of screen below which it is left out.
_COLUMNS = {
    "model": 0,
    "parameters": 130,
    "quant": 0,
    "memory": 0,
    "decode tok/s": 0,
    "prefill tok/s": 150,
    "first token": 95,
    "load": 158,
    "quality": 90,
    "basis": 170,
}
_NUMBERS = ("memory", "decode tok/s", "prefill tok/s", "first token", "load")


def _facts(rows: list[tuple[str, str]]) -> None:
    """Words on the left, what they say on the right, wrapped under itself."""
    grid = Grid(("", "said"), prose=("said",), head=False)
    for row in rows:
        grid.add(*row)
    show(grid)


# Instruction sets a person knows by name, most telling first.
_TELLING = ("AMX_INT8", "AVX512_VNNI", "AVX_VNNI", "AVX512F", "AVX2", "SVE", "I8MM", "DOTPROD", "NEON")


def _machine_facts(machine: Machine) -> list[tuple[str, str]]:
    cpu, memory = machine.cpu, machine.memory
    kernels = [name for name in _TELLING if name in cpu.instruction_sets][:3]
    threads = f"{cpu.threads} core{'s' if cpu.threads > 1 else ''}"
    limit = f"limited by {memory.limited_by}" if memory.limited_by else "no container limit"
    return [
        ("This machine", f"{cpu.model}, {threads} to use ({', '.join(kernels) or cpu.architecture})"),
        ("Memory", f"{units.gib(memory.available_bytes)} free of {units.gib(memory.usable_bytes)}, {limit}"),
        *(("GPU", _gpu(gpu)) for gpu in machine.gpus),
        *([] if machine.gpus else [("GPU", "none found")]),
        ("Disk", f"{units.gib(machine.disk.free_bytes)} free"),
    ]


def _gpu(gpu: Gpu) -> str:
    if gpu.problem:
        return f"{gpu.name}: {gpu.problem}"
    return f"{gpu.name}, {units.gib(gpu.free_bytes or 0)} of {units.gib(gpu.total_bytes or 0)} free"


def _engine_line(here: Here) -> str:
    if here.engine is None:
        return "none installed; speeds are unknown (pip install xllamacpp)"
    if here.calibration is None:
        return f"{here.engine.name} ({here.engine_version}), not calibrated: speeds are unknown"
    known = here.calibration
    return (
        f"{here.engine.name} ({here.engine_version}), calibrated {known.created[:16].replace('T', ' ')} UTC"
        f" on {known.threads} threads, noise {known.noise:.0%}"
    )


def _here_facts(here: Here) -> list[tuple[str, str]]:
    facts = [*_machine_facts(here.machine), ("Engine", _engine_line(here))]
    if here.machine.gpus and here.engine is not None:
        facts.append(("Note", "speeds below are of the CPU; weigh does not estimate GPUs yet"))
    return facts


def show_machine(here: Here) -> None:
    machine, calibration = here.machine, here.calibration
    cpu, memory, disk = machine.cpu, machine.memory, machine.disk
    rows = [
        ("System", machine.os),
        ("Processor", f"{cpu.model} ({cpu.architecture}{', virtual' if cpu.virtual else ''})"),
        (
            "Cores",
            f"{cpu.allowed_cpus:g} of {cpu.logical_cpus} CPUs allowed, {cpu.physical_cores} physical cores,"
            f" {cpu.numa_nodes} NUMA node(s); engines use {cpu.threads} threads",
        ),
        ("Kernels", ", ".join(cpu.instruction_sets) or "unknown"),
        ("Last cache", units.gib(cpu.l3_bytes) if cpu.l3_bytes else "unknown"),
        (
            "Memory",
            f"{units.gib(memory.available_bytes)} free of {units.gib(memory.usable_bytes)}"
            + (f" ({memory.limited_by} limit; the machine has {units.gib(memory.total_bytes)})"
               if memory.limited_by else " (no container limit)")
            + f"; {units.gib(memory.page_cache_bytes)} of page cache can be dropped",
        ),
        (
            "Swap",
            f"{units.gib(memory.swap_free_bytes)} free of {units.gib(memory.swap_total_bytes)}"
            if memory.swap_total_bytes
            else "none",
        ),
        *(("GPU", _gpu(gpu)) for gpu in machine.gpus or ()),
        ("Disk", f"{units.gib(disk.free_bytes)} free of {units.gib(disk.total_bytes)} at {disk.path}"),
        ("Engine", _engine_line(here)),
    ]  # fmt: skip
    if not machine.gpus:
        rows.insert(-2, ("GPU", "none found"))
    _facts(rows)
    if calibration is None:
        return
    show()
    _facts(
        [
            (
                "Memory read",
                ", ".join(
                    f"{units.gb_per_s(value)} on {threads} thread{'s' if threads > 1 else ''}"
                    for threads, value, _, _ in calibration.memory_read
                ),
            ),
            (
                "Disk read",
                f"{units.gb_per_s(calibration.read_bytes_per_s)} when not in memory"
                if calibration.read_bytes_per_s
                else "could not be measured",
            ),
        ]
    )
    show()
    columns = ("weights in", "decode reads", "prefill computes")
    rates = Grid(columns, right=columns[1:])
    for name, rate in calibration.formats.items():
        rates.add(
            name,
            units.gb_per_s(rate.decode_bytes_per_s),
            f"{rate.prefill_flops_per_s / 1e9:.0f} GFLOP/s",
        )
    show(rates)
    show(
        f"\nA mix left out of the fit ran at {1 / calibration.check_decode:.2f} (decode) and"
        f" {1 / calibration.check_prefill:.2f} (prefill) of the prediction; noise {calibration.noise:.0%};"
        f" measured in {units.seconds(calibration.took_s)}."
    )


def show_model(spec: ModelSpec) -> None:
    from weigh.model.breakdown import breakdown, kv_bytes_per_token

    kinds = ", ".join(
        f"{len(m.layers)} {m.kind}" + (f" ({m.window})" if m.window else "") for m in spec.mixers
    )
    active = f", {units.count(spec.active_parameters)} active" if spec.experts else ""
    file = units.gib(spec.file_bytes) if spec.file_bytes else f"about {units.gib(_file_bytes(spec))}"
    _facts(
        [
            ("Model", f"{spec.name} ({spec.architecture})"),
            ("Parameters", f"{units.count(spec.parameters)} ({spec.parameters:,}){active}"),
            (
                "Weights",
                f"{units.gib(spec.tensor_bytes)} in {spec.quantization},"
                f" {spec.bits_per_weight:.2f} bits per weight; file {file}",
            ),
            ("Layers", f"{spec.layers}: {kinds}; width {spec.hidden:,}, vocabulary {spec.vocab:,}"),
            *(
                [("Experts", f"{spec.experts} per layer, {spec.experts_used} used by a token")]
                if spec.experts
                else []
            ),
            (
                "KV cache",
                f"{units.gib(kv_bytes_per_token(spec))} per token in F16; trained for"
                f" {spec.context_train:,} tokens of context",
            ),
            *(("Note", note) for note in spec.notes),
        ]
    )
    show()
    numbers = ("parameters", "bytes", "of all bytes")
    parts = Grid(("part", *numbers, "types"), right=numbers, prose=("types",))
    for part in breakdown(spec):
        parts.add(
            part.name,
            units.count(part.parameters),
            units.gib(part.bytes),
            f"{part.bytes / max(spec.tensor_bytes, 1):.1%}",
            ", ".join(part.types),
        )
    show(parts)


def _file_bytes(spec: ModelSpec) -> int:
    from weigh.model.quantization import file_bytes  # a file's own size needs none of the recipes

    return file_bytes(spec)


def show_fit(here: Here, found: SetupEstimate, layout: Layout | None, *, asked: str) -> None:
    memory = found.memory
    name = f"{found.spec.name} at {found.spec.quantization}"
    spare = found.available_bytes - memory.total_bytes
    verdict = (
        f" fits: {units.gib(memory.total_bytes)} of"
        f" {units.gib(found.available_bytes)}, {units.gib(spare)} to spare"
        if found.fits
        else f" does not fit: it needs {units.gib(memory.total_bytes)},"
        f" {units.gib(-spare)} more than the {units.gib(found.available_bytes)} it may use"
    )
    show(Bold(name), verdict)
    show()
    _facts(_here_facts(here))
    show()
    settings, context = found.settings, found.max_context_tokens
    largest = f"{context:,} tokens" + (
        " (all it was trained for)" if context == found.spec.context_train else ""
    )
    rows = [
        ("Weights", units.gib(memory.weights_bytes)),
        (
            "KV cache",
            f"{units.gib(memory.kv_cache_bytes)} for {settings.parallel} x {settings.context_tokens:,} tokens"
            f" in {settings.kv_type_k.name}",
        ),
        (
            "Compute",
            f"{units.gib(memory.compute_bytes)} of buffers, {units.gib(memory.runtime_bytes)} of runtime",
        ),
        ("Total", f"{units.gib(memory.total_bytes)} (computed from the shapes)"),
        ("Largest context", largest if context else "none"),
    ]
    if found.spec.context_train and settings.context_tokens > found.spec.context_train:
        rows.append(
            ("Note", f"the model was trained for {found.spec.context_train:,} tokens of context only")
        )
    _facts(rows)
    if layout is not None:
        show()
        _facts(_layout_facts(found, layout))
    show()
    _facts(_speed_facts(found))
    if found.fits:
        show("\nProve it  ", Bold(f"weigh try {asked}"))


def _layout_facts(found: SetupEstimate, layout: Layout) -> list[tuple[str, str]]:
    ours = found.memory.weights_bytes + found.memory.kv_cache_bytes + found.memory.compute_bytes
    return [
        (
            "Engine says",
            f"weights {units.gib(layout.weights_bytes)}, KV cache {units.gib(layout.kv_cache_bytes)},"
            f" compute {units.gib(layout.compute_bytes)}: {units.gib(layout.total_bytes)};"
            f" weigh {ours / layout.total_bytes - 1:+.2%}",
        )
    ]


def _speed_facts(found: SetupEstimate) -> list[tuple[str, str]]:
    speed, load = found.speed, found.workload
    if speed is None:
        return [("Speed", "unknown: this machine is not calibrated (weigh machine --calibrate)")]
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


def show_tasks() -> None:
    from weigh.advise.needs import TASKS

    numbers = ("context", "prompt", "output", "least tokens/s")
    rows = Grid(("task", *numbers, "for"), right=numbers, prose=("for",))
    for task in TASKS.values():
        rows.add(
            task.name,
            f"{task.context_tokens:,}",
            f"{task.prompt_tokens:,}",
            f"{task.output_tokens:,}",
            units.rate(task.min_decode_tokens_per_s),
            task.description,
        )
    show(rows)


def show_answer(here: Here, answer: Answer) -> None:
    _facts(_here_facts(here))
    need = answer.need
    wanted = f"at least {units.rate(need.min_decode_tokens_per_s)} tokens/s"
    wait = f" · first token within {units.seconds(need.max_ttft_s)}" if need.max_ttft_s else ""
    users = f" · {need.users} users" if need.users > 1 else ""
    show(
        "\n",
        Bold(need.task.description),
        f" · {need.context_tokens:,} tokens of context{users}"
        f" · {wanted}{wait} · {units.gib(need.reserve_bytes or 0)} kept free\n",
    )
    if answer.ranked:
        _show_ranked(answer)
    else:
        _show_misses(answer)


def _show_ranked(answer: Answer) -> None:
    show(_setups_table(answer, answer.ranked))
    show()
    first = answer.ranked[0]
    _facts(
        [
            ("Why", answer.why),
            *(("" if n else "Next size up", line) for n, line in enumerate(answer.binding)),
            *(("" if n else "Trade", line) for n, line in enumerate(answer.trades)),
            *([("Quality", first.quality.source)] if first.quality.source else []),
        ]
    )
    show("\nProve it  ", Bold(f"weigh try {first.name}"))


def _show_misses(answer: Answer) -> None:
    show(
        Bold("Nothing fits this need"),
        f" in {units.gib(answer.available_bytes)}"
        f" ({answer.considered:,} setups weighed). The nearest misses:\n",
    )
    if answer.misses:
        show(_setups_table(answer, answer.misses))
        show()
        _facts([(miss.name, "; ".join(s.text for s in miss.shortfalls)) for miss in answer.misses])


def _setups_table(answer: Answer, setups: tuple[Recommendation, ...]) -> Grid:
    width = screen_width()
    columns = tuple(name for name, least in _COLUMNS.items() if width >= least)
    shown = Grid(
        columns,
        right=_NUMBERS,
        prose=("quality",),
        strong=(0,),
        note=f"memory of {units.gib(answer.available_bytes)} usable · first token of a"
        f" {answer.need.prompt_tokens:,}-token prompt · ranges hold 80 % of runs",
    )
    for rank, one in enumerate(setups):
        cells = _cells(one)
        cells["model"] = ("▶ " if rank == 0 and one.meets else "  ") + cells["model"]
        shown.add(*(cells[column] for column in columns))
    return shown


def _cells(one: Recommendation) -> dict[str, str]:
    setup, speed = one.setup, one.setup.speed
    experts = setup.active_parameters < setup.parameters
    active = f", {units.count(setup.active_parameters)} active" if experts else ""
    return {
        "model": one.entry.id.rsplit("/", 1)[-1],
        "parameters": units.count(setup.parameters) + active,
        "quant": setup.quantization,
        "memory": units.gib(setup.memory.total_bytes),
        "decode tok/s": interval(speed.decode_tokens_per_s if speed else None),
        "prefill tok/s": interval(speed.prefill_tokens_per_s if speed else None),
        "first token": units.seconds(setup.first_token_s.value) if setup.first_token_s else "unknown",
        "load": units.seconds(speed.load_s.value) if speed else "unknown",
        "quality": one.quality.headline,
        "basis": str(speed.decode_tokens_per_s.basis) if speed else "computed",
    }


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
