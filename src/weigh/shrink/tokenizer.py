"""The tokenizer of a checkpoint as metadata of a GGUF file, so that llama.cpp gives the same token ids.

Two kinds are converted. Byte-level BPE, where words are cut by a regular expression: llama.cpp has its own code for
each of those it knows by name, so that any other is refused. And SentencePiece's BPE in a `tokenizer.json`, which
merges what makes the best piece: llama.cpp has the rule, and needs a score for each piece, here its place among the
merges. That is the same only if the merges are all that the pieces allow, which is checked.

Source: llama.cpp `convert_hf_to_gguf.py` and `src/llama-vocab.cpp` (MIT); expressions from the models' own
`tokenizer.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from weigh.errors import BadFile, NotSupported
from weigh.model.gguf import printable
from weigh.model.gguf_encoding import BOOL, F32, I32, STRING, U32, pair
from weigh.model.source import LocalFile
from weigh.model.spec import ModelSpec

MOST_BYTES = 64 << 20
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
# What llama.cpp calls the expressions that words are cut by.
EXPRESSIONS: Mapping[str, str] = {
    _CONTRACTIONS + _LETTERS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _CONTRACTIONS + _LETTERS + r"\p{N}" + _REST: "qwen2",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "tekken",
}
_SPECIAL = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
}  # as llama.cpp spells it
_BLANK = "\u2581"  # what SentencePiece writes for a blank


def tokenizer_entries(folder: Path, config: Mapping[str, object], spec: ModelSpec) -> dict[str, bytes]:
    """The metadata of the tokenizer in `folder`.

    Raises:
        BadFile: `tokenizer.json` is damaged, or of another model.
        NotSupported: a kind of tokenizer, or a way to cut words, that is not converted.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise NotSupported(
            f"{spec.name}: there is no `tokenizer.json`, and no other tokenizer is converted",
            hint="save it with transformers, whose fast tokenizers write one",
        )
    try:
        return _converted(path, config, spec)
    except UnicodeEncodeError as error:
        raise BadFile(
            path, "or a file beside it holds text that is no Unicode: half a surrogate pair"
        ) from error


def _converted(path: Path, config: Mapping[str, object], spec: ModelSpec) -> dict[str, bytes]:
    said = _object(path, MOST_BYTES)
    model = _section(said, "model")
    if model.get("type") != "BPE":
        raise _refused(path, f"its model is `{printable(str(model.get('type'))[:40])}`; BPE is converted")
    tokens = _Tokens(path, said, model, spec.vocab)
    if model.get("byte_fallback") is True:
        kind = _sentence_piece(path, said, model, tokens)
    else:
        kind = _byte_level(path, said, model)
    entries = {
        **kind,
        "tokenizer.ggml.tokens": pair("tokenizer.ggml.tokens", tuple(tokens.texts), STRING),
        "tokenizer.ggml.token_type": pair("tokenizer.ggml.token_type", tuple(tokens.kinds), I32),
    }
    return entries | _specials(path.parent, said, config, tokens)


class _Tokens:
    """Texts and kinds by id; ids that the model has and the tokenizer has not are unused."""

    def __init__(
        self, path: Path, said: Mapping[str, object], model: Mapping[str, object], vocab: int
    ) -> None:
        found = dict(_ids(path, model.get("vocab")))
        added = [entry for entry in _list(said.get("added_tokens")) if isinstance(entry, dict)]
        kinds: dict[int, int] = {}
        for entry in added:
            text, number = entry.get("content"), entry.get("id")
            if not isinstance(text, str) or type(number) is not int or number < 0:
                raise BadFile(path, "names an added token without text or number")
            found[text] = number
            kinds[number] = _CONTROL if entry.get("special") is True else _USER
        self.ids = found
        self.unknown = model.get("unk_token")
        if max(found.values(), default=0) >= vocab:
            raise BadFile(path, f"has tokens beyond the {vocab:,} of the model")
        self.texts = [f"[PAD{number}]" for number in range(vocab)]
        self.kinds = [_UNUSED] * vocab
        for text, number in found.items():
            self.texts[number] = text
            self.kinds[number] = kinds.get(number, _NORMAL)


def _byte_level(path: Path, said: Mapping[str, object], model: Mapping[str, object]) -> dict[str, bytes]:
    name = _words_cut_by(path, said)
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise _refused(path, f"it has a `{key}`")
    merges = [" ".join(parts) for parts in _merges(path, model)]
    return {
        "tokenizer.ggml.model": pair("tokenizer.ggml.model", "gpt2"),
        "tokenizer.ggml.pre": pair("tokenizer.ggml.pre", name),
        "tokenizer.ggml.merges": pair("tokenizer.ggml.merges", tuple(merges), STRING),
    }


def _words_cut_by(path: Path, said: Mapping[str, object]) -> str:
    """llama.cpp's name for how this tokenizer cuts words before it merges."""
    normalizer = said.get("normalizer")
    if isinstance(normalizer, dict) and normalizer.get("type") != "NFC":  # which nearly all text is in
        raise _refused(path, f"it normalises text by `{printable(str(normalizer.get('type'))[:40])}`")
    steps = _steps(said.get("pre_tokenizer"), "pretokenizers")
    kinds = [step.get("type") for step in steps]
    last = steps[-1] if steps else {}
    if kinds[-1:] != ["ByteLevel"] or last.get("add_prefix_space") is True:
        raise _refused(path, "it does not cut words byte by byte as llama.cpp does")
    if kinds == ["ByteLevel"] and last.get("use_regex") is not False:
        return "gpt-2"
    digits = kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") is True
    if digits and last.get("use_regex") is not False:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and last.get("use_regex") is False:
        pattern = _section(steps[0], "pattern").get("Regex")
        isolated = steps[0].get("behavior") == "Isolated" and steps[0].get("invert") is not True
        if isinstance(pattern, str) and pattern in EXPRESSIONS and isolated:
            return EXPRESSIONS[pattern]
        raise _refused(path, f"llama.cpp has no name for its expression `{printable(str(pattern)[:60])}`")
    raise _refused(path, f"it cuts words by {', '.join(map(str, kinds))[:80]}")


def _steps(entry: object, parts: str) -> list[dict[str, object]]:
    """What is done one after another; a sequence keeps it under `parts`."""
    if not isinstance(entry, dict):
        return []
    if entry.get("type") == "Sequence":
        return [step for step in _list(entry.get(parts)) if isinstance(step, dict)]
    return [entry]


# --- SentencePiece -------------------------------------------------------------------------------------


def _sentence_piece(
    path: Path, said: Mapping[str, object], model: Mapping[str, object], tokens: _Tokens
) -> dict[str, bytes]:
    merges = _merges(path, model)
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    _check_merges(path, merges, ranks, tokens)
    scores = [0.0] * len(tokens.texts)
    for number, text in enumerate(tokens.texts):
        if text == tokens.unknown:
            tokens.kinds[number] = _UNKNOWN
        elif tokens.kinds[number] == _NORMAL and _is_byte(text):
            tokens.kinds[number] = _BYTE
        elif tokens.kinds[number] == _NORMAL:
            scores[number] = -float(ranks.get(text, len(merges)))
    return {
        "tokenizer.ggml.model": pair("tokenizer.ggml.model", "llama"),
        "tokenizer.ggml.pre": pair("tokenizer.ggml.pre", "default"),
        "tokenizer.ggml.scores": pair("tokenizer.ggml.scores", tuple(scores), F32),
        "tokenizer.ggml.add_space_prefix": pair(
            "tokenizer.ggml.add_space_prefix", _puts_a_blank_first(path, said), BOOL
        ),
    }


def _check_merges(
    path: Path, merges: Sequence[tuple[str, str]], ranks: Mapping[str, int], tokens: _Tokens
) -> None:
    """Every way to make a piece of two others is a merge, and all ways to make one come together."""
    pairs = set(merges)
    order = [left + right for left, right in merges]
    together = sum(a != b for a, b in pairwise(order)) + 1 == len(ranks)
    complete = all(
        (text[:at], text[at:]) in pairs
        for text in ranks
        for at in range(1, len(text))
        if text[:at] in tokens.ids and text[at:] in tokens.ids
    )
    if merges and not (together and complete):
        raise _refused(path, "its merges are not those of a SentencePiece model, whose rule llama.cpp has")


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _puts_a_blank_first(path: Path, said: Mapping[str, object]) -> bool:
    """Whether a blank is put before a text; blanks have to be written as SentencePiece does."""
    prefix = replaces = False
    for step in _steps(said.get("normalizer"), "normalizers"):
        kind = step.get("type")
        if kind == "Prepend" and step.get("prepend") == _BLANK:
            prefix = True
        elif kind == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == _BLANK:
            replaces = True
        else:
            raise _refused(path, f"it normalises text by `{printable(str(kind)[:40])}`")
    cutter = said.get("pre_tokenizer")
    if isinstance(cutter, dict):
        split = cutter.get("type") == "Split" and _section(cutter, "pattern").get("String") == " "
        if cutter.get("type") == "Metaspace" and cutter.get("split") is False:
            replaces, prefix = True, cutter.get("prepend_scheme") in ("always", "first")
        elif not (split and replaces):  # no blank is left to split at
            raise _refused(path, f"it cuts words by {printable(str(cutter.get('type'))[:40])}")
    if not replaces:
        raise _refused(path, "it does not write blanks as SentencePiece does")
    return prefix


# --- special tokens ------------------------------------------------------------------------------------


def _specials(
    folder: Path, said: Mapping[str, object], config: Mapping[str, object], tokens: _Tokens
) -> dict[str, bytes]:
    """Which tokens begin and end a text, whether they are put there, and the chat template."""
    path = folder / "tokenizer_config.json"
    own = _object(path, MOST_BYTES) if path.exists() else {}
    found: dict[str, bytes] = {}
    for name, ours in _SPECIAL.items():
        entry = own.get(f"{name}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        number = tokens.ids.get(text) if isinstance(text, str) else None
        if number is None:
            ids = config.get(f"{name}_token_id")
            ids = ids[0] if isinstance(ids, list) and ids else ids
            number = ids if type(ids) is int and 0 <= ids < len(tokens.texts) else None
        if number is not None:
            key = f"tokenizer.ggml.{ours}_token_id"
            found[key] = pair(key, number, U32)
    for key, adds in zip(("add_bos_token", "add_eos_token"), _adds(said), strict=True):
        found[f"tokenizer.ggml.{key}"] = pair(f"tokenizer.ggml.{key}", adds, BOOL)
    template = _template(folder, own)
    if template:
        found["tokenizer.chat_template"] = pair("tokenizer.chat_template", template)
    return found


def _adds(said: Mapping[str, object]) -> tuple[bool, bool]:
    """Whether a special token is put before a text, and behind it."""
    for section in _steps(said.get("post_processor"), "processors"):
        if section.get("type") == "TemplateProcessing":
            single = [one for one in _list(section.get("single")) if isinstance(one, dict)]
            return (
                bool(single) and "SpecialToken" in single[0],
                len(single) > 1 and "SpecialToken" in single[-1],
            )
    return False, False


def _template(folder: Path, own: Mapping[str, object]) -> str:
    path = folder / "chat_template.jinja"
    if path.exists():
        with LocalFile(path) as file:
            return file.read(0, 1 << 20).decode(errors="replace")
    template = own.get("chat_template")
    return template if isinstance(template, str) else ""


# --- reading -------------------------------------------------------------------------------------------


def _object(path: Path, most_bytes: int) -> dict[str, object]:
    import json

    with LocalFile(path, kind="tokenizer") as file:
        if file.size_bytes > most_bytes:
            raise BadFile(path, f"is larger than that of any model ({file.size_bytes:,} bytes)")
        data = file.read(0, file.size_bytes)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise BadFile(path, "is not JSON") from None
    if not isinstance(value, dict):
        raise BadFile(path, "is no JSON object")
    return value


def _section(said: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = said.get(key)
    return found if isinstance(found, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _ids(path: Path, vocab: object) -> dict[str, int]:
    if not isinstance(vocab, dict) or not all(type(n) is int and n >= 0 for n in vocab.values()):
        raise BadFile(path, "its vocabulary is no list of numbers by text")
    return vocab


def _merges(path: Path, model: Mapping[str, object]) -> list[tuple[str, str]]:
    """Pairs of texts; older files keep them with a blank between."""
    found = []
    for entry in _list(model.get("merges")):
        parts = entry.split(" ") if isinstance(entry, str) else entry
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(p, str) for p in parts):
            raise BadFile(path, "has a merge that is no pair of texts")
        found.append((parts[0], parts[1]))
    return found


def _refused(path: Path, why: str) -> NotSupported:
    return NotSupported(f"{path}: this tokenizer is not converted: {why}")
