"""weigh's perplexity and divergence beside llama-perplexity's, on the same GGUF files and the same text.

    python benchmarks/perplexity_check.py --tools FOLDER [--loader LD.SO --libraries FOLDER:FOLDER --backend LIB.SO]
        [--text FILE] [--out PAGE] [REFERENCE.gguf CANDIDATE.gguf...]

Perplexity is compared for every file, divergence for every candidate against the reference. Without files a small
synthetic model is made and quantized by the tools' own `llama-quantize`; its weights are random, so it foretells
nothing, and only the agreement means something. Exits with 1 when a figure that counts differs by more than 0.5 %.

Args:
    --tools: holds `llama-perplexity` (and `llama-quantize` when no files are given).
    --loader, --libraries, --backend: to run programs of another system unpacked aside: its dynamic loader, where its
        libraries lie, and the processor's backend (`GGML_BACKEND_PATH`).
    --text: default: the source of `weigh.model.gguf`.
    --out: a page whose part between the marks `perplexity_check` is written again.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from weigh.engines.engine import Limits
from weigh.model.ggml_types import GgmlType
from weigh.model.gguf import read_gguf
from weigh.quality.divergence import Divergence, compared, divergence
from weigh.quality.scorer import open_scorer
from weigh.quality.text import LLAMA_WINDOW_TOKENS, Text, Texts, llama_perplexity, llama_windows
from weigh.synth.gguf import write_gguf

ROOT = Path(__file__).parents[1]
AGREE = 0.005
BEGIN, END = "<!-- perplexity_check -->", "<!-- /perplexity_check -->"
FINAL = r"Final estimate: PPL = ([\d.]+)"
TRIES = 3
RECIPES = ("Q8_0", "Q4_K_M", "Q2_K")
THREADS = "1"  # of the tool; spinning threads on cores that others use as well take a hundred times as long


@dataclass(frozen=True)
class Row:
    """One figure by both.

    Attributes:
        digit: the last that the tool prints; half of it is not held against either.
        counts: whether the agreement is asked of it.
    """

    model: str
    figure: str
    weigh: float
    tool: float
    digit: float
    counts: bool = True

    @property
    def differs(self) -> float:
        off = max(0.0, abs(self.weigh - self.tool) - self.digit / 2)
        return off / abs(self.tool) if self.tool else off


class Tools:
    """llama.cpp's own programs."""

    def __init__(self, folder: Path, loader: Path | None, libraries: str, backend: str) -> None:
        self._folder = folder
        self._before = [str(loader), "--library-path", libraries] if loader else []
        self._environment = os.environ | ({"GGML_BACKEND_PATH": backend} if backend else {})

    def perplexity(self, *arguments: str, says: str) -> str:
        """What `llama-perplexity` prints; now and then it ends without its last lines, and is run again."""
        for _ in range(TRIES):
            out = self.run("llama-perplexity", *arguments, "-t", THREADS)
            if re.search(says, out):
                return out
        sys.exit(f"llama-perplexity says nothing like `{says}`: {out.strip().splitlines()[-1]}")

    def run(self, program: str, *arguments: str) -> str:
        command = [*self._before, str(self._folder / program), *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{program} failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
        return done.stdout + done.stderr

    def version(self) -> str:
        found = re.search(r"version: (.+)", self.run("llama-perplexity", "--version"))
        return found[1].strip() if found else "unknown"


def main() -> int:
    given = arguments()
    tools = Tools(given.tools, given.loader, given.libraries, given.backend)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        reference, *candidates = given.models or list(synthetic(folder, tools))
        text = folder / "text.txt"
        text.write_text(given.text.read_text() if given.text else own_source())
        rows = list(both(reference, candidates, text, folder, tools))
        said = page(rows, tools.version(), text.stat().st_size, synthetic=not given.models)
    print(said)
    if given.out:
        write_between(given.out, said)
    worst = max(row.differs for row in rows if row.counts)
    print(f"largest difference that counts: {worst:.3%}", file=sys.stderr)
    return int(worst > AGREE)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, required=True)
    parser.add_argument("--loader", type=Path)
    parser.add_argument("--libraries", default="")
    parser.add_argument("--backend", default="")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("models", type=Path, nargs="*")
    return parser.parse_args()


def own_source() -> str:
    return (ROOT / "src/weigh/model/gguf.py").read_text()


def synthetic(folder: Path, tools: Tools) -> Iterator[Path]:
    sys.path.insert(0, str(ROOT))
    from tests.tiny_models import tiny_llama

    whole = folder / "synthetic-F16.gguf"
    spec = tiny_llama(matrix_type=GgmlType.F16, embedding_type=GgmlType.F16, layers=4, hidden=512, vocab=4096)
    write_gguf(spec, whole)
    yield whole
    for recipe in RECIPES:
        made = folder / f"synthetic-{recipe}.gguf"
        tools.run("llama-quantize", str(whole), str(made), recipe)
        yield made


def both(
    reference: Path, candidates: Sequence[Path], text: Path, folder: Path, tools: Tools
) -> Iterator[Row]:
    texts = Texts((Text(text.name, 0, text.read_text()),), 0)
    logits = folder / "logits"
    for model in (reference, *candidates):
        keep = ("--kl-divergence-base", str(logits)) if model == reference and candidates else ()
        out = tools.perplexity("-m", str(model), "-f", str(text), *keep, says=FINAL)
        with open_scorer(
            read_gguf(model), context_tokens=LLAMA_WINDOW_TOKENS, limits=Limits(), threads=1
        ) as scorer:
            ours = llama_perplexity(scorer, texts).value
        found = said(out, FINAL)
        yield Row(model.stem, "perplexity", ours, found, _PERPLEXITY_DIGIT)
    for model in candidates:
        options = ("--kl-divergence", "--kl-divergence-base", str(logits))
        out = tools.perplexity("-m", str(model), *options, says="Same top p:")
        with open_scorer(
            read_gguf(model),
            context_tokens=LLAMA_WINDOW_TOKENS,
            limits=Limits(),
            threads=1,
            reference=read_gguf(reference),
        ) as scorer:
            made = divergence([compared(scorer, window) for window in llama_windows(scorer, texts)])
        for name, ours_of, pattern, digit, counts in FIGURES:
            yield Row(model.stem, name, ours_of(made), said(out, pattern), digit, counts)


def quantile(share: float, of: str = "kl_quantiles") -> Callable[[Divergence], float]:
    return lambda found: dict(getattr(found, of))[share]


# What may be nought says little as a ratio and does not count.
_PERPLEXITY_DIGIT, _NATS_DIGIT, _PERCENT_DIGIT = 1e-4, 1e-6, 1e-3
FIGURES: tuple[tuple[str, Callable[[Divergence], float], str, float, bool], ...] = (
    ("mean KL, nats", lambda d: d.kl.value, r"Mean +KLD: +([\d.]+)", _NATS_DIGIT, True),
    ("median KL, nats", quantile(0.5), r"Median +KLD: +([\d.]+)", _NATS_DIGIT, True),
    ("99 % KL, nats", quantile(0.99), r"99\.0% +KLD: +([\d.]+)", _NATS_DIGIT, True),
    ("same top, %", lambda d: 100 * d.same_top.value, r"Same top p: +([\d.]+)", _PERCENT_DIGIT, True),
    ("RMS delta p, %", lambda d: 100 * d.delta_p_rms.value, r"RMS Δp +: +([\d.]+)", _PERCENT_DIGIT, True),
    (
        "mean delta p, %",
        lambda d: 100 * d.delta_p_mean.value,
        r"Mean +Δp: +(-?[\d.]+)",
        _PERCENT_DIGIT,
        False,
    ),
    (
        "ln PPL ratio",
        lambda d: d.log_perplexity_ratio.value,
        r"Mean ln\(PPL\(Q\)/PPL\(base\)\) +: +(-?[\d.]+)",
        _NATS_DIGIT,
        False,
    ),
)


def said(out: str, pattern: str) -> float:
    found = re.search(pattern, out)
    if found is None:
        sys.exit(f"llama-perplexity says nothing like `{pattern}`")
    return float(found[1])


def page(rows: Sequence[Row], version: str, text_bytes: int, *, synthetic: bool) -> str:
    kind = (
        "a synthetic model, whose weights are random, so that its figures say nothing of a real one"
        if synthetic
        else "the models named"
    )
    lines = [
        f"llama-perplexity {version}; {text_bytes:,} bytes of text; {kind}.",
        "",
        "| model | figure | weigh | llama-perplexity | differs |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        differs = f"{row.differs:.3%}" if row.counts else f"by {abs(row.weigh - row.tool):.5f}"
        lines.append(f"| {row.model} | {row.figure} | {row.weigh:.6g} | {row.tool:.6g} | {differs} |")
    return "\n".join(lines)


def write_between(path: Path, said: str) -> None:
    before, mark, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        sys.exit(f"{path} has no {BEGIN} … {END}")
    path.write_text(f"{before}{BEGIN}\n{said}\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
