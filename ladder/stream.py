"""From files to windows of tokens: the same windows in the same order for every size.

A pass over the corpus takes the files in an order drawn from the seed. A third of them are written after a file
separator and their path, a third bare, and a third cut into stretches of lines, each in fill-in-the-middle form
(Bavarian et al. 2022, arXiv:2207.14255: prefix, suffix, middle). Which form a file has is drawn anew for each
pass. The tokens are then laid end to end, cut into windows, and the windows shuffled.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ladder.corpus import SourceFile
from ladder.tokenizer import CONTEXT_TOKENS, END_OF_TEXT, FILE_SEPARATOR, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

STRETCH_CHARACTERS = (200, 1000)
NOISE_SHARE = 0.03  # of the characters of the noisy variant, line ends left as they are


def named(file: SourceFile) -> str:
    """A file after its path; held-out loss is measured on this form."""
    return f"{FILE_SEPARATOR}{file.path}\n{file.text}{END_OF_TEXT}"


def noisy(file: SourceFile, chance: random.Random) -> SourceFile:
    """`file` with `NOISE_SHARE` of its characters struck over by letters, digits and signs drawn at random."""
    struck = string.ascii_letters + string.digits + string.punctuation
    text = "".join(
        chance.choice(struck) if chance.random() < NOISE_SHARE and character != "\n" else character
        for character in file.text
    )
    return SourceFile(file.path, text)


def in_the_middle(file: SourceFile, chance: random.Random) -> Iterator[str]:
    """The stretches of a file, each with its middle moved to the end.

    Half of the middles are whole lines, half start and end at any character.
    """
    for stretch in _stretches(file.text, chance):
        places: Sequence[int] = range(len(stretch) + 1)
        if chance.random() < 0.5:
            places = [0, *(at + 1 for at, character in enumerate(stretch) if character == "\n")]
        start, end = sorted((chance.choice(places), chance.choice(places)))
        yield (
            f"{FIM_PREFIX}{stretch[:start]}{FIM_SUFFIX}{stretch[end:]}"
            f"{FIM_MIDDLE}{stretch[start:end]}{END_OF_TEXT}"
        )


def _stretches(text: str, chance: random.Random) -> Iterator[str]:
    """Whole lines, of as many characters as drawn or a little more."""
    stretch, wanted = "", chance.randint(*STRETCH_CHARACTERS)
    for line in text.splitlines(keepends=True):
        stretch += line
        if len(stretch) >= wanted:
            yield stretch
            stretch, wanted = "", chance.randint(*STRETCH_CHARACTERS)
    if stretch:
        yield stretch


def one_pass(files: Sequence[SourceFile], chance: random.Random) -> Iterator[str]:
    """Every file once, in an order drawn from `chance`."""
    for file in chance.sample(files, len(files)):
        form = chance.randrange(3)
        if form == 0:
            yield named(file)
        elif form == 1:
            yield file.text + END_OF_TEXT
        else:
            yield from in_the_middle(file, chance)


def training_windows(
    files: Sequence[SourceFile], tokenizer: Tokenizer, *, windows: int, seed: int, noise: bool = False
) -> NDArray[np.uint16]:
    """(windows, CONTEXT_TOKENS + 1) token ids, from as many passes as that takes.

    A window's last token is the next one's first, so that each token is predicted once.
    """
    import numpy as np

    chance = random.Random(seed)
    if noise:
        files = [noisy(file, chance) for file in files]
    tokens: list[int] = []
    while len(tokens) <= windows * CONTEXT_TOKENS:
        for encoding in tokenizer.encode_batch(list(one_pass(files, chance)), add_special_tokens=False):
            tokens += encoding.ids
    cut = _cut(np.array(tokens, np.uint16))[:windows]
    return cut[np.random.default_rng(seed).permutation(windows)]


def held_out_windows(files: Sequence[SourceFile], tokenizer: Tokenizer) -> NDArray[np.uint16]:
    """(windows, CONTEXT_TOKENS + 1) token ids of the files in order; the last part of a window is left out."""
    import numpy as np

    tokens = [
        token
        for encoding in tokenizer.encode_batch([named(file) for file in files], add_special_tokens=False)
        for token in encoding.ids
    ]
    return _cut(np.array(tokens, np.uint16))


def _cut(tokens: NDArray[np.uint16]) -> NDArray[np.uint16]:
    import numpy as np

    windows = (len(tokens) - 1) // CONTEXT_TOKENS
    starts = np.arange(windows)[:, None] * CONTEXT_TOKENS
    cut: NDArray[np.uint16] = tokens[starts + np.arange(CONTEXT_TOKENS + 1)]
    return cut
