"""weigh's figures against llama-bench's on the same build of llama.cpp and the same files; memory against the kernel's.

    python benchmarks/llama_bench.py --tools FOLDER [--loader LD.SO --libraries FOLDER:FOLDER --backend LIB.SO] MODEL...

Each round runs llama-bench (pp and tg, at each depth) and weigh (its own llama-server, started anew) one after the
other, the order turned round from one to the next, so that a machine that drifts drifts for both. Compared are the
medians of both within each round; the ratio shown is the median of the rounds', with its interval. The page and the
samples are written after every round, so that what was measured is kept. Memory is that of a server in a memory group
of its own with nothing cached before, which the kernel counts; `smaps_rollup` needs no leave to make a group. Writes
a table (--out) and the samples (--json).

Args:
    --tools: holds `llama-bench` and `llama-server` of one build.
    --loader, --libraries, --backend: to run programs of another system unpacked aside: its dynamic loader, where its
        libraries lie, and the processor's backend (`GGML_BACKEND_PATH`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from weigh import units
from weigh.bench.benchmark import own_files
from weigh.bench.figures import ENGINE, quantities
from weigh.bench.measure import Asked, Source, measure
from weigh.bench.turns import prompt_ids
from weigh.engines.engine import Limits, Settings
from weigh.engines.llama_server import LlamaServer
from weigh.machine import kernel_files, page_cache, probe
from weigh.machine.disturbance import Disturbance, Watch
from weigh.machine.processes import descendants
from weigh.median import median_interval
from weigh.model.gguf import read_gguf
from weigh.model.spec import ModelSpec

TURNS = 2  # of each condition in a round, as of llama-bench's repetitions; few, so that both take turns often
GROUP_VARIABLE = "MEMORY_GROUP"
Key = tuple[str, int, int]  # prefill or decode, its tokens, depth


@dataclass
class Both:
    """Tokens/s of one condition, by round."""

    weigh: list[list[float]] = field(default_factory=list)
    llama_bench: list[list[float]] = field(default_factory=list)

    @property
    def medians(self) -> tuple[float, float]:
        ours, theirs = (statistics.median(chain(*rounds)) for rounds in (self.weigh, self.llama_bench))
        return ours, theirs

    @property
    def ratios(self) -> list[float]:
        pairs = zip(self.weigh, self.llama_bench, strict=True)
        return [statistics.median(ours) / statistics.median(theirs) for ours, theirs in pairs]


@dataclass(frozen=True)
class Memory:
    """Of the server, bytes: weigh's figure and the kernel's for each; None where it could not be asked."""

    private: tuple[int, int | None]
    with_file: tuple[int, int | None]
    resident: tuple[int, int | None]


MEMORY_ROWS = {
    "private": ("private memory", "the group's anonymous pages"),
    "with_file": ("private memory and the file's pages in memory", "the group's highest"),
    "resident": ("private and mapped pages", "`smaps_rollup`"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--tools", required=True, type=Path)
    parser.add_argument("--loader", type=Path)
    parser.add_argument("--libraries", default="")
    parser.add_argument("--backend", type=Path)
    parser.add_argument("--prompt", default="128,512")
    parser.add_argument("--output", default=128, type=int)
    parser.add_argument("--depth", default="0,1024")
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--threads", default=probe().cpu.threads, type=int)
    parser.add_argument("--out", default=Path("docs/bench_llama_bench.md"), type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    prompts, depths = (tuple(map(int, text.split(","))) for text in (given.prompt, given.depth))
    asked = Asked(prompts=prompts, output_tokens=given.output, depths=depths, most_s=1e9, starts=0)
    settings = Settings(context_tokens=max(prompts) + given.output + max(depths), threads=given.threads)
    disturbed: list[Disturbance] = []
    with tempfile.TemporaryDirectory() as folder:
        programs = [_wrapped(given, name, Path(folder)) for name in ("llama-bench", "llama-server")]
        bench, server = programs[0], LlamaServer(programs[1])
        version = server.version()
        found = {}
        for path in given.models:
            spec = read_gguf(path)
            roomy = replace(settings, context_tokens=max(settings.context_tokens, 1024))
            memory = _memory(spec, server, roomy)
            for speeds, meanwhile in _rounds(spec, bench, server, asked, settings, given.rounds):
                found[path.name] = (spec, speeds, memory)
                disturbed.append(meanwhile)
                _keep(given, found, version, _worst(disturbed).problems)


def _keep(given: argparse.Namespace, found: Found, version: str, problems: tuple[str, ...]) -> None:
    given.out.write_text(_page(found, version, problems), encoding="utf-8")
    if given.json:
        given.json.write_text(json.dumps(_samples(found, version), indent=1) + "\n", encoding="utf-8")


def _wrapped(given: argparse.Namespace, name: str, folder: Path) -> str:
    """A script that becomes the program, in the memory group named by the environment."""
    program = given.tools / name
    loader = f"'{given.loader}' --library-path '{given.libraries}' " if given.loader else ""
    backend = f"export GGML_BACKEND_PATH='{given.backend}'\n" if given.backend else ""
    script = folder / name
    group = f'[ -z "${GROUP_VARIABLE}" ] || echo $$ > "${GROUP_VARIABLE}/cgroup.procs"\n'
    script.write_text(f"#!/bin/sh\n{group}{backend}exec {loader}'{program}' \"$@\"\n")
    script.chmod(0o755)
    return str(script)


# --- speed -------------------------------------------------------------------------------------------


def _rounds(
    spec: ModelSpec, bench: str, server: LlamaServer, asked: Asked, settings: Settings, rounds: int
) -> Iterator[tuple[dict[Key, Both], Disturbance]]:
    """All that is known after each round, and what else the machine did in it (between them it may do what it will)."""
    found: dict[Key, Both] = {}
    for number in range(rounds):
        print(f"{spec.name}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        ways: list[tuple[str, Callable[[], dict[Key, list[float]]]]] = [
            ("weigh", lambda: _weigh(spec, server, asked, settings)),
            ("llama_bench", lambda: _llama_bench(spec, bench, asked, settings)),
        ]
        watch = Watch()
        for name, run in ways if number % 2 == 0 else ways[::-1]:
            for key, samples in run().items():
                getattr(found.setdefault(key, Both()), name).append(samples)
        yield found, watch.so_far()


def _worst(rounds: Sequence[Disturbance]) -> Disturbance:
    """Of each kind the round that had most of it."""
    kinds = [(one.others, one.stolen, one.throttled) for one in rounds]
    others, stolen, throttled = (
        max((value for value in kind if value is not None), default=None) for kind in zip(*kinds, strict=True)
    )
    return Disturbance(others, stolen, None if throttled is None else int(throttled))


def _weigh(spec: ModelSpec, server: LlamaServer, asked: Asked, settings: Settings) -> dict[Key, list[float]]:
    """As `weigh bench` measures."""
    assert spec.file is not None
    file = spec.file
    source = Source(
        lambda parallel: server.start(file, settings, Limits()),
        lambda tokens, seed: prompt_ids(spec.vocab, tokens, seed),
        own_files(spec, "gguf"),
    )
    seen = measure(source, asked, lambda turns: len(turns) >= TURNS)
    if seen.ended is not None:
        raise seen.ended
    return {
        _key(one.conditions): list(one.samples)
        for one in quantities(seen)
        if one.name.endswith("_tokens_per_s") and one.conditions.get("clock") == ENGINE
    }


def _key(conditions: Mapping[str, Any]) -> Key:
    kind, tokens = (
        ("prefill", "prompt_tokens") if "prompt_tokens" in conditions else ("decode", "output_tokens")
    )
    return kind, conditions[tokens], conditions["depth_tokens"]


def _llama_bench(spec: ModelSpec, bench: str, asked: Asked, settings: Settings) -> dict[Key, list[float]]:
    options = {
        "-m": spec.file,
        "-p": ",".join(map(str, asked.prompts)),
        "-n": asked.output_tokens,
        "-d": ",".join(map(str, asked.depths)),
        "-r": TURNS,
        "-t": settings.threads,
        "-b": settings.batch_tokens,
        "-ub": settings.ubatch_tokens,
        "-dev": "none",
        "-o": "json",
    }
    words = [str(word) for option in options.items() for word in option]
    done = subprocess.run([bench, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"llama-bench ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return {
        (
            "prefill" if row["n_prompt"] else "decode",
            row["n_prompt"] or row["n_gen"],
            row["n_depth"],
        ): row["samples_ts"]
        for row in json.loads(done.stdout)
    }


# --- memory ------------------------------------------------------------------------------------------


def _memory(spec: ModelSpec, server: LlamaServer, settings: Settings) -> Memory:
    """Of a server that has answered once, started with nothing of the file in memory."""
    assert spec.file is not None
    page_cache.make_cold(own_files(spec, "gguf"))
    with _group() as group:
        before = set(descendants(os.getpid()))
        with server.start(spec.file, settings, Limits()) as session:
            session.generate(prompt_ids(spec.vocab, 512, seed=1), 32)
            memory = session.memory()
            pids = set(descendants(os.getpid())) - before
            rolled = [_rolled_up(pid) for pid in pids]
            cached = page_cache.cached_bytes(own_files(spec, "gguf")) or 0
            return Memory(
                private=(memory.private_bytes, _anonymous(group) if group else None),
                with_file=(memory.private_bytes + cached, _highest(group) if group else None),
                resident=(memory.private_bytes + memory.file_bytes, sum(rolled) if all(rolled) else None),
            )


@contextmanager
def _group() -> Iterator[Path | None]:
    """A memory group of its own for the server; None where none can be made."""
    name = f"weigh-{os.getpid()}"
    for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        made = root / name
        try:
            made.mkdir()
        except OSError:
            continue
        if _highest(made) is None:
            made.rmdir()
            continue
        os.environ[GROUP_VARIABLE] = str(made)
        try:
            yield made
        finally:
            del os.environ[GROUP_VARIABLE]
            with suppress(OSError):
                made.rmdir()
        return
    yield None


def _highest(group: Path) -> int | None:
    """Most bytes the group has held, of v1 or v2."""
    for file in ("memory.max_usage_in_bytes", "memory.peak"):
        with suppress(OSError):
            return int((group / file).read_text())
    return None


def _anonymous(group: Path) -> int | None:
    """Bytes the group holds that belong to no file: `rss` in v1, `anon` in v2."""
    stat = kernel_files.table(group / "memory.stat")
    return stat.get("anon", stat.get("rss"))


def _rolled_up(pid: int) -> int:
    """Resident bytes by the kernel's walk over every page."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * units.KIB
    return 0


# --- the page ----------------------------------------------------------------------------------------

Found = dict[str, tuple[ModelSpec, dict[Key, Both], Memory]]


def _page(found: Found, version: str, problems: tuple[str, ...]) -> str:
    machine = probe()
    lines = [
        "# weigh bench beside llama-bench",
        "",
        f"Written by `python benchmarks/llama_bench.py`: {version} for both, {machine.cpu.model},"
        f" {machine.cpu.threads} cores, rounds of {TURNS} runs each, in turns.",
        "Tokens per second, medians of all runs. The ratio is the median of the rounds', with its 80 % interval.",
        *([f"Not to be trusted: in the worst round {'; '.join(problems)}.", ""] if problems else [""]),
        "| model | what | at depth | rounds | weigh | llama-bench | weigh / llama-bench | between |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, (_, speeds, _) in found.items():
        for (kind, tokens, depth), both in sorted(speeds.items(), key=lambda one: (one[0][2], one[0])):
            ours, theirs = both.medians
            low, high = median_interval(both.ratios)
            lines.append(
                f"| {name} | {kind} of {tokens:,} | {depth:,} | {len(both.ratios)} |"
                f" {units.rate(ours)} | {units.rate(theirs)} | {statistics.median(both.ratios):.3f} |"
                f" {low:.3f} to {high:.3f} |"
            )
    lines += [
        "",
        "## Memory beside the kernel's own count",
        "",
        "Of the server after one answer, with nothing of the file in memory before its start, in a memory group that"
        " holds the server alone. Pages of a file count where they were first read: the libraries' elsewhere.",
        "",
        "| model | weigh | | the kernel | | weigh / the kernel |",
        "| --- | --- | ---: | --- | ---: | ---: |",
    ]
    for name, (_, _, memory) in found.items():
        for row, (ours_are, theirs_are) in MEMORY_ROWS.items():
            own, kernels = getattr(memory, row)
            theirs_said = "could not be asked" if kernels is None else units.gib(kernels)
            ratio = "" if kernels is None else f"{own / kernels:.3f}"
            lines.append(
                f"| {name} | {ours_are} | {units.gib(own)} | {theirs_are} | {theirs_said} | {ratio} |"
            )
    return "\n".join(lines) + "\n"


def _samples(found: Found, version: str) -> dict[str, object]:
    return {
        "version": version,
        "models": {
            name: {
                "speeds": [
                    {
                        "kind": kind,
                        "tokens": tokens,
                        "depth_tokens": depth,
                        "weigh": both.weigh,
                        "llama_bench": both.llama_bench,
                    }
                    for (kind, tokens, depth), both in speeds.items()
                ],
                "memory": {name: getattr(memory, name) for name in Memory.__dataclass_fields__},
            }
            for name, (_, speeds, memory) in found.items()
        },
    }


if __name__ == "__main__":
    main()
