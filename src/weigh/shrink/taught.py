"""Students trained, and then held against their teacher and each other on text that none of them was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from weigh.engines.engine import Limits
from weigh.errors import BadInput, NotSupported, WeighError
from weigh.quality.text import Texts
from weigh.quality.text_models import Diverged, against, on_text
from weigh.quality.text_run import Pair, Progress, TextRun
from weigh.shrink.recipe import Recipe

if TYPE_CHECKING:
    from weigh.model.spec import ModelSpec
    from weigh.quality.text import Text, TextQuality
    from weigh.shrink.student_files import Student

ARMS = ("distilled", "alone")
SCORING_S = 600.0


@dataclass(frozen=True, slots=True)
class Contender:
    """The teacher or a student, and what was measured of it.

    Attributes:
        student: None of the teacher.
        quality: on held-out text; None where the run ended before.
        diverged: from the teacher, likewise.
    """

    name: str
    spec: ModelSpec
    student: Student | None
    quality: TextQuality | None
    diverged: Diverged | None


@dataclass(frozen=True, slots=True)
class Taught:
    """What came of it.

    Attributes:
        contenders: the students, then the teacher.
        run: of the same in the same order; its texts are the held-out ones.
        training_files: of the text.
        not_compared: why there is no divergence, in words; empty where there is.
        error: what ended it early, to be raised when this is shown.
    """

    contenders: tuple[Contender, ...]
    recipe: Recipe
    run: TextRun
    training_files: int
    not_compared: str = ""
    error: BaseException | None = None

    def pair(self, first: str, second: str) -> Pair | None:
        """How two contenders differ, by name; the first of them is the first of the pair."""
        places = {one.name: number for number, one in enumerate(self.contenders)}
        wanted = (places.get(first), places.get(second))
        return next((pair for pair in self.run.pairs if (pair.first, pair.second) == wanted), None)


def teach(
    teacher: ModelSpec,
    texts: Texts,
    out: Path,
    recipe: Recipe,
    *,
    arms: Sequence[str] = ARMS,
    threads: int | None = None,
    progress: Progress,
) -> Taught:
    """As `teach_on`, on one file in eight of `texts`, which is held out of training.

    Raises:
        NotSupported, BadInput, EngineError, NoSpace, KeyboardInterrupt: as `teach_on`.
    """
    _folder(teacher)  # before the text is looked at: what is named first is refused first
    _require_torch()
    from weigh.shrink.training_text import held_out

    train, apart = held_out(texts.texts)
    held = Texts(tuple(apart), texts.skipped)
    return teach_on(teacher, train, held, out, recipe, arms=arms, threads=threads, progress=progress)


def teach_on(
    teacher: ModelSpec,
    train: Sequence[Text],
    held: Texts,
    out: Path,
    recipe: Recipe,
    *,
    arms: Sequence[str] = ARMS,
    threads: int | None = None,
    most_s: float | None = SCORING_S,
    progress: Progress,
) -> Taught:
    """Train the students named by `arms` into `out`, or find them there, and score all on the held-out texts.

    Args:
        most_s: to score bits per byte, and again divergence; files come in random order. None for all there is.

    Raises:
        NotSupported: torch or transformers is not installed.
        BadInput, NoSpace: as `weigh.shrink.distill.distill`.
        EngineError: a model cannot be scored, before anything was.
        KeyboardInterrupt: during training, whose state is kept.
    """
    folder = _folder(teacher)
    _require_torch()
    from weigh.machine.memory import read_memory
    from weigh.model.resolve import resolve
    from weigh.shrink.distill import distill
    from weigh.shrink.training import use_threads

    if threads is not None:
        use_threads(threads)
    students = distill(folder, train, out, recipe, arms=arms, progress=progress)
    specs = [resolve(str(student.folder)) for student in students]
    limits = Limits(memory_bytes=read_memory().available_bytes)
    # students first, so that a pair's difference is the student's from the teacher
    run = on_text(
        [*specs, teacher],
        held,
        threads=threads,
        limits=limits,
        stop_early=False,
        most_s=most_s,
        progress=lambda stage, done: progress(f"held-out text: {stage}", done),
    )
    diverged: list[Diverged] = []
    why, error = "", run.error
    if error is None:
        try:
            compared = against(
                teacher,
                specs,
                held,
                threads=threads,
                limits=limits,
                most_s=most_s,
                progress=lambda stage, done: progress(f"divergence: {stage}", done),
            )
            diverged, error = list(compared.diverged), compared.error
        except BadInput as refused:  # too little text, or a teacher of short windows: the rest still stands
            why = refused.message
        except (KeyboardInterrupt, WeighError) as caught:
            error = caught
    contenders = [
        Contender(name, spec, student, candidate.quality, found)
        for name, spec, student, candidate, found in zip(
            [*(student.name for student in students), "teacher"],
            [*specs, teacher],
            [*students, None],
            run.candidates,
            [*diverged, *[None] * (len(specs) - len(diverged)), None],
            strict=True,
        )
    ]
    return Taught(tuple(contenders), recipe, run, len({text.file for text in train}), why, error)


def _require_torch() -> None:
    if any(find_spec(name) is None for name in ("torch", "transformers")):
        raise NotSupported(
            "training a student takes torch and transformers, which are not installed",
            hint="pip install 'weigh[transformers]'",
        )


def _folder(teacher: ModelSpec) -> Path:
    place = teacher.file
    if place is None or teacher.format != "safetensors":
        raise BadInput(
            f"{teacher.name} is no folder of safetensors files on this machine, which a teacher is",
            hint="name the folder of its original checkpoint",
        )
    return place if place.is_dir() else place.parent
