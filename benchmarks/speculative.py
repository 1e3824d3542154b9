"""Speculative decoding, estimated and run: two models of true shapes with random weights on the real engine.

    python benchmarks/speculative.py [TARGET DRAFT [ROUNDS]]

Random weights accept nothing, so the engine itself plays the acceptance (llama.cpp's `--spec-synth-rates`, made for
benchmarks): position k of a draft is accepted with probability a ** k, as the formula takes it. Plain and drafted
runs alternate. Prints a table for docs/speculative.md; have the machine to itself. About three minutes on two cores.
"""

from __future__ import annotations

import random
import statistics
import sys
from pathlib import Path

from weigh.bench.here import here, scratch_folder
from weigh.engines.engine import Limits, Settings
from weigh.engines.http_session import HttpSession
from weigh.engines.llama_cpp import command, parameters
from weigh.estimate.speculative import Method, accepted_tokens, speculative
from weigh.estimate.speed import Workload
from weigh.model.resolve import resolve
from weigh.synth import synthetic_file
from weigh.units import gib

PROMPT, OUTPUT, DRAFT_TOKENS, ROUNDS = 64, 65, 3, 3
RATES = (0.5, 0.8)
DRAFT_SIMPLE = 1  # common.h `enum common_speculative_type`


def session(target: Path, draft: Path | None, rate: float) -> HttpSession:
    given = parameters(target, SETTINGS)
    if draft is not None:
        given |= {
            "speculative.types": [DRAFT_SIMPLE],
            "speculative.draft.mparams.path": str(draft),
            "speculative.draft.n_max": DRAFT_TOKENS,
            "speculative.synth_rates": [rate**k for k in range(1, DRAFT_TOKENS + 1)],
        }
    return HttpSession(command(given), Limits(), what="llama.cpp")


def measured(target: Path, draft: Path | None, rate: float) -> tuple[float, int]:
    """Decode tokens/s, and private bytes at the peak."""
    with session(target, draft, rate) as running:
        prompts = random.Random(0)
        running.generate([prompts.randrange(100, 30_000) for _ in range(PROMPT)], 4)
        found = running.generate([prompts.randrange(100, 30_000) for _ in range(PROMPT)], OUTPUT)
        return found.decode_tokens_per_s, running.memory().peak_private_bytes


def main(names: list[str]) -> None:
    asked = names[:2] or ("llama-3.2-3b:Q4_K_M", "llama-3.2-1b:Q4_K_M")
    target, draft = (resolve(name) for name in asked)
    rounds = int(names[2]) if len(names) > 2 else ROUNDS
    site = here().on_host
    folder = scratch_folder()
    with synthetic_file(target, folder / "target") as one, synthetic_file(draft, folder / "draft") as other:
        seen: dict[float | None, list[float]] = {None: [], **{rate: [] for rate in RATES}}
        private: dict[float | None, int] = {}
        for _ in range(rounds):
            for rate, speeds in seen.items():
                speed, size = measured(one, other if rate is not None else None, rate or 0.0)
                speeds.append(speed)
                private[rate] = size
                print(f"{rate}: {speed:.2f} tokens/s, {gib(size)} private", file=sys.stderr, flush=True)
    print(
        f"{target.name} {target.quantization}, drafted by {draft.name} {draft.quantization}, {DRAFT_TOKENS} tokens"
    )
    print(
        "\n| accepted | tokens a round | decode tokens/s | measured | speedup | measured |\n| " + "--- | " * 6
    )
    plain = statistics.median(seen[None])
    workload = Workload(PROMPT, OUTPUT)
    for rate in RATES:
        found = speculative(
            target,
            site,
            SETTINGS,
            workload,
            Method.MODEL,
            draft=draft,
            acceptance=rate,
            draft_tokens=DRAFT_TOKENS,
        )
        (said,) = found.rounds
        tokens = accepted_tokens(rate, DRAFT_TOKENS)
        decode, speedup = said.decode_tokens_per_s, said.speedup
        speed = statistics.median(seen[rate])
        print(
            f"| {rate:.0%} | {tokens:.2f} | {decode.value:.1f} ({decode.low:.1f}–{decode.high:.1f}) | {speed:.1f}"
            f" | {speedup.value:.2f} ({speedup.low:.2f}–{speedup.high:.2f}) | {speed / plain:.2f} |"
        )
    mapped = target.tensor_bytes  # pages of the file, which private memory leaves out on both sides
    print(f"\nplain: {plain:.1f} tokens/s measured; all: {seen}")
    grown = private[RATES[0]] - private[None]
    ours = found.draft
    assert ours is not None
    assert ours.process is not None
    print(f"private memory the draft adds: {gib(grown)} measured; mapped weights of the target {gib(mapped)}")
    print(f"said: {gib(found.draft_bytes)} in all, of which {gib(ours.spec.tensor_bytes)} are weights")
    print(f"of its weights repacked: {gib(ours.process.repacked_bytes)}")


SETTINGS = Settings(context_tokens=2048)

if __name__ == "__main__":
    main(sys.argv[1:])
