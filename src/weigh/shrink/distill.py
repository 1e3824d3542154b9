"""Train a student to foretell what its teacher foretells, and the same student without the teacher beside it.

The loss of a step is `(1 - share) x cross entropy with the text + share x KL(teacher || student)`, both distributions
softened by a temperature T and the divergence multiplied by T^2, so that its gradients keep their size (Hinton et al.
2015, arXiv:1503.02531); and, where asked for, the distance of hidden states: those of the student, through a linear
map trained with it, from the teacher's at the layers that the student's stand for (Romero et al. 2014,
arXiv:1412.6550), relative to the teacher's own spread.

The student alone begins with the same weights and sees the same text in the same order, and has the cross entropy only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from weigh import units
from weigh.errors import BadInput
from weigh.quality.text import Text
from weigh.shrink.recipe import Recipe
from weigh.shrink.student import SAMPLE_WINDOWS, from_teacher, kept_layers, student_config
from weigh.shrink.student_files import (
    Student,
    fingerprint,
    read_config,
    read_model,
    told_student,
    write_student,
)
from weigh.shrink.training import Part, Progress, Training, device, precision
from weigh.shrink.training_text import training_windows

# As the ladder (docs/ladder.md): the wider, the smaller (Yang et al. 2022, arXiv:2203.03466).
LEARNING_RATE_TIMES_WIDTH = 0.5
LOGITS_BYTES = 256 << 20  # of one model at once; the windows of a step are taken in parts that need no more
_LOGITS_HELD = 8  # logits, their softened logarithms and gradients, of both models
_TEACHER_BYTES, _STUDENT_BYTES = 4, 16  # a parameter: float32; with its gradient and the two moments of AdamW


def distill(
    teacher: Path,
    texts: Sequence[Text],
    out: Path,
    recipe: Recipe,
    *,
    arms: Sequence[str],
    progress: Progress,
) -> list[Student]:
    """Train students on `texts`, each into a folder of its name in `out`; go on where it stopped.

    Args:
        teacher: a folder of safetensors with its configuration and tokenizer.
        arms: `distilled` and `alone`, or one of them.

    Raises:
        BadInput: a teacher that is no safetensors folder of a known kind, too little text or memory, or a state in
            `out` begun with other settings.
        NoSpace: `out` has no room.
        KeyboardInterrupt: asked to stop; what was trained is kept in `out`.
    """
    on = device()
    theirs = read_config(teacher)
    config, stored = student_config(theirs, recipe.shape), _stored(theirs)
    longest = theirs.max_position_embeddings
    if recipe.window_tokens > longest:
        raise BadInput(
            f"the teacher reads {longest:,} tokens, and windows of {recipe.window_tokens:,} are asked for"
        )
    _check_room(theirs, config, recipe, on)
    windows = training_windows(
        teacher,
        texts,
        window_tokens=recipe.window_tokens,
        least=recipe.windows,
        done=lambda share: progress("reading the text", 0.0),
    )
    made_with = {
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "teacher": fingerprint(teacher),
        "text": hashlib.sha256(windows.numpy().tobytes()).hexdigest(),
    }
    out.mkdir(parents=True, exist_ok=True)
    abouts = {arm: {**made_with, "arm": arm} for arm in arms}
    found = {arm: told_student(out / arm, arm, about) for arm, about in abouts.items()}
    master = None
    for number, (arm, about) in enumerate(abouts.items()):
        kept = out / f"{arm}.training"
        if found[arm] is None:
            master = master or read_model(teacher, theirs, on)
            training = _training(master, config, windows, recipe, kept, about)
            training.run(_share(progress, number, len(arms)), f"{arm} ({number + 1} of {len(arms)})")
            write_student(training, teacher, stored, out / arm)
            found[arm] = told_student(out / arm, arm, about)
        kept.unlink(missing_ok=True)
    return [student for student in found.values() if student is not None]


def _training(
    master: Any,
    config: Any,
    windows: torch.Tensor,
    recipe: Recipe,
    kept: Path,
    about: Mapping[str, Any],
) -> Training:
    """Of the arm that `about` names, at its first step."""
    on = device()
    torch.manual_seed(recipe.seed)
    student = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(on)
    channels = None
    if recipe.from_teacher:
        sample = windows[:: max(1, len(windows) // SAMPLE_WINDOWS)][:SAMPLE_WINDOWS]
        channels = from_teacher(master, student, sample[:, :-1].to(on))
    losses = _Losses(master if about["arm"] == "distilled" else None, student, windows, recipe, on)
    if losses.map is not None and channels is not None:  # begins by saying each channel of its own
        with torch.no_grad():
            losses.map.weight.zero_()
            losses.map.weight[channels, range(len(channels))] = 1.0
    peak = recipe.learning_rate or LEARNING_RATE_TIMES_WIDTH / config.hidden_size
    return Training(student, losses, recipe.steps, peak, kept, about, losses.map)


class _Losses:
    """The loss of step n of a student, in parts."""

    def __init__(
        self, teacher: Any | None, student: Any, windows: torch.Tensor, recipe: Recipe, on: torch.device
    ) -> None:
        self._teacher, self._student, self._windows, self._recipe = teacher, student, windows, recipe
        self._dtype = precision(on)
        self._on = on
        self._at_once = max(1, LOGITS_BYTES // (4 * recipe.window_tokens * student.config.vocab_size))
        self._pass: tuple[int, list[int]] = (-1, [])
        self.map: torch.nn.Linear | None = None
        if teacher is not None and recipe.hidden:
            sizes = student.config.hidden_size, teacher.config.hidden_size
            self.map = torch.nn.Linear(*sizes, bias=False, device=on)

    def __call__(self, step: int) -> Iterator[Part]:
        batch = self._batch(step)
        for part in batch.split(self._at_once):
            loss, noted = self._loss(part.to(self._on))
            share = len(part) / len(batch)
            yield loss * share, {name: value * share for name, value in noted.items()}

    def _loss(self, tokens: torch.Tensor) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Of some windows, the mean over their tokens."""
        seen, wanted = tokens[:, :-1], tokens[:, 1:].flatten()
        hidden = self.map is not None
        made = self._forward(self._student, seen, hidden)
        logits = made.logits.float().flatten(0, 1)  # (windows x tokens, vocabulary)
        text = functional.cross_entropy(logits, wanted)
        if self._teacher is None:
            return text, {"text": float(text.detach())}
        with torch.no_grad():
            shown = self._forward(self._teacher, seen, hidden)
        softness = self._recipe.temperature
        taught = softness**2 * functional.kl_div(
            functional.log_softmax(logits / softness, dim=-1),
            functional.log_softmax(shown.logits.float().flatten(0, 1) / softness, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        loss = (1 - self._recipe.share) * text + self._recipe.share * taught
        noted = {"text": float(text.detach()), "taught": float(taught.detach())}
        if self.map is not None:
            apart = self._apart(self.map, made.hidden_states, shown.hidden_states)
            loss = loss + self._recipe.hidden * apart
            noted["hidden"] = float(apart.detach())
        return loss, noted

    def _forward(self, model: Any, seen: torch.Tensor, hidden: bool) -> Any:
        with torch.autocast(self._on.type, self._dtype, enabled=self._dtype != torch.float32):
            return model(input_ids=seen, use_cache=False, output_hidden_states=hidden)

    @staticmethod
    def _apart(
        to_teacher: torch.nn.Linear, own: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Mean over layers of the squared distance, in units of the teacher's spread."""
        layers = kept_layers(len(theirs) - 1, len(own) - 1)
        parts = []
        for state, number in zip(own[1:], layers, strict=True):
            aim = theirs[number + 1].float()
            parts.append(functional.mse_loss(to_teacher(state.float()), aim) / aim.var().clamp_min(1e-12))
        return torch.stack(parts).mean()

    def _batch(self, step: int) -> torch.Tensor:
        """Windows in an order drawn anew for each pass, told by the step alone, so that a resumed run sees the same."""
        count, size = len(self._windows), self._recipe.windows
        places = [self._order(at // count)[at % count] for at in range(step * size, (step + 1) * size)]
        return self._windows[places]

    def _order(self, number: int) -> list[int]:
        if self._pass[0] != number:
            drawn = torch.Generator().manual_seed(self._recipe.seed * 1_000_003 + number)
            self._pass = (number, torch.randperm(len(self._windows), generator=drawn).tolist())
        return self._pass[1]


def _check_room(teacher: Any, student: Any, recipe: Recipe, on: torch.device) -> None:
    """Before anything is loaded."""
    from weigh.machine.memory import read_memory

    with torch.device("meta"):
        sizes = [AutoModelForCausalLM.from_config(one).num_parameters() for one in (teacher, student)]
    window_bytes = 4 * recipe.window_tokens * teacher.vocab_size
    needed_bytes = (
        _TEACHER_BYTES * sizes[0]
        + _STUDENT_BYTES * sizes[1]
        + _LOGITS_HELD * min(max(LOGITS_BYTES, window_bytes), recipe.windows * window_bytes)
    )
    free_bytes = torch.cuda.mem_get_info(on)[0] if on.type == "cuda" else read_memory().available_bytes
    if needed_bytes > free_bytes:
        raise BadInput(
            f"teaching {units.count(sizes[1])} parameters by {units.count(sizes[0])} takes more than "
            f"{units.gib(needed_bytes)}, and {units.gib(free_bytes)} are free",
            hint="make the student smaller, or take a smaller teacher",
        )


def _stored(config: Any) -> torch.dtype:
    """The number format of the teacher's files, which the student's have too."""
    dtype = config.dtype
    return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else torch.float32


def _share(progress: Progress, number: int, of: int) -> Progress:
    return lambda stage, done: progress(stage, (number + done) / of)
