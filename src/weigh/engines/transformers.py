"""Hugging Face transformers: a checkpoint folder on PyTorch, run as `generate` runs it."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weigh import units
from weigh.engines.closing import ClosedAfterUse
from weigh.engines.engine import HOST, Generation, Layout, Limits, ProcessMemory, Settings
from weigh.errors import BadInput, EngineMissing, EngineTimeout, NotSupported
from weigh.model.ggml_types import GgmlType

if TYPE_CHECKING:
    from weigh.engines.child import Child

PACKAGES = ("transformers", "torch")
LOADING = re.compile("^loading$")
LISTENING = re.compile(r"^listening on 127\.0\.0\.1:(\d+)$")


class Transformers:
    """See `weigh.engines.engine.Engine`. One sequence at a time, on the processor."""

    name = "transformers"
    takes = "safetensors"

    def version(self) -> str:
        """Of transformers and of torch, which does the work."""
        _, found = _where()
        return ", ".join(f"{package} {version}" for package, version in found.items())

    @property
    def python(self) -> str:
        """The interpreter it runs on: weigh's own where that has the packages, else that of `weigh engines add`."""
        return _where()[0]

    def start(self, model: Path, settings: Settings, limits: Limits) -> TransformersSession:
        """Load the checkpoint `model`, a folder, in a child process and wait until it answers.

        A folder without weights is run on made-up ones.

        Raises:
            BadFile: no checkpoint, or one whose weights are pickled.
            NotSupported: several sequences at once, or a quantized KV cache.
        """
        from weigh.engines.checkpoint_folder import has_weights

        python = self.python
        if settings.parallel > 1:
            raise NotSupported("transformers is run with one sequence at a time")
        if {settings.kv_type_k, settings.kv_type_v} != {GgmlType.F16}:
            raise NotSupported("transformers keeps its KV cache in the model's own format")
        given = {
            "folder": str(model.absolute()),
            "weights": has_weights(model),
            "threads": settings.threads,
            "context_tokens": settings.context_tokens,
        }
        script = Path(__file__).with_name("transformers_child.py")
        # `-P` keeps this folder, with its own transformers.py, out of the child's import path
        command = (python, "-P", str(script), json.dumps(given))
        return TransformersSession(command, limits, what=self.name)

    def cpu_features(self, instruction_sets: Sequence[str]) -> tuple[str, ...]:
        """PyTorch picks its kernels when it starts."""
        return tuple(instruction_sets)

    def layout(self, model: Path, settings: Settings) -> Layout:
        raise NotSupported("transformers cannot say how much memory it would take")


def _where() -> tuple[str, dict[str, str]]:
    """An interpreter that has the packages, and their versions.

    Raises:
        EngineMissing: there is none.
    """
    from weigh.engines.environments import Environment
    from weigh.engines.packages import package_version

    environment = Environment(Transformers.name)
    looks: list[tuple[str, Callable[[str], str | None]]] = [(sys.executable, package_version)]
    if environment.usable:
        looks.append((str(environment.python), environment.version))
    for python, version_of in looks:
        found = {package: version_of(package) for package in PACKAGES}
        if all(found.values()):
            return python, {package: version or "" for package, version in found.items()}
    missing = next(package for package in PACKAGES if package_version(package) is None)
    raise EngineMissing(f"the package `{missing}` is not installed", hint="weigh engines add transformers")


def require_compressed_tensors() -> None:
    """Raise EngineMissing where transformers, or what it reads compressed-tensors' folders with, is not installed."""
    from weigh.engines.environments import Environment
    from weigh.engines.packages import package_version

    python, _ = _where()
    version_of = package_version if python == sys.executable else Environment(Transformers.name).version
    if version_of("compressed_tensors") is None:
        raise EngineMissing(
            "the package `compressed-tensors` is not installed, with which transformers reads what is made",
            hint=f"{python} -m pip install compressed-tensors, or measure nothing: leave --text out",
        )


class TransformersSession(ClosedAfterUse):
    """See `weigh.engines.engine.Session`."""

    def __init__(self, command: Sequence[str], limits: Limits, *, what: str) -> None:
        """Start the child `command` and wait until its model is loaded.

        Raises:
            EngineError: it did not come up; nothing of it is left.
        """
        from weigh.engines.child import Child

        self.command = tuple(command)
        self._silence_s = limits.silence_s
        self._child: Child = Child(command, limits, what=what)
        try:
            deadline_s = time.monotonic() + limits.start_s
            began_s, _ = self._child.wait_for(LOADING, deadline_s)
            ready_s, found = self._child.wait_for(LISTENING, deadline_s)
        except BaseException:
            self._child.end()
            raise
        self._port = int(found[1])
        self.load_s = ready_s - began_s

    def generate(self, prompt: Sequence[int], output_tokens: int, *, reuse_cache: bool = False) -> Generation:
        """Prefill `prompt` (token ids), then decode exactly `output_tokens`, ignoring end tokens.

        Raises:
            BadInput: the prompt exceeds the context or the vocabulary.
            EngineTimeout: nothing came for `silence_s`; the engine is ended.
            EngineError: the engine died.
        """
        request = {"prompt": list(prompt), "output_tokens": output_tokens, "reuse_cache": reuse_cache}
        sent_s = time.perf_counter()
        times_s: list[float] = []
        last: dict[str, Any] = {}
        for last in self._lines(request):
            if "refused" in last:
                raise BadInput(f"{self._child.what} refused the request: {last['refused']}")
            if "token" in last:
                times_s.append(time.perf_counter() - sent_s)
        if "ends_s" not in last:  # the answer broke off
            self._child.fail()
        first_s, *_ = ends_s = last["ends_s"]
        return Generation(
            prompt_tokens=last["prompt_tokens"],
            cached_tokens=last["cached_tokens"],
            output_tokens=len(times_s),
            prefill_s=first_s,
            decode_s=ends_s[-1] - first_s,
            token_times_s=tuple(times_s),
            step_times_s=tuple(now - before for before, now in pairwise(ends_s)),
        )

    def _lines(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        import socket

        try:
            with socket.create_connection((HOST, self._port), timeout=self._silence_s) as connection:
                connection.sendall(json.dumps(request).encode() + b"\n")
                with connection.makefile("rb") as lines:
                    yield from map(json.loads, lines)
        except TimeoutError:
            self._child.end()
            raise EngineTimeout(
                f"{self._child.what} was silent for {units.seconds(self._silence_s)}"
            ) from None
        except (OSError, ValueError):  # a line that breaks off is no JSON
            self._child.fail()

    def memory(self) -> ProcessMemory:
        return self._child.memory

    def close(self) -> None:
        self._child.end()
