"""What a student is to be, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass

from weigh.errors import BadInput


@dataclass(frozen=True, slots=True)
class Shape:
    """What the student has; None for as many as the teacher. Nothing said at all is half the teacher's layers."""

    layers: int | None = None
    hidden: int | None = None
    feed_forward: int | None = None
    kv_heads: int | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a student is made.

    Attributes:
        shape: what it has fewer of than its teacher.
        from_teacher: whether it begins with the teacher's weights that are kept, or with random ones.
        steps, windows, window_tokens: of training; `windows` of text in a step.
        learning_rate: at its highest; None for one that follows from the student's width.
        share: of the loss, the teacher's; the text has the rest.
        temperature: that softens both distributions.
        hidden: weight of the distance of hidden states; 0 leaves it out.
        seed: of random weights and of the order of the text.

    Raises:
        BadInput: a number that cannot be.
    """

    shape: Shape = Shape()
    from_teacher: bool = True
    steps: int = 500
    windows: int = 16
    window_tokens: int = 512
    learning_rate: float | None = None
    share: float = 0.5
    temperature: float = 1.0
    hidden: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise BadInput("the teacher's share of the loss lies above 0, and 1 at most", hint="0.5 is usual")
        if not 0.1 <= self.temperature <= 100:
            raise BadInput("the temperature lies between 0.1 and 100", hint="1 to 4 are usual")
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            raise BadInput("the learning rate lies above 0, and 1 at most", hint="0.0001 to 0.003 are usual")
        if not 0 <= self.hidden <= 1000:
            raise BadInput("the weight of hidden states lies between 0 and 1000", hint="0.1 to 1 are usual")
        if min(self.steps, self.windows) < 1 or self.window_tokens < 2:
            raise BadInput("training takes one step, of one window, of two tokens at least")
