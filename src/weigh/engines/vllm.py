"""vLLM: the user's installed `vllm serve`, on a checkpoint folder with its weights or with made-up ones."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from weigh.engines.checkpoint_folder import has_weights
from weigh.engines.engine import HOST, Generation, Layout, Limits, Settings
from weigh.engines.environments import Environment
from weigh.engines.http_session import HttpSession
from weigh.engines.packages import version_in
from weigh.errors import EngineCrashed, EngineMissing, NotSupported
from weigh.model.ggml_types import GgmlType

VARIABLE = "WEIGH_VLLM"
PROGRAM = "vllm"
MODEL = "model"  # what it is called in requests
WARM_UP_TOKENS = 8
# /metrics: requests that have ended, and the seconds their prefills and decodes took
_SUMS = tuple(
    re.compile(rf"^vllm:request_{name}(?:{{[^}}]*}})? (\S+)$", re.MULTILINE)
    for name in ("prefill_time_seconds_count", "prefill_time_seconds_sum", "decode_time_seconds_sum")
)
_OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "VLLM_HOST_IP": HOST}


class Vllm:
    """See `weigh.engines.engine.Engine`."""

    name = PROGRAM
    takes = "safetensors"

    def __init__(self, program: Path | str | None = None) -> None:
        """`program` is a path or a name on PATH.

        None: what `WEIGH_VLLM` names, else the `vllm` on PATH, else that of `weigh engines add`.
        """
        self._program = str(program or os.environ.get(VARIABLE) or "")

    @property
    def path(self) -> str:
        found = shutil.which(self._program or PROGRAM)
        if found is None and not self._program:
            environment = Environment(self.name)
            found = shutil.which(str(environment.program(PROGRAM))) if environment.usable else None
        if found is None:
            raise EngineMissing(
                f"`{self._program or PROGRAM}` is not an installed program",
                hint=f"`weigh engines add vllm`, or name one in {VARIABLE}",
            )
        return found

    def version(self) -> str:
        return f"{PROGRAM} {_version(self.path)}"

    def start(self, model: Path, settings: Settings, limits: Limits) -> VllmSession:
        """Serve the checkpoint `model`, a folder; one without weights is served with made-up ones.

        Raises:
            BadFile: no checkpoint, or one whose weights are pickled.
            NotSupported: a quantized KV cache.
        """
        if {settings.kv_type_k, settings.kv_type_v} != {GgmlType.F16}:
            raise NotSupported("vLLM's KV cache is run in the model's own format here")
        return VllmSession(self._command(model, settings), limits, what=self.name)

    def cpu_features(self, instruction_sets: Sequence[str]) -> tuple[str, ...]:
        """It picks its kernels when it starts."""
        return tuple(instruction_sets)

    def layout(self, model: Path, settings: Settings) -> Layout:
        raise NotSupported("vLLM cannot say how much memory it would take before it takes it")

    def _command(self, model: Path, settings: Settings) -> tuple[str, ...]:
        """With its environment in front, so that it can be run again as it stands."""
        options = {
            "--load-format": "safetensors" if has_weights(model) else "dummy",
            "--served-model-name": MODEL,
            "--host": HOST,
            "--port": _free_port(),
            "--max-model-len": settings.context_tokens,
            "--max-num-seqs": settings.parallel,
            "--max-num-batched-tokens": max(settings.batch_tokens, settings.parallel),
        }
        on_cpu = "cpu" in self.version()
        environment = _OFFLINE | _LOOPBACK
        if on_cpu and (cache_bytes := _cache_bytes(model, settings)):
            options["--kv-cache-memory-bytes"] = cache_bytes
        if on_cpu and settings.threads is not None:
            cores = sorted(os.sched_getaffinity(0))[: settings.threads]
            environment["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
        return (
            *("env", *(f"{name}={value}" for name, value in environment.items())),
            *(self.path, "serve", str(model.absolute())),
            *(str(word) for option in options.items() for word in option),
            *("--skip-tokenizer-init", "--enforce-eager", "--enable-prompt-tokens-details"),
            *("--no-enable-log-requests", "--disable-uvicorn-access-log"),
        )


class VllmSession(HttpSession):
    """See `weigh.engines.engine.Session`."""

    LOADING: ClassVar[re.Pattern[str]] = re.compile(r"Starting to load model|Loading model")
    LISTENING: ClassVar[re.Pattern[str]] = re.compile(r"Starting vLLM .*http://127\.0\.0\.1:(\d+)")
    PATH: ClassVar[str] = "/v1/completions"

    def __init__(self, command: Sequence[str], limits: Limits, *, what: str) -> None:
        """Start it, wait until it serves, and throw the first request away: it takes many times as long.

        Raises:
            EngineError: it did not come up; nothing of it is left.
        """
        self._salt = 0
        self._sums: tuple[float, ...] = (0.0, 0.0, 0.0)
        super().__init__(command, limits, what=what)
        try:
            self.generate([0] * WARM_UP_TOKENS, 2)
        except BaseException:
            self.close()
            raise

    def generate(self, prompt: Sequence[int], output_tokens: int, *, reuse_cache: bool = False) -> Generation:
        """Prefill `prompt` (token ids), then decode exactly `output_tokens`, ignoring end tokens.

        Prefill and decode are the engine's own clock unless requests overlap; steps are told by arrival.

        Raises:
            BadInput: the engine refuses the request, for example because it exceeds the context.
            EngineTimeout: nothing came for `silence_s`; the engine is ended.
            EngineError: the engine died.
        """
        self._salt += not reuse_cache
        request = {
            "model": MODEL,
            "prompt": list(prompt),
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "cache_salt": f"weigh {self._salt}",  # prefixes are found among requests of the same salt alone
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        sent_s = time.perf_counter()
        times_s: list[float] = []
        usage: dict[str, Any] = {}
        for event in self._events(request):
            usage = event.get("usage") or usage
            new = usage.get("completion_tokens", 0) - len(times_s)
            times_s += [time.perf_counter() - sent_s] * new  # several tokens may come in one event
        if len(times_s) < output_tokens:  # the stream broke off
            self._child.fail()
        prefill_s, decode_s = self._own_times() or (times_s[0], times_s[-1] - times_s[0])
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Generation(
            prompt_tokens=usage["prompt_tokens"] - cached,
            cached_tokens=cached,
            output_tokens=len(times_s),
            prefill_s=prefill_s,
            decode_s=decode_s,
            token_times_s=tuple(times_s),
            step_times_s=steps(times_s),
        )

    def _own_times(self) -> tuple[float, float] | None:
        """Prefill and decode of the last request by the engine's clock, which has sums over all requests.

        None when not exactly one request has ended since it was asked last.
        """
        before, self._sums = self._sums, self._metrics()
        ended, prefill_s, decode_s = (now - was for now, was in zip(self._sums, before, strict=True))
        return (prefill_s, decode_s) if ended == 1 else None

    def _metrics(self) -> tuple[float, ...]:
        import http.client

        connection = http.client.HTTPConnection(HOST, self._port, timeout=self._silence_s)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            self._child.fail()
        finally:
            connection.close()
        return tuple(sum(map(float, pattern.findall(text))) for pattern in _SUMS)


def steps(times_s: Sequence[float]) -> tuple[float, ...]:
    """Seconds of each decode step, from arrivals; a client that is late sees several tokens come at once.

    Tokens that come in one piece, or right behind another, share the time of all of them evenly.
    """
    if len(times_s) < 2:
        return ()
    at_once_s = (times_s[-1] - times_s[0]) / (len(times_s) - 1) / 10
    pieces: list[list[float]] = []
    for before, now in pairwise(times_s):
        if pieces and now - before < at_once_s:
            pieces[-1].append(now - before)
        else:
            pieces.append([now - before])
    return tuple(sum(piece) / len(piece) for piece in pieces for _ in piece)


def _cache_bytes(model: Path, settings: Settings) -> int | None:
    """What the contexts take; None where the shapes are not known."""
    from weigh.errors import BadInput
    from weigh.estimate.vllm import cpu_cache_bytes
    from weigh.model.config import read_config

    try:
        spec = read_config(model)
    except BadInput:  # vLLM may know it all the same
        return None
    return cpu_cache_bytes(
        spec,
        context_tokens=settings.context_tokens,
        parallel=settings.parallel,
        batch_tokens=settings.batch_tokens,
    )


def _free_port() -> int:
    """vLLM does not say which port it has when it is told to take any."""
    with socket.socket() as held:
        held.bind((HOST, 0))
        port: int = held.getsockname()[1]
        return port


@lru_cache(maxsize=8)
def _version(path: str) -> str:
    """As its metadata say, beside the program; asking the program takes many seconds of imports.

    Raises:
        EngineCrashed: it does not run.
    """
    for folder in Path(path).resolve().parents[1].glob("lib/python3*/site-packages"):
        for package, build in (("vllm", ""), ("vllm_cpu", "+cpu")):
            if version := version_in(folder, package):
                return version + build
    try:
        done = subprocess.run(
            (path, "--version"), capture_output=True, text=True, errors="replace", timeout=120, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineCrashed(f"`{path} --version` failed: {error}") from None
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "of unknown version"
