"""Twenty questions to weigh and to three tools like it, against a truth that comes from none of them.

    python benchmarks/peers.py --install    # makes a virtual environment for each of them first
    python benchmarks/peers.py              # asks, and writes the tables into docs/peers.md

The questions and published truths are in peers_questions.csv, which was fixed before anybody was asked. Truths
of memory are asked of llama.cpp itself, on files of the models' true shapes without weights. llmfit, whichllm
and hf-mem run as their users run them; where their commands do not print a figure, their own functions are
called (`WHICHLLM`). whichllm and hf-mem read the Hugging Face hub: they get one on this machine, with the same
models (`Hub`). On another machine the answers for "this machine" are about that one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from csv import DictReader
from dataclasses import dataclass, field
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from device_left_out import judge_of

from weigh import target_named
from weigh.bench.here import ask_layout, here
from weigh.engines.engine import Settings
from weigh.estimate.device_rates import Rates, bytes_per_s, flops_per_s, peaks_of, run_on
from weigh.estimate.device_terms import decode_terms, prefill_terms
from weigh.estimate.device_work import whole
from weigh.model.catalog import CatalogEntry, catalog
from weigh.model.quantization import quantize
from weigh.model.spec import ModelSpec
from weigh.synth.gguf import write_gguf
from weigh.units import GIB

FOLDER = Path(__file__).parent
DOCS = FOLDER.parent / "docs"
BEGIN, END = "<!-- begin: benchmarks/peers.py -->", "<!-- end -->"
VENVS = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "weigh-peers"
PINNED = {
    "llmfit": ("llmfit==1.1.17",),
    "whichllm": ("whichllm==0.5.21", "typer==0.25.1"),
    "hf-mem": ("hf-mem==0.5.6",),
}
GB = 10**9


class NoAnswer(Exception):
    """Why a tool does not answer a question."""


@dataclass(frozen=True)
class Question:
    """`truth` and answers are bytes for file, kv and total, tokens/s for decode and prefill."""

    number: int
    asks: str
    model: str
    quant: str
    context: int
    device: str
    published: float | None

    @property
    def spec(self) -> ModelSpec:
        return quantize(self.entry.spec(), self.quant)

    @property
    def entry(self) -> CatalogEntry:
        return catalog().by_id[self.model]

    @property
    def of_memory(self) -> bool:
        return self.asks in ("file", "kv", "total")

    @property
    def text(self) -> str:
        name, context = f"{self.model.split('/')[1]} {self.quant}", f"{self.context:,} tokens"
        return {
            "file": f"weights of {name}",
            "kv": f"KV cache of {name.rsplit(' ', 1)[0]}, F16, {context}",
            "total": f"memory of {name}, {context}",
            "decode": f"decode of {name} on {self.device}",
            "prefill": f"prefill of {name} on {self.device}",
        }[self.asks]


def questions() -> list[Question]:
    with (FOLDER / "peers_questions.csv").open(encoding="utf-8", newline="") as file:
        return [
            Question(
                int(row["question"]),
                row["asks"],
                row["model"],
                row["quant"],
                int(row["context"] or 0),
                row["device"],
                float(row["truth"]) if row["truth"] else None,
            )
            for row in DictReader(file)
        ]


# --- truth and weigh ----------------------------------------------------------------------------------------


def truth(question: Question) -> float:
    if question.device == "this machine":
        return _measured_here(question)[1]
    if question.published is not None:
        return question.published * (GIB if question.of_memory else 1)
    layout = ask_layout(here(calibrate=False), question.spec, Settings(context_tokens=question.context))
    return layout.kv_cache_bytes if question.asks == "kv" else layout.total_bytes


def _measured_here(question: Question) -> tuple[float, float]:
    """Decode tokens/s as estimated from the calibration, and as run by benchmarks/accuracy.py."""
    lines = (FOLDER / "data" / "accuracy_runs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = (json.loads(line) for line in lines)
    row = next(r for r in rows if (r["model"], r["quantization"]) == (question.model, question.quant))
    estimated, run = (row[way]["decode_tokens_per_s"]["value"] for way in ("calibrated", "full"))
    return estimated, run


def ask_weigh(question: Question, hub: Hub) -> float:
    if question.device == "this machine":
        return _measured_here(question)[0]
    if not question.of_memory:
        return _held_out(question)
    name = f"{question.model}:{question.quant}"
    if question.asks == "file":
        return float(_json("-m", "weigh", "model", name, "--json")["tensor_bytes"]["value"])
    found = _json("-m", "weigh", "fit", name, "--context", str(question.context), "--json")["memory"]
    return float(found["kv_cache_bytes" if question.asks == "kv" else "total_bytes"]["value"])


def _held_out(question: Question) -> float:
    """What `weigh fit --on DEVICE` would say if no run on that device had been published."""
    target = target_named(question.device)
    device = target.gpus[0] if target.gpus else target.host
    kind = "prefill" if question.asks == "prefill" else "decode"
    part, run, tokens = whole(question.spec), run_on(device), question.context
    if kind == "decode":
        terms, per = decode_terms(part, run, bytes_per_s(device), Settings(), cached_tokens=tokens / 2), 1
    else:
        terms, per = prefill_terms(part, run, peaks_of(device), tokens=tokens, depth=0, ubatch=512), tokens
    name = device.name if target.gpus else f"{device.name} CPU"
    return per / Rates(judge_of(kind).without(name), {}, {}).seconds(terms)


def _json(*arguments: str) -> Any:
    return _answer([sys.executable, *arguments])


def _answer(command: Sequence[str | Path], **environment: str) -> Any:
    """What a program prints as JSON, warnings before it aside; its last line of complaint otherwise."""
    run = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=600,
        check=False,
    )
    start = run.stdout.find("{")
    if start < 0:
        said = (run.stderr + run.stdout).strip().splitlines() or ["it says nothing"]
        raise NoAnswer(said[-1].strip())
    return json.loads(run.stdout[start:])


# --- a hub on this machine ----------------------------------------------------------------------------------


@dataclass
class Hub:
    """Repositories that whichllm and hf-mem ask for, made when a question is about them.

    There is one model at a time. `listing` is what a list of models shows: its GGUF repository.
    """

    folder: Path
    endpoint: str = ""
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    listing: str = ""

    def add(self, question: Question) -> tuple[str, str]:
        """Ids of the original and of its GGUF repository. Files have all of their header and no weights."""
        entry, spec = question.entry, question.spec
        config = _published_config(entry)
        origin, derived = entry.id, f"{entry.id}-GGUF"
        path = self.folder / origin
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(config))
        (path / "model.safetensors").write_bytes(_no_tensors())
        file = self.folder / derived / f"{entry.id.split('/')[1]}.{_said(question)}.gguf"
        file.parent.mkdir(exist_ok=True)
        size = write_gguf(spec, file, weights=False)
        self.cards = {origin: {"config": config, "safetensors": {"total": entry.stated_total}}}
        self.cards[derived] = {
            "config": config,
            "gguf": {
                "total": spec.parameters,
                "architecture": spec.architecture,
                "context_length": spec.context_train,
            },
            "siblings": [{"rfilename": file.name, "size": size}],
            "cardData": {"base_model": origin},
        }
        return origin, derived

    def card(self, repo: str) -> dict[str, Any]:
        return {"id": repo, "downloads": 1000, "createdAt": "2025-01-01T00:00:00Z", **self.cards[repo]}


def _published_config(entry: CatalogEntry) -> dict[str, object]:
    """As its makers wrote it: the catalog adds kinds of layers, which of these models only gpt-oss lists."""
    model_type = str(entry.config["model_type"])
    named = {"architectures": [f"{model_type.title()}ForCausalLM"], **entry.config}
    return {k: v for k, v in named.items() if k != "layer_types" or model_type == "gpt_oss"}


def _no_tensors() -> bytes:
    """hf-mem takes the KV cache from the config alone, and wants a file with a tensor beside it."""
    header = json.dumps({"lm_head.weight": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(2)


def _said(question: Question) -> str:
    """The format as the peers call it."""
    return question.quant.removesuffix("_MOE")


class Handler(BaseHTTPRequestHandler):
    """The hub's answers: a card, a list of cards, a list of files, a part of a file."""

    hub: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/api/models":
            self._send(json.dumps([self.hub.card(self.hub.listing)]).encode())
        elif tree := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/main", path):
            files = [{"type": "file", "path": p.name} for p in (self.hub.folder / tree[1]).iterdir()]
            self._send(json.dumps(files).encode())
        elif (card := path.removeprefix("/api/models/")) in self.hub.cards:
            self._send(json.dumps(self.hub.card(card)).encode())
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/main/([^/]+)", path):
            self._send_part(self.hub.folder / found[1] / found[2])
        else:
            self.send_error(404)

    def _send_part(self, file: Path) -> None:
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, last = (int(part[1]), int(part[2])) if part else (0, 1 << 24)
        with file.open("rb") as opened:
            opened.seek(start)
            self._send(opened.read(last + 1 - start))

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Hub]:
    with tempfile.TemporaryDirectory() as folder:
        hub = Hub(Path(folder))
        handler = type("OneHandler", (Handler,), {"hub": hub})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
            server.server_close()


# --- llmfit -------------------------------------------------------------------------------------------------


def ask_llmfit(question: Question, hub: Hub) -> float:
    """`plan` for all but prefill, which only `info` prints, and for the format it chooses itself."""
    program = [VENVS / "llmfit" / "bin" / "llmfit", *_llmfit_profile(question, hub.folder)]
    if question.asks == "prefill":
        speed = _answer([*program, "info", question.model, "--json"])["models"][0]["prefill_tps"]
        if speed is None:
            raise NoAnswer("prints no prefill for this model and device")
        return float(speed)
    arguments = ["--context", str(question.context or 4096), "--quant", _said(question), "--json"]
    plan = _answer([*program, "plan", question.model, *arguments])
    if question.asks == "decode":
        path = (
            "gpu" if question.device != "this machine" and target_named(question.device).gpus else "cpu_only"
        )
        return float(next(p for p in plan["run_paths"] if p["path"] == path)["estimated_tps"])
    # Its weights and overhead are in 10^9 bytes, its KV cache in 2^30 (models.rs: estimate_disk_gb, kv_cache_gb).
    kv_gib = next(k for k in plan["kv_alternatives"] if k["kv_quant"] == "fp16")["kv_cache_gb"]
    if question.asks == "file":
        return float(plan["disk_size_gb"] * GB)
    rest_gb = plan["minimum"]["vram_gb"] - kv_gib if question.asks == "total" else 0
    return float(kv_gib * GIB + rest_gb * GB)


def _llmfit_profile(question: Question, folder: Path) -> list[str | Path]:
    """Its own profile of a Strix Halo; for others one with the figures of weigh's data sheets."""
    if question.device in ("", "this machine"):
        return []
    if question.device == "Ryzen AI Max+ 395":
        return ["--profile", "ryzen-ai-max-plus-395"]
    target = target_named(question.device)
    hardware: dict[str, object] = {
        "total_ram_gb": target.host.memory_bytes / GIB,
        "unified_memory": any(gpu.unified for gpu in target.gpus),
        "ddr_bandwidth_gbps": bytes_per_s(target.host) / GB,
    }
    for gpu in target.gpus[:1]:
        hardware["gpu_memory_bandwidth_gbps"] = bytes_per_s(gpu) / GB
        hardware["gpu_compute_tflops_fp16"] = flops_per_s(gpu) / 1e12
    path = folder / "profile.json"
    path.write_text(json.dumps({"schema_version": 1, "name": path.stem, "hardware": hardware}))
    return ["--profile", path]


# --- whichllm -----------------------------------------------------------------------------------------------

# What `whichllm plan` works out inside and does not print.
WHICHLLM = """
import asyncio, json, sys
from whichllm.engine.vram import estimate_kv_cache
from whichllm.models.fetcher import _estimate_gguf_size
from whichllm.models.hf import fetch_model_by_id
name, quant, context = sys.argv[1:]
model = asyncio.run(fetch_model_by_id(name))
file = _estimate_gguf_size(model.parameter_count, quant)
print(json.dumps({"file": file, "kv": estimate_kv_cache(model, int(context))}))
"""


def ask_whichllm(question: Question, hub: Hub) -> float:
    origin, derived = hub.add(question)
    bin_folder = VENVS / "whichllm" / "bin"
    context = str(question.context or 4096)
    if question.asks == "prefill":
        raise NoAnswer("estimates no prefill")
    with tempfile.TemporaryDirectory() as home:  # its cache of models
        place = {"HF_ENDPOINT": hub.endpoint, "XDG_CACHE_HOME": home, "HOME": home, "COLUMNS": "200"}
        if question.asks in ("file", "kv"):
            command: list[str | Path] = [
                bin_folder / "python",
                "-c",
                WHICHLLM,
                origin,
                _said(question),
                context,
            ]
            return float(_answer(command, **place)[question.asks])
        program: list[str | Path] = [bin_folder / "whichllm"]
        if question.asks == "total":
            words = ["plan", origin, "--quant", question.quant, "--context-length", context, "--json"]
            return float(_answer([*program, *words], **place)["vram_by_quant"][question.quant]["vram_bytes"])
        hub.listing = derived
        here_or_there = _WHICHLLM_DEVICES.get(question.device, ["--gpu", question.device])
        words = [*here_or_there, "--quant", _said(question), "--profile", "any", "--json"]
        found = _answer([*program, *words], **place)["models"]
    if not found:
        raise NoAnswer("ranks the model out")
    assert found[0]["model_id"] in (origin, derived)
    return float(found[0]["estimated_tok_per_sec"])


_WHICHLLM_DEVICES = {
    "A100 PCIe 80GB": ["--gpu", "A100 80GB"],
    # it asks for what it does not know of this chip
    "Ryzen AI Max+ 395": ["--gpu", "Radeon 8060S", "--vram", "96", "--bandwidth", "256"],
    "Raspberry Pi 5": ["--cpu-only"],
    "this machine": ["--cpu-only"],
}


# --- hf-mem -------------------------------------------------------------------------------------------------

# Its program, with the address of the hub, which it takes for granted, exchanged.
HF_MEM = """
import os, httpx2
get = httpx2.AsyncClient.get
async def from_here(client, url, **words):
    return await get(client, str(url).replace("https://huggingface.co", os.environ["HF_ENDPOINT"]), **words)
httpx2.AsyncClient.get = from_here
from hf_mem.cli import main
main()
"""


def ask_hf_mem(question: Question, hub: Hub) -> float:
    """Weights and totals from the GGUF file's header; the KV cache from the original's config."""
    if not question.of_memory:
        raise NoAnswer("estimates no speed")
    origin, derived = hub.add(question)
    words = ["--json-output", "--experimental", "--max-model-len", str(question.context or 4096)]
    if question.asks == "kv":
        words += ["--model-id", origin, "--kv-cache-dtype", "bfloat16"]
    else:
        file = hub.cards[derived]["siblings"][0]["rfilename"]
        words += ["--model-id", derived, "--gguf-file", file]
    said = _answer([VENVS / "hf-mem" / "bin" / "python", "-c", HF_MEM, *words], HF_ENDPOINT=hub.endpoint)
    found = said[{"file": "memory", "kv": "kv_cache", "total": "total_memory"}[question.asks]]
    if found is None:
        raise NoAnswer("gives none for this model")
    return float(found)


# --- tables -------------------------------------------------------------------------------------------------

TOOLS: dict[str, Callable[[Question, Hub], float]] = {
    "weigh": ask_weigh,
    "llmfit": ask_llmfit,
    "whichllm": ask_whichllm,
    "hf-mem": ask_hf_mem,
}


class Row(NamedTuple):
    question: Question
    truth: float
    answers: dict[str, float | NoAnswer]

    def ratio(self, tool: str) -> float | None:
        answer = self.answers[tool]
        return None if isinstance(answer, NoAnswer) else answer / self.truth


def asked(question: Question, hub: Hub) -> Row:
    answers: dict[str, float | NoAnswer] = {}
    for tool, ask in TOOLS.items():
        try:
            answers[tool] = ask(question, hub)
        except NoAnswer as reason:
            answers[tool] = reason
    row = Row(question, truth(question), answers)
    print(
        question.number,
        question.text,
        f"{row.truth:.6g}",
        {t: str(a) for t, a in answers.items()},
        flush=True,
    )
    return row


def section(rows: Sequence[Row]) -> str:
    machine = here(calibrate=False)
    lines = [
        f"{date.today()}, {machine.machine.cpu.model}, {machine.machine.cpu.threads} threads, Python"
        f" {platform.python_version()}, llama.cpp of {machine.engine_version},"
        f" {', '.join(name for pins in PINNED.values() for name in pins)}.",
        "",
        f"| | question | truth | {' | '.join(TOOLS)} |",
        f"|{' --- |' * (3 + len(TOOLS))}",
        *(_line(row) for row in rows),
        "",
        "| | weigh | llmfit | whichllm | hf-mem |",
        "| --- | --- | --- | --- | --- |",
    ]
    memory = [row for row in rows if row.question.of_memory]
    speed = [row for row in rows if not row.question.of_memory]
    for what, some in (("memory", memory), ("speed", speed), ("all", list(rows))):
        name = f"{what} ({len(some)})"
        lines += [f"| {name}: answered | {_cells(some, _answered)} |"]
        lines += [f"| {name}: median error | {_cells(some, _median)} |"]
        lines += [f"| {name}: worst | {_cells(some, _worst)} |"]
    return "\n".join(lines)


def _line(row: Row) -> str:
    cells = []
    for tool in TOOLS:
        ratio = row.ratio(tool)
        shown = "" if ratio is None else _shown(row.question, ratio * row.truth)
        cells.append("no answer" if ratio is None else f"{shown} ({ratio:.2f})")
    truth_cell = f"**{_shown(row.question, row.truth)}**"
    return f"| {row.question.number} | {row.question.text} | {truth_cell} | {' | '.join(cells)} |"


def _shown(question: Question, value: float) -> str:
    if question.of_memory:
        return f"{value / GIB:.3g} GiB" if value < 100 * GIB else f"{value / GIB:.0f} GiB"
    return f"{value:.3g}/s" if value < 1000 else f"{value:.0f}/s"


def _cells(rows: Sequence[Row], summary: Callable[[list[float]], str]) -> str:
    ratios = [[r for row in rows if (r := row.ratio(tool)) is not None] for tool in TOOLS]
    return " | ".join(summary(some) if some else "–" for some in ratios)


def _answered(ratios: list[float]) -> str:
    return str(len(ratios))


def _median(ratios: list[float]) -> str:
    return f"{statistics.median(abs(r - 1) for r in ratios):.1%}"


def _worst(ratios: list[float]) -> str:
    return f"{max(ratios, key=lambda r: abs(math.log(r))):.2f} x the truth"


def install() -> None:
    for tool, pins in PINNED.items():
        subprocess.run([sys.executable, "-m", "venv", VENVS / tool], check=True)
        subprocess.run([VENVS / tool / "bin" / "python", "-m", "pip", "install", "-q", *pins], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", help="make the peers' virtual environments first")
    if parser.parse_args().install:
        install()
    with serving() as hub:
        rows = [asked(question, hub) for question in questions()]
    page = DOCS / "peers.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{section(rows)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
