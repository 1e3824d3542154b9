"""Steps of training that a kill cannot hurt: all state in one file, replaced by rename.

The same state on the same device, with the same threads and torch, gives the same weights.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from weigh import units
from weigh.errors import BadInput, NoSpace, first_line

GRADIENT_NORM = 1.0
WEIGHT_DECAY = 0.1
BETAS = (0.9, 0.95)
KEEP_S = 60.0  # a state is written about that often, and at the end
WARM_UP, DECAY = 0.05, 0.3  # shares of the steps; between them the rate is steady
TIMED_STEPS = 3  # from so many on the time that is left is told

Progress = Callable[[str, float], None]
Part = tuple[torch.Tensor, Mapping[str, float]]


def device() -> torch.device:
    """A GPU where torch finds one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_threads(count: int) -> None:
    """Of the processor, for all that torch computes in this process."""
    torch.set_num_threads(count)


def precision(on: torch.device) -> torch.dtype:
    """bfloat16 for the matrix products where the hardware multiplies it, else float32; weights stay float32."""
    if on.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if known.get("avx512_bf16") or known.get("amx_bf16") else torch.float32


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Up in a line, steady, down to nought in a line."""
    warm_up, decay = max(1, round(WARM_UP * steps)), max(1, round(DECAY * steps))
    return peak * min(1.0, (step + 1) / warm_up, (steps - step) / decay)


@dataclass
class Training:
    """A model on its way.

    Attributes:
        model: its parameters in float32, on the device it is trained on.
        parts: of step n: scalars whose sum is descended, one at a time so that memory holds one, and with each its
            part of the figures to note.
        steps: there are in all.
        peak: learning rate at its highest.
        kept: the state's file.
        about: what the state must have been made with to be gone on with: plain JSON.
        also: parameters outside the model, trained with it.
    """

    model: torch.nn.Module
    parts: Callable[[int], Iterable[Part]]
    steps: int
    peak: float
    kept: Path
    about: Mapping[str, Any]
    also: torch.nn.Module | None = None
    step: int = 0
    log: list[dict[str, float]] = field(default_factory=list)
    trained_s: float = 0.0

    def __post_init__(self) -> None:
        weights = [*self.model.parameters(), *(self.also.parameters() if self.also else ())]
        groups = [
            {"params": [one for one in weights if one.dim() > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [one for one in weights if one.dim() <= 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=self.peak, betas=BETAS, fused=True)
        self._weights = weights

    def run(self, progress: Progress, title: str) -> None:
        """All steps from where the kept state stands.

        Ctrl-C lets the step under way finish, for half a step is no state to go on from; a second one does not wait.

        Raises:
            BadInput: the kept state was made with other settings or cannot be read, or training diverges.
            NoSpace: the state cannot be written.
            KeyboardInterrupt: asked to stop; what was trained is kept.
        """
        self._resume()
        self.model.train()
        begun, first = time.monotonic(), self.step
        written = begun
        with _stop_asked() as asked:
            while self.step < self.steps:
                started = time.monotonic()
                noted = self._one()
                self.step += 1
                now = time.monotonic()
                self.trained_s += now - started
                self.log.append({"step": self.step, **noted})
                progress(f"{title}{self._said(now - begun, self.step - first)}", self.step / self.steps)
                if asked:
                    self.keep()
                    raise KeyboardInterrupt
                if now - written > KEEP_S:
                    self.keep()
                    written = time.monotonic()
            if self.step > first:
                self.keep()

    def _said(self, took_s: float, steps: int) -> str:
        said = f": step {self.step:,} of {self.steps:,}"
        if steps < TIMED_STEPS or self.step == self.steps:
            return said
        return f"{said}, {units.seconds(took_s / steps * (self.steps - self.step))} to go"

    def _one(self) -> dict[str, float]:
        noted: dict[str, float] = {}
        for loss, figures in self.parts(self.step):
            loss.backward()
            for name, value in {"loss": float(loss.detach()), **figures}.items():
                noted[name] = noted.get(name, 0.0) + value
        norm = torch.nn.utils.clip_grad_norm_(self._weights, GRADIENT_NORM)
        if not (math.isfinite(noted["loss"]) and math.isfinite(float(norm))):
            raise BadInput(
                f"training diverges: the loss is no number any more at step {self.step + 1:,}",
                hint="train anew with a lower learning rate",
            )
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.peak, self.step, self.steps)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return noted

    def keep(self) -> None:
        """Write the state; a kill at any moment leaves the one before.

        Raises:
            NoSpace: it cannot be written.
        """
        part = self.kept.with_name(self.kept.name + ".part")
        state = {
            "about": dict(self.about),
            "step": self.step,
            "log": self.log,
            "trained_s": self.trained_s,
            "model": self.model.state_dict(),
            "also": self.also.state_dict() if self.also else {},
            "optimizer": self._optimizer.state_dict(),
        }
        try:
            with part.open("wb") as file:
                torch.save(state, file)
            part.replace(self.kept)
        except (OSError, RuntimeError) as error:  # torch wraps what the file raised
            part.unlink(missing_ok=True)
            raise NoSpace(f"{self.kept}: the state of the training cannot be written: {error}") from error

    def _resume(self) -> None:
        if not self.kept.exists():
            return
        try:
            kept = torch.load(self.kept, weights_only=True, map_location=next(self.model.parameters()).device)
            if kept["about"] != dict(self.about):
                raise BadInput(
                    f"{self.kept}: was begun with other settings",
                    hint="use the same ones, or remove it to begin anew",
                )
            self.model.load_state_dict(kept["model"])
            if self.also:
                self.also.load_state_dict(kept["also"])
            self._optimizer.load_state_dict(kept["optimizer"])
            self.step, self.log, self.trained_s = kept["step"], kept["log"], kept["trained_s"]
        except BadInput:
            raise
        except Exception as error:  # torch raises a dozen kinds for a file that is none of its own
            raise BadInput(
                f"{self.kept}: cannot be gone on with: {first_line(error)}",
                hint="remove it to begin anew",
            ) from error


@contextmanager
def _stop_asked() -> Iterator[list[bool]]:
    """A list that is no longer empty once Ctrl-C came; the second raises at once. Other threads get no signals."""
    asked: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(_number: int, _frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
