"""Text to train a student on, cut into windows of its teacher's tokens, and the part of it that is held out."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from weigh.errors import BadFile, BadInput, first_line
from weigh.quality.text import Text

HELD_OUT = 8  # one file in so many is never trained on
TEXTS_AT_ONCE = 64  # cut into tokens together, so that memory holds few of a tokenizer's large answers


def held_out(texts: Sequence[Text]) -> tuple[list[Text], list[Text]]:
    """Texts to train on, and those set apart.

    A file's name alone decides, so that it is the same for every run, and a file with the very words of one held out
    is left out of training. Of a single file the last parts are held out.

    Raises:
        BadInput: too little text for both.
    """
    names = {text.name for text in texts}
    if len(names) == 1:
        last = max(1, len(texts) // HELD_OUT)
        train, apart = list(texts[:-last]), list(texts[-last:])
    else:
        chosen = {name for name in names if _number(name) % HELD_OUT == 0} or {min(names, key=_number)}
        apart = [text for text in texts if text.name in chosen]
        copies = {text.text for text in apart}
        train = [text for text in texts if text.name not in chosen and text.text not in copies]
    if not train:
        raise BadInput(
            "this text is too short to be trained on and held out at once",
            hint="give two or more files, or one of some hundred KiB",
        )
    return train, apart


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])


def training_windows(
    folder: Path,
    texts: Sequence[Text],
    *,
    window_tokens: int,
    least: int,
    done: Callable[[float], None] | None = None,
) -> torch.Tensor:
    """(windows, window_tokens + 1) ids, of all texts in their order with the end token after each file.

    Each window begins with the token that a text is judged after (`weigh.quality.scorer.Scorer.start`), so that a
    student learns what it is held to; where the tokenizer has none, with a token of the text. Words that look like
    special tokens are plain text.

    Args:
        folder: of the tokenizer; no code of it is run.
        least: windows there must be.
        done: called with the share of the text that is cut.

    Raises:
        BadInput, BadFile: no tokenizer that can be read, or too little text.
    """
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise BadInput(f"`{folder}` has no tokenizer.json", hint="a teacher's folder holds its tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for files that are not what they should be
        raise BadFile(folder, f"its tokenizer cannot be loaded: {first_line(error)}") from error
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    head = [start for start in (eos if bos is None else bos,) if start is not None]
    ids = array("i")
    for at in range(0, len(texts), TEXTS_AT_ONCE):
        some = texts[at : at + TEXTS_AT_ONCE]
        said = [text.text for text in some]
        made = tokenizer(said, add_special_tokens=False, split_special_tokens=True, verbose=False)
        for number, found in enumerate(made["input_ids"], at + 1):
            ids.extend(found)
            ends = number == len(texts) or texts[number].file != texts[number - 1].file
            if ends and eos is not None:
                ids.append(eos)
        if done is not None:
            done((at + len(some)) / len(texts))
    own = window_tokens + 1 - len(head)
    count = len(ids) // own
    if count < least:
        raise BadInput(
            f"the text to train on has {len(ids):,} tokens, and one step takes {least * own:,}",
            hint="give more text, or take fewer or shorter windows",
        )
    cut = torch.frombuffer(ids, dtype=torch.int32)[: count * own].view(count, own).long()
    return torch.cat([torch.full((count, len(head)), head[0] if head else 0), cut], dim=1)
