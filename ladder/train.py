"""Train one run on whatever device there is; stopped or killed, it goes on from its last checkpoint.

The state is one file, replaced by rename. It holds the log as well, so that a log never tells of steps that were
lost. The same state on the same device, threads and torch gives the same weights.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from ladder.heldout import HeldOut
from ladder.run import TOKENS_PER_STEP, WINDOWS_PER_STEP, Run, decay_start
from weigh.shrink.training import device, precision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOG_STEPS = 16
CHECKPOINT_STEPS = 32
GRADIENT_NORM = 1.0
WEIGHT_DECAY = 0.1
BETAS = (0.9, 0.95)
PLACE = ("device", "precision", "threads", "torch")  # of the log's first line: where a run goes on may differ

Say = Callable[[str], None]


class Stopped(Exception):
    """Asked to stop; the state is kept."""


class OtherRun(Exception):
    """A checkpoint was made from other text or by other settings, or is in use."""


@dataclass(slots=True)
class _State:
    """A model on its way, with all that its next step depends on."""

    model: LlamaForCausalLM
    optimizer: torch.optim.AdamW
    step: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # since the last line of the log
    cpu_s: float = 0.0
    wall_s: float = 0.0

    def save(self, path: Path) -> None:
        part = path.with_suffix(".part")
        kept = {name: getattr(self, name) for name in ("step", "log", "losses", "cpu_s", "wall_s")}
        torch.save(kept | {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        kept = torch.load(path, weights_only=True, map_location=self.model.device)
        for name, value in self.log[0].items():
            if name not in PLACE and kept["log"][0].get(name) != value:
                raise OtherRun(f"{path} was made with another {name}; give another folder or delete it")
        self.model.load_state_dict(kept.pop("model"))
        self.optimizer.load_state_dict(kept.pop("optimizer"))
        for name, value in kept.items():
            setattr(self, name, value)


def train(
    run: Run,
    windows: NDArray[np.uint16],
    held_out: HeldOut,
    *,
    states: Path,
    models: Path,
    log: Path,
    about: dict[str, Any],
    beside: Callable[[Path], None],
    say: Say,
    most_steps: int | None = None,
) -> None:
    """Train every branch of `run` that `models` does not hold yet.

    Args:
        windows: (run.ends[-1] * WINDOWS_PER_STEP or more, context + 1) token ids, in the order of training.
        states: where checkpoints are kept while the run is not finished.
        models: one folder for each branch: config.json and model.safetensors, the weights in float32.
        log: JSON lines, written anew with each checkpoint.
        about: what else the log's first line tells of the text.
        beside: writes what belongs beside a model's weights into its folder.
        most_steps: longer branches are left for another time, and the trunk is kept for them.

    Raises:
        Stopped: at SIGINT or SIGTERM, after the step under way is done and kept.
        OtherRun: `states` holds a checkpoint of the same name that is of another run, or is being written to.
    """
    trunk = states / f"{run.name}-trunk.pt"
    state = _begin(run, about | {"windows_sha256": hashlib.sha256(windows.tobytes()).hexdigest()})
    with _alone(states / f"{run.name}.lock"), _stop_asked() as asked:
        if trunk.exists():
            state.load(trunk)
        for end in run.ends:
            folder = models / run.model_name(end)
            if folder.exists():
                continue
            if most_steps is not None and end > most_steps:
                return
            branch = states / f"{run.name}-{end}.pt"
            go = _Steps(run, windows, end, log, say, asked)
            if branch.exists():
                state.load(branch)
            else:
                go.on(state, decay_start(end), trunk)
                state.save(trunk)
            go.on(state, end, branch)
            loss = held_out.loss(state.model)
            say(
                f"{run.name}: {end * TOKENS_PER_STEP:,} tokens, held out {loss['bits_per_byte']:.4f} bits per byte"
            )
            times = {"cpu_s": state.cpu_s, "wall_s": state.wall_s}
            made = _written(state.model, folder)
            beside(made)
            # the trunk goes on as if there had been no branch, but for the result in its log
            results = [line for line in state.log if line.get("end", end) < end]
            results.append(_rounded({"end": end, "tokens": end * TOKENS_PER_STEP} | times | loss))
            state.load(trunk)
            state.log = [line for line in state.log if "end" not in line] + results
            state.save(trunk)
            _write_log(log, state.log)
            made.replace(folder)  # last, since what is there is never made again
            branch.unlink(missing_ok=True)
    trunk.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps of one branch."""

    run: Run
    windows: NDArray[np.uint16]
    end: int
    log: Path
    say: Say
    asked: list[bool]

    def on(self, state: _State, to: int, checkpoint: Path) -> None:
        """Train `state` until it has done `to` steps."""
        dtype = precision(state.model.device)
        state.model.train()
        cpu, wall, first, since = time.process_time(), time.monotonic(), state.step, time.monotonic()
        while state.step < to:
            state.losses.append(self._step(state, dtype))
            state.step += 1
            now_cpu, now_wall = time.process_time(), time.monotonic()
            state.cpu_s, state.wall_s = state.cpu_s + now_cpu - cpu, state.wall_s + now_wall - wall
            cpu, wall = now_cpu, now_wall
            if state.step % LOG_STEPS == 0:
                self._note(state, (now_wall - since) / (state.step - first))
            if state.step % CHECKPOINT_STEPS == 0 or self.asked:
                state.save(checkpoint)
                _write_log(self.log, state.log)
            if self.asked:
                raise Stopped(f"{self.run.name}: stopped after {state.step} steps, kept in {checkpoint}")

    def _step(self, state: _State, dtype: torch.dtype) -> float:
        rows = self.windows[state.step * WINDOWS_PER_STEP : (state.step + 1) * WINDOWS_PER_STEP]
        tokens = torch.from_numpy(rows.astype("int64")).to(state.model.device)
        with torch.autocast(tokens.device.type, dtype, enabled=dtype != torch.float32):
            logits = state.model(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), GRADIENT_NORM)
        for group in state.optimizer.param_groups:
            group["lr"] = group["times"] * self.run.rate(state.step, self.end)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _note(self, state: _State, step_s: float) -> None:
        loss = sum(state.losses) / len(state.losses)
        state.losses.clear()
        line = {
            "step": state.step,
            "branch": self.end,
            "loss": loss,
            "cpu_s": state.cpu_s,
            "wall_s": state.wall_s,
        }
        line["learning_rate"] = self.run.rate(state.step - 1, self.end)
        state.log.append(_rounded(line))
        left_s = step_s * (self.end - state.step)
        self.say(f"{self.run.name}: step {state.step} of {self.end}, loss {loss:.3f}, {left_s:.0f} s to go")


def _begin(run: Run, about: dict[str, Any]) -> _State:
    torch.manual_seed(run.seed)
    on = device()
    model = LlamaForCausalLM(run.rung.config())
    _shrink_residual_writers(model)
    model.to(on)
    embedding = model.get_input_embeddings().weight
    matrices = [weight for weight in model.parameters() if weight.dim() > 1 and weight is not embedding]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY, "times": 1.0},
        {"params": [embedding], "weight_decay": WEIGHT_DECAY, "times": run.embedding_times},
        {"params": vectors, "weight_decay": 0.0, "times": run.embedding_times},
    ]
    optimizer = torch.optim.AdamW(groups, lr=run.learning_rate, betas=BETAS, fused=True)
    header = {
        "run": run.name,
        "shape": {name: getattr(run.rung, name) for name in run.rung.__slots__},
        "parameters": run.rung.parameters,
        "learning_rate": run.learning_rate,
        "embedding_times": run.embedding_times,
        "noise": run.noise,
        "seed": run.seed,
        "device": on.type,
        "precision": str(precision(on)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }
    return _State(model, optimizer, log=[header | about])


def _shrink_residual_writers(model: LlamaForCausalLM) -> None:
    """What writes into the residual stream starts smaller by the root of the number of writers (GPT-2)."""
    factor = (2 * model.config.num_hidden_layers) ** -0.5
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_(factor)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two trainings that write the same checkpoints would spoil them."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OtherRun(f"{path} is held by another training of this run") from None
        yield


@contextmanager
def _stop_asked() -> Iterator[list[bool]]:
    """A list that is no longer empty once SIGINT or SIGTERM has come."""
    asked: list[bool] = []

    def note(_number: int, _frame: FrameType | None) -> None:
        asked.append(True)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _written(model: LlamaForCausalLM, folder: Path) -> Path:
    """The model, whole, under a name that is not yet its own."""
    part = folder.with_name(folder.name + ".part")
    transformers_logging.disable_progress_bar()
    model.save_pretrained(part)
    return part


def _write_log(path: Path, lines: list[dict[str, Any]]) -> None:
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    part.replace(path)


def _rounded(line: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in line.items()}
