"""How well a model foretells a text: perplexity per token, and bits per byte, which compares across tokenizers.

Two definitions. `bits per byte` judges every byte of a file once: each file is read from its beginning, in windows
that overlap by half, so that after the first window every token has at least half a window before it. `llama.cpp's
perplexity` is what llama-perplexity prints: all text in a row, cut into windows of 512 tokens that do not overlap,
the first token of each replaced by the beginning-of-sequence token where the model wants one, and the second half of
each judged. The first uses all of a short file; the second is for figures to be held against published ones.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weigh.errors import BadFile, BadInput
from weigh.figure import Basis, Figure
from weigh.quality.clustered import Ratio, ratio, summed
from weigh.quality.paired import LEAST_FILES, Piece

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from weigh.quality.scorer import Scorer, Scores

WINDOW_TOKENS = 2048  # of bits per byte; what most code is written within, and affordable
LLAMA_WINDOW_TOKENS = 512  # llama-perplexity's default
SECTION_BYTES = 64 << 10  # longer files are cut at line ends and each part read as a file of its own
BLOCK_BYTES = 1 << 10  # of a file; what differences between models rest on where files are few
MOST_FILE_BYTES = 64 << 20
MOST_FILES = 100_000
MOST_BYTES = 1 << 30  # of all files: they are held in memory


@dataclass(frozen=True, slots=True)
class Text:
    """A file's text, or a part of a long one. `file` numbers the files; `name` is relative to what was asked for."""

    name: str
    file: int
    text: str
    part: int = 0

    @property
    def bytes(self) -> int:
        return len(self.text.encode())


@dataclass(frozen=True, slots=True)
class Texts:
    """What was found to read.

    Attributes:
        skipped: files left out: no UTF-8, empty, or too large.
    """

    texts: tuple[Text, ...]
    skipped: int

    @property
    def bytes(self) -> int:
        return sum(text.bytes for text in self.texts)

    @property
    def files(self) -> int:
        return len({text.file for text in self.texts})

    @property
    def digest(self) -> str:
        """32 hexadecimal digits of what the files say, in their order; not of their names."""
        whole = hashlib.sha256()
        for text in self.texts:
            said = text.text.encode()
            whole.update(b"%d %d %d\n" % (text.file, text.part, len(said)))
            whole.update(said)
        return whole.hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class TextScore:
    """What a model made of one text.

    Attributes:
        tokens: of the text, all judged but the first of a model that has no token to begin with.
        top_tokens: those that the model held for the likeliest.
        whole: whether the tokens spell the text; what they leave out costs no bits.
    """

    name: str
    file: int
    pieces: tuple[Piece, ...]
    tokens: int
    top_tokens: int
    whole: bool = True

    @property
    def bits(self) -> float:
        return sum(piece.bits for piece in self.pieces)

    @property
    def text_bytes(self) -> int:
        return sum(piece.text_bytes for piece in self.pieces)


# --- what to read ------------------------------------------------------------------------------------


def read_texts(place: Path) -> Texts:
    """A file, or all text files below a folder but those in hidden folders; links are not followed.

    Raises:
        BadInput: there is no such place, or no text in it, or more than can be held.
        BadFile: a file named by itself is no text.
    """
    if not place.exists():
        raise BadInput(f"`{place}` does not exist")
    paths = [place] if place.is_file() else _files_below(place)
    texts: list[Text] = []
    skipped = size_bytes = 0
    for number, path in enumerate(paths):
        said = _text_of(path)
        if said is None:
            if path == place:
                raise BadFile(place, "is no UTF-8 text, is empty, or is too large to be read")
            skipped += 1
            continue
        name = path.name if path == place else path.relative_to(place).as_posix()
        texts += [Text(name, number, part, at) for at, part in enumerate(sections(said))]
        size_bytes += len(said.encode())
        if size_bytes > MOST_BYTES:
            raise BadInput(
                f"`{place}` holds more than {MOST_BYTES >> 30} GiB of text", hint="name a folder within it"
            )
    if not texts:
        raise BadInput(f"`{place}` holds no text files")
    return Texts(tuple(texts), skipped)


def _files_below(folder: Path) -> list[Path]:
    found: list[Path] = []
    for inside, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(inside, name) for name in names if not name.startswith("."))
        found += filter(_is_plain, paths)
        if len(found) > MOST_FILES:
            raise BadInput(f"`{folder}` holds more than {MOST_FILES:,} files", hint="name a folder within it")
    return sorted(found)


def _is_plain(path: Path) -> bool:
    """No link, and no pipe that would never end."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _text_of(path: Path) -> str | None:
    try:
        if not 0 < path.stat().st_size <= MOST_FILE_BYTES:
            return None
        data = path.read_bytes()
        return None if b"\0" in data else data.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def sections(text: str) -> Iterator[str]:
    """A text cut at line ends into parts of about `SECTION_BYTES` at most; a longer line stays whole."""
    lines: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        more = len(line.encode())
        if lines and size + more > SECTION_BYTES:
            yield "".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += more
    yield "".join(lines)


# --- bits per byte -----------------------------------------------------------------------------------


def windows(count: int, room: int, *, first: int) -> Iterator[tuple[int, int, int]]:
    """Begin, first judged and end of each window over `count` tokens, so that all from `first` on are judged once.

    Each window holds `room` tokens at most; all but the first judge half of that, after half a window of context.
    """
    end = 0
    while end < count:
        judged = end or first
        end = min(count, room if end == 0 else end + max(1, room // 2))
        if judged < end:
            yield max(0, end - room), judged, end


def score_text(scorer: Scorer, text: Text, done: Callable[[float], None] | None = None) -> TextScore:
    """Judge every byte of a text once.

    A model without a token to put before it cannot judge the first token; that one is charged as if each token of
    the vocabulary were as likely, ln(vocab) nats.

    Args:
        done: called with the share of the text that is judged.

    Raises:
        EngineError: as the scorer.
    """
    import numpy as np

    made = scorer.tokenize(text.text)
    ids, count = made.tokens, len(made.tokens)
    opening = [] if scorer.start is None else [scorer.start]
    nats = np.full(count, 0.0 if opening else math.log(scorer.vocab))
    top = 0
    room = max(2, scorer.context_tokens + 1 - len(opening))
    for begin, judged, end in windows(count, room, first=1 - len(opening)):
        found = scorer.score([*opening, *ids[begin:end]], len(opening) + judged - begin)
        nats[judged:end] = -found.log_probs
        top += int(found.top.sum())
        if done is not None:
            done(end / count)
    if not np.isfinite(nats).all():
        raise BadInput(f"the model gives {text.name} no probability at all, so it has no bits per byte")
    pieces = _pieces(text, nats / math.log(2), made.ends_bytes)
    return TextScore(text.name, text.file, pieces, count, top, made.whole)


def _pieces(text: Text, bits: NDArray[np.float64], ends_bytes: Sequence[int] | None) -> tuple[Piece, ...]:
    """Bits by blocks of the text, each token's where it begins; one piece where that is not known.

    A tokenizer that does not give back the text byte by byte (one
    that normalises it) has no blocks either, but for the blank that some put before a text.
    """
    import numpy as np

    size = text.bytes
    if ends_bytes is None or not ends_bytes or abs(ends_bytes[-1] - size) > 1:
        return (Piece(text.file, text.part, 0, float(bits.sum()), size),)
    extra = ends_bytes[-1] - size
    begins = np.clip(np.array([0, *ends_bytes[:-1]]) - extra, 0, size - 1)
    begins[0] = 0
    blocks = max(1, size // BLOCK_BYTES)  # the last takes what is left over
    places = np.minimum(begins // BLOCK_BYTES, blocks - 1)
    sums = np.bincount(places, weights=bits, minlength=blocks)
    sizes = [BLOCK_BYTES] * (blocks - 1) + [size - BLOCK_BYTES * (blocks - 1)]
    return tuple(Piece(text.file, text.part, n, float(sums[n]), sizes[n]) for n in range(blocks))


@dataclass(frozen=True, slots=True)
class TextQuality:
    """What a model made of all texts judged so far.

    Attributes:
        bits_per_byte: with the 80 % interval of clusters: files, or pieces of them where files are few.
        perplexity: per token of this model's tokenizer, on the same windows; not to be held against other tokenizers.
        top_share: of the tokens, those that the model held for the likeliest.
        altered_files: those that the tokenizer does not give back byte by byte: for them `bits_per_byte` is too low.
    """

    bits_per_byte: Figure
    perplexity: Figure
    top_share: float
    tokens: int
    text_bytes: int
    files: int
    by_file: bool
    altered_files: int


def text_quality(scores: Sequence[TextScore]) -> TextQuality:
    """Raises ValueError when nothing was judged."""
    pieces = [piece for score in scores for piece in score.pieces]
    files = [piece.file for piece in pieces]
    bits, sizes = [piece.bits for piece in pieces], [float(piece.text_bytes) for piece in pieces]
    by_file = len(set(files)) >= LEAST_FILES
    if by_file:
        bits, sizes = summed(bits, files), summed(sizes, files)
    found = ratio(bits, sizes)
    tokens = sum(score.tokens for score in scores)
    divisor = max(1, tokens)  # of blanks alone some tokenizers make none
    text_bytes = sum(score.text_bytes for score in scores)
    to_nats = math.log(2) * text_bytes / divisor
    nats = Ratio(found.value * to_nats, found.low * to_nats, found.high * to_nats, found.clusters)
    return TextQuality(
        bits_per_byte=figure(found, "bits/byte"),
        perplexity=_perplexity(nats),
        top_share=sum(score.top_tokens for score in scores) / divisor,
        tokens=tokens,
        text_bytes=text_bytes,
        files=len(set(files)),
        by_file=by_file,
        altered_files=len({score.file for score in scores if not score.whole}),
    )


def figure(found: Ratio, unit: str) -> Figure:
    """A measured ratio that cannot be below nought."""
    return Figure(found.value, max(0.0, found.low), found.high, unit, Basis.MEASURED)


def _perplexity(nats: Ratio) -> Figure:
    def power(exponent: float) -> float:
        return math.exp(exponent) if exponent < 700 else math.inf

    return Figure(
        power(nats.value), power(max(0.0, nats.low)), power(nats.high), "perplexity", Basis.MEASURED
    )


# --- as llama-perplexity -----------------------------------------------------------------------------


def llama_windows(scorer: Scorer, texts: Texts, window_tokens: int = LLAMA_WINDOW_TOKENS) -> list[list[int]]:
    """The windows that llama-perplexity cuts; of each, `window_tokens // 2 + 1` is the first token judged.

    Raises:
        BadInput: the text is shorter than two windows, or the window longer than the scorer takes.
    """
    if window_tokens > scorer.context_tokens:
        raise BadInput(f"a window of {window_tokens} tokens exceeds the {scorer.context_tokens} of the model")
    beginning = [scorer.start] if scorer.adds_bos and scorer.start is not None else []
    tokens = beginning + scorer.tokenize("".join(text.text for text in texts.texts)).tokens
    if len(tokens) < 2 * window_tokens:
        raise BadInput(
            f"the text has {len(tokens):,} tokens, and two windows of {window_tokens} are needed at least",
            hint="give it more text",
        )
    cut = [tokens[at : at + window_tokens] for at in range(0, len(tokens) - window_tokens + 1, window_tokens)]
    return [[*beginning, *window[len(beginning) :]] for window in cut]


def judged_half(scorer: Scorer, window: Sequence[int]) -> Scores:
    """The second half of a window of `llama_windows`."""
    return scorer.score(window, len(window) // 2 + 1)


def windows_perplexity(found: Sequence[Scores]) -> Figure:
    """Perplexity over the judged halves of windows, with the 80 % interval of the windows.

    Raises:
        ValueError: there are none.
    """
    return _perplexity(
        ratio([-float(one.log_probs.sum()) for one in found], [len(one.log_probs) for one in found])
    )


def llama_perplexity(scorer: Scorer, texts: Texts) -> Figure:
    """Perplexity as llama-perplexity defines it.

    Raises:
        BadInput: as `llama_windows`. EngineError: as the scorer.
    """
    return windows_perplexity([judged_half(scorer, window) for window in llama_windows(scorer, texts)])
