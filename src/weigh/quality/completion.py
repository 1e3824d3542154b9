"""A line of real code as a model writes it, after what stands before or between what stands around: how near it comes.

Decoding is greedy and stops at the line's end.

Some tokenizers (GPT-2's, StarCoder2's) join a newline with the indentation that follows. To their models a prompt
that ends with a newline says "no indentation". So for them the prompt ends before its last newlines, and a grammar
makes those the first that the model writes; all after that is free (token healing).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weigh.engines.endpoint import Endpoint
from weigh.engines.openai_events import DONE, EventLines, error_of
from weigh.errors import BadInput, EngineCrashed

LINE_TOKENS = 128  # at most written; the longest lines take some 50
SUFFIX_SHARE = 4  # one part of so many of a prompt that is too long
_ENDS, _STARTS = (
    ("a\n", "a:\n", "a)\n\n"),
    ("a", "    a", "\ta"),
)  # of lines, for a tokenizer to show its ways


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote for a line.

    Attributes:
        exact: the same, indentation included, trailing spaces aside.
        similarity: 1 less the edit distance as a share of the longer line, both without outer spaces.
    """

    text: str
    exact: bool
    similarity: float


def judged(text: str, line: str) -> Written:
    """What was written up to its first newline, beside the true line."""
    text = text.partition("\n")[0]
    return Written(
        text, exact=text.rstrip() == line.rstrip(), similarity=edit_similarity(text.strip(), line.strip())
    )


def edit_similarity(one: str, other: str) -> float:
    """1 less the Levenshtein distance over the length of the longer text; 1 for two empty ones."""
    longer = max(len(one), len(other))
    return 1 - edit_distance(one, other) / longer if longer else 1.0


def edit_distance(one: str, other: str) -> int:
    """Fewest characters put in, taken out or replaced (Levenshtein 1966), row by row."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


# --- fill-in-the-middle ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FimNames:
    """How a family spells the tokens of fill-in-the-middle.

    Attributes:
        middle: "" where what stands before the hole comes last and ends the prompt.
    """

    family: str
    prefix: str
    suffix: str
    middle: str


# Sources: the models' cards and tokenizers; order prefix-suffix-middle but for Codestral (mistral-common's
# `encode_fim`). CodeGemma, Granite 4 and others spell them as Qwen does.
FIM_NAMES = (
    FimNames("Qwen2.5-Coder", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    FimNames("StarCoder2", "<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    FimNames("SantaCoder", "<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    FimNames("DeepSeek-Coder", "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    FimNames("CodeLlama", "▁<PRE>", "▁<SUF>", "▁<MID>"),
    FimNames("GLM-4.5", "<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    FimNames("Codestral", "[PREFIX]", "[SUFFIX]", ""),
)


@dataclass(frozen=True, slots=True)
class FimTokens:
    """The same as ids of one vocabulary; `middle` is None where the prompt ends with the prefix."""

    prefix: int
    suffix: int
    middle: int | None

    def prompt(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        if self.middle is None:
            return [self.suffix, *after, self.prefix, *before]
        return [self.prefix, *before, self.suffix, *after, self.middle]


# --- a model on llama.cpp's server -------------------------------------------------------------------


class LlamaCompletion:
    """Lines written by a model that llama.cpp's server holds, prompts as token ids.

    Attributes:
        fim: the tokens of fill-in-the-middle; None where the model has none.
        joins_newlines: whether its tokenizer puts a newline and what follows into one token.
    """

    def __init__(self, url: str, *, context_tokens: int, fim: FimTokens | None = None) -> None:
        """Ask the server's tokenizer what the model knows.

        Args:
            context_tokens: of one sequence; longer prompts lose their beginning.
            fim: as the file itself has them; None to look for the names known here.

        Raises:
            EngineError: it does not answer.
        """
        self._api = Endpoint(url)
        self._context_tokens = context_tokens
        self._letter = self._tokens("a")
        self._begin = self._beginning()
        self.joins_newlines = self._joins_newlines()
        self.fim = fim or self._named_fim()

    def next_line(self, before: str) -> str:
        """The line after the whole lines `before`.

        Raises:
            EngineError: the engine fails.
        """
        text = before.rstrip("\n") if self.joins_newlines else before
        newlines = before[len(text) :]
        prompt = [*self._begin, *self._last(self._tokens(text), LINE_TOKENS)]
        return self._written(prompt, newlines)

    def middle(self, before: str, after: str) -> str | None:
        """The line between `before` and `after`; None when the model has no tokens for that.

        Raises:
            EngineError: the engine fails.
        """
        if self.fim is None:
            return None
        room = self._room(LINE_TOKENS)
        behind = self._after(after)[: room // SUFFIX_SHARE]
        ahead = self._last(self._tokens(before), LINE_TOKENS + len(behind))
        return self._written([*self._begin, *self.fim.prompt(ahead, behind)], "")

    def _beginning(self) -> list[int]:
        """What the model wants before a text."""
        whole, known = self._tokens("a", begin=True), len(self._letter)
        places = (at for at in range(len(whole)) if whole[at : at + known] == self._letter)
        return whole[: next(places, 0)]

    def _room(self, taken: int) -> int:
        """Tokens left for a prompt beside `taken`, the beginning and three marks."""
        return max(1, self._context_tokens - taken - len(self._begin) - 4)

    def _last(self, tokens: list[int], taken: int) -> list[int]:
        return tokens[-self._room(taken) :]

    def _after(self, text: str) -> list[int]:
        """Tokens of a text that stands behind another: sentencepiece begins a text with a space of its own."""
        tokens = self._tokens("a" + text)
        known = len(self._letter)
        return tokens[known:] if tokens[:known] == self._letter else self._tokens(text)

    def _tokens(self, text: str, *, begin: bool = False, special: bool = False) -> list[int]:
        """Of code, which may well speak of special tokens: they are letters there, unless `special`."""
        asked = {"content": text, "add_special": begin, "parse_special": special}
        said = self._api.post("/tokenize", asked)
        ids = said.get("tokens") if isinstance(said, dict) else None
        if not isinstance(ids, list) or not all(type(one) is int for one in ids):
            raise EngineCrashed(f"{self._api.what} answers with no tokens")
        return ids

    def _joins_newlines(self) -> bool:
        """Whether the tokens of whole lines depend on how the next line begins."""
        for lines in _ENDS:
            alone = self._tokens(lines)
            if any(self._tokens(lines + start)[: len(alone)] != alone for start in _STARTS):
                return True
        return False

    def _named_fim(self) -> FimTokens | None:
        for names in FIM_NAMES:
            spelled = [name for name in (names.prefix, names.suffix, names.middle) if name]
            found = [self._tokens(name, special=True) for name in spelled]
            if all(len(ids) == 1 for ids in found):
                ids = [one for (one,) in found]
                return FimTokens(ids[0], ids[1], ids[2] if names.middle else None)
        return None

    def _written(self, prompt: Sequence[int], first: str) -> str:
        """What follows `prompt` after the characters `first`, which are given, up to a line's end."""
        asked: dict[str, Any] = {
            "prompt": list(prompt),
            "n_predict": LINE_TOKENS,
            "cache_prompt": True,
            "samplers": ["top_k"],
            "top_k": 1,
            "stream": True,
        }
        if first:
            asked["grammar"] = (
                f"root ::= {json.dumps(first)} [^\\x00]*"  # newlines alone, so JSON's escapes do
            )
        text = ""
        with self._api.open("POST", "/completion", asked) as reply:
            lines = EventLines()
            for _, piece in reply:
                reply.go_on()
                for data in lines.feed(piece):
                    text += _content(data, self._api.what)
                if "\n" in text[len(first) :]:
                    break  # closing the connection stops the server
        return text[len(first) :].partition("\n")[0]


def _content(data: bytes, what: str) -> str:
    if data.strip() == DONE:
        return ""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise EngineCrashed(f"{what} streams what is no JSON object")
    said = error_of(event)
    if said is not None:
        raise BadInput(f"{what} refused the request: {said[:200]}")
    content = event.get("content")
    return content if isinstance(content, str) else ""
