"""The same server measured by GuideLLM and by weigh at the same rates, in turns: do they read the same latencies?

    python benchmarks/guidellm.py PATH/TO/guidellm                    writes the table of docs/load.md
    python benchmarks/guidellm.py PATH/TO/guidellm --seconds 5 --rounds 1 --rates 1   a try; prints only

GuideLLM 0.8.1 in an environment of its own: `pip install torch==2.13.0 guidellm==0.8.1`. Both send requests evenly
spaced to one llama.cpp server (embedded, SmolLM2-135M's shapes, random weights), prompts of as many tokens, with the
same sampling and no prompt cache. In every round each rate is run by both, the other one first in the next round.

The server tells its own times for each request in its log. They say how far a difference is the server's, which has
to share the cores with whoever asks, and how far it is the reading.

GuideLLM's "inter token latency" is one mean for each request, so it stands beside weigh's TPOT; what single gaps are
like is in weigh's ITL alone. Its time to first token begins when the request is handed to its HTTP client, and so does
weigh's `ttft_s`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from weigh.bench.arrivals import Lengths, Process
from weigh.bench.latency import percentiles
from weigh.bench.load import Asked, prompt_tokens, values_of
from weigh.bench.load_run import run_load
from weigh.engines.engine import Limits, Settings
from weigh.engines.llama_cpp import EmbeddedLlamaCpp
from weigh.engines.openai_api import OpenAiModel
from weigh.machine import probe
from weigh.model.catalog import catalog
from weigh.model.quantization import quantize
from weigh.synth.files import synthetic_file

DOCUMENT = Path(__file__).parents[1] / "docs" / "load.md"
MODEL, RECIPE = "HuggingFaceTB/SmolLM2-135M-Instruct", "Q4_K_M"
PROMPT_TOKENS, OUTPUT_TOKENS, SLOTS = 64, 32, 8
QUANTILES = (0.5, 0.9, 0.95)
NAMES = ("ttft_s", "tpot_s", "prompt_tokens", "output_tokens", "server_prefill_s", "server_tpot_s")
SERVER_TIMES = re.compile(r"print_timing: .*\| +(prompt )?eval time = +([\d.]+) ms / +(\d+) tokens")
SAME = {"samplers": ["top_k"], "top_k": 1, "cache_prompt": False}  # as weigh asks llama.cpp

Samples = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", help="the path of guidellm")
    parser.add_argument("--rates", default="0.5,1,2")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rates = [float(rate) for rate in given.rates.split(",")]
    spec = quantize(catalog().by_id[MODEL].spec(), RECIPE)
    engine = EmbeddedLlamaCpp()
    theirs: dict[float, Samples] = {rate: {name: [] for name in NAMES} for rate in rates}
    ours: dict[float, Samples] = {rate: {name: [] for name in (*NAMES, "itl_s")} for rate in rates}
    with (
        tempfile.TemporaryDirectory() as name,
        synthetic_file(spec, Path(name)) as path,
        engine.start(path, Settings(context_tokens=512, parallel=SLOTS), Limits()) as session,
    ):
        folder = Path(name)
        tokenizer = bytes_tokenizer(folder / "tokenizer")
        served = OpenAiModel(session.url)
        for number in range(given.rounds):
            for rate in rates:
                turns = [
                    (
                        lambda rate=rate: by_guidellm(
                            given.program,
                            session.url,
                            served.model,
                            tokenizer,
                            rate,
                            given.seconds,
                            theirs[rate],
                        ),
                        theirs[rate],
                    ),
                    (lambda rate=rate: by_weigh(served, rate, given.seconds, ours[rate]), ours[rate]),
                ]
                for turn, found in turns if number % 2 == 0 else reversed(turns):
                    before = set(session.log())  # each line has its time
                    turn()
                    by_server([line for line in session.log() if line not in before], found)
                print(f"round {number + 1}: {rate:g}/s done", flush=True)
    version = subprocess.run((given.program, "--version"), capture_output=True, text=True, check=True).stdout
    machine = probe()
    rows = [
        f"{datetime.now(UTC):%Y-%m-%d}, {machine.cpu.model}, {os.cpu_count()} processors for server and client"
        f" together, Python {platform.python_version()},",
        f"{engine.version()}, {version.strip()}, {given.rounds} x {given.seconds} s.",
        "",
        *table(rates, theirs, ours),
    ]
    print("\n".join(rows))
    if given.rounds >= 3 and given.seconds >= 60:
        replace_between(DOCUMENT, "guidellm", "\n".join(rows))


def by_weigh(served: OpenAiModel, rate: float, seconds: int, found: Samples) -> None:
    asked = Asked(
        rates_per_s=(rate,),
        process=Process.CONSTANT,
        seconds=float(seconds),
        prompt=Lengths(
            PROMPT_TOKENS + 1, PROMPT_TOKENS + 1
        ),  # the server begins GuideLLM's text with one more
        output=Lengths(OUTPUT_TOKENS, OUTPUT_TOKENS),
        drain_s=60,
    )
    (level,) = run_load(served, asked).levels
    for one in level.requests:  # all of them, as GuideLLM counts
        if one.failure:
            raise SystemExit(f"a request failed: {one.failure}")
        for name, values in values_of(one).items():
            if name in found:
                found[name] += values
        found["prompt_tokens"].append(prompt_tokens(one))
        found["output_tokens"].append(len(one.pieces.token_times_s))


def by_guidellm(
    program: str, url: str, model: str, tokenizer: Path, rate: float, seconds: int, found: Samples
) -> None:
    backend = {
        "kind": "openai_http",
        "target": url,
        "model": model,
        "request_format": "/v1/completions",
        "extras": {"body": SAME},
    }
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "found.json"
        command = (
            program,
            "run",
            *("--backend", json.dumps(backend)),
            *("--profile", f"kind=constant,rate={rate:g}"),
            # a limit on time would cut off what is under way, and only the quick ones would count
            *("--constraint", f"kind=max_requests,count={round(rate * seconds)}"),
            *("--tokenizer", f"kind=huggingface_auto,model={tokenizer}"),
            *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={OUTPUT_TOKENS}"),
            *("--output", f"kind=json,path={output}"),
            "--disable-console",
        )
        quiet = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
        if done.returncode or not output.exists():
            raise SystemExit(
                f"guidellm ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        document = json.loads(output.read_text())
    requests = document["benchmarks"][0]["requests"]
    if requests["errored"] or not requests["successful"]:
        counts = ", ".join(
            f"{len(requests[kind] or ())} {kind}" for kind in ("successful", "errored", "incomplete")
        )
        raise SystemExit(f"guidellm at {rate:g}/s: {counts}: {str(requests['errored'])[:2000]}")
    for request in requests["successful"]:
        found["ttft_s"].append(request["time_to_first_token_ms"] / 1000)
        found["tpot_s"].append(request["inter_token_latency_ms"] / 1000)
        found["prompt_tokens"].append(request["prompt_tokens"])
        found["output_tokens"].append(request["output_tokens"])


def by_server(lines: list[str], found: Samples) -> None:
    """The server's own times of whole requests: prefill, and mean gap between tokens after the first."""
    for line in lines:
        if told := SERVER_TIMES.search(line):
            prompt, ms, tokens = told[1], float(told[2]), int(told[3])
            if prompt and tokens > PROMPT_TOKENS:
                found["server_prefill_s"].append(ms / 1000)
            elif not prompt and tokens == OUTPUT_TOKENS:
                found["server_tpot_s"].append(ms / 1000 / (tokens - 1))


def bytes_tokenizer(folder: Path) -> Path:
    """One token for each byte, as the made-up vocabulary of the server's model has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(["<s>", "</s>", *letters])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


READ = (
    ("ttft_s", "first token"),
    ("server_prefill_s", "of that prefill, by the server's own word"),
    ("tpot_s", "mean gap of a request"),
    ("server_tpot_s", "the same, by the server's own word"),
)


def table(rates: list[float], theirs: dict[float, Samples], ours: dict[float, Samples]) -> list[str]:
    rows = [
        "| requests/s | requests by GuideLLM, by weigh | what | percentile | GuideLLM | weigh | weigh / GuideLLM |",
        "| --: | --: | --- | --: | --: | --: | --: |",
    ]
    for rate in rates:
        counts = ", ".join(said_of(samples) for samples in (theirs[rate], ours[rate]))
        for name, said in READ:
            pairs = zip(ends(theirs[rate][name]), ends(ours[rate][name]), strict=True)
            for quantile, (their, our) in zip(QUANTILES, pairs, strict=True):
                read = f"{ms(their)} | {ms(our)} | {our / their:.3f}"
                rows.append(f"| {rate:g} | {counts} | {said} | p{100 * quantile:g} | {read} |")
        for quantile, our in zip(QUANTILES, ends(ours[rate]["itl_s"]), strict=True):
            rows.append(f"| {rate:g} | {counts} | single gap | p{100 * quantile:g} | | {ms(our)} | |")
    return rows


def said_of(samples: Samples) -> str:
    """Requests, and how long they were in the middle."""
    prompt, output = statistics.median(samples["prompt_tokens"]), statistics.median(samples["output_tokens"])
    return f"{len(samples['ttft_s'])} ({prompt:g} + {output:g} tokens)"


def ends(samples: list[float]) -> list[float]:
    return [one.value for one in percentiles([(sample,) for sample in samples], QUANTILES)]


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.4g} ms"


def replace_between(document: Path, marker: str, text: str) -> None:
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, found, rest = document.read_text().partition(start)
    if not found or end not in rest:
        raise SystemExit(f"{document} has no place marked `{marker}`")
    document.write_text(f"{before}{start}\n{text}\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
