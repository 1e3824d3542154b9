"""The answer in what a model wrote: a block of code, a last line, an object or a list."""

from __future__ import annotations

import ast
import json
import re
import textwrap
import threading
import warnings
from typing import Any

# A reply can be anything, so what repeats never gives back what it took, nor reaches over lines: time stays in
# proportion to length.
_FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<marks>```++|~~~++)[ \t]*+(?P<language>[^\s`]*+)[^\n`]*+\n", re.MULTILINE
)
_ANSWER = re.compile(
    r"^(?:[^\w\n]|_)*+(?:final\s+)?answer[\s*_`]*[:=][\s*_]*(?P<rest>.*)$", re.IGNORECASE | re.MULTILINE
)
_THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d[\d,_ ]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?%?")
_PARSING = threading.Lock()
MOST_OBJECTS = 1000  # places in a reply at which an object is looked for


def without_thought(reply: str) -> str:
    """The reply after its reasoning; a thought that never ended leaves nothing."""
    text = _THOUGHT.sub("", reply)
    return text.rpartition("</think>")[2]  # some templates open the thought in the prompt


def code_blocks(reply: str) -> list[tuple[str, str]]:
    """Each fenced block as (language in lower case, text); the last one may lack its end."""
    blocks: list[tuple[str, str]] = []
    position = 0
    while opened := _FENCE.search(reply, position):
        end = re.compile(rf"^[ \t]*{re.escape(opened['marks'])}[ \t]*$", re.MULTILINE)
        closed = end.search(reply, opened.end())
        text = reply[opened.end() : closed.start() if closed else len(reply)]
        if opened["indent"]:
            text = textwrap.dedent(text)
        blocks.append((opened["language"].lower(), text))
        if closed is None:
            break
        position = closed.end()
    return blocks


def code(reply: str, language: str) -> str | None:
    """The code of an answer: its longest block in `language`, else its longest block, else all of it if it
    is Python and nothing else; None when it holds no code."""
    reply = without_thought(reply)
    blocks = code_blocks(reply)
    named = [text for name, text in blocks if name in _names(language)]
    if texts := named or [text for _, text in blocks]:
        return max(texts, key=len)
    return reply if reply.strip() and (language != "python" or is_python(reply)) else None


def _names(language: str) -> tuple[str, ...]:
    also = {
        "python": ("py", "python3"),
        "shell": ("sh", "bash"),
        "sh": ("shell", "bash"),
        "bash": ("sh", "shell"),
        "sql": ("sqlite", "sqlite3"),
        "javascript": ("js",),
    }
    return (language, *also.get(language, ()))


def is_python(text: str) -> bool:
    try:
        with _PARSING, warnings.catch_warnings():  # which changes the filters of the whole process
            warnings.simplefilter("ignore")  # "\\d" in a plain string is the model's affair
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def without_line_begun(prefix: str, middle: str, suffix: str) -> str:
    """A chat's text for a gap within a line, without what stands of that line in the file already.

    Chat models like to write the whole line; what follows it is then indented as that line is.
    """
    begun, ended = prefix.rpartition("\n")[2], suffix.partition("\n")[0]
    first, newline, rest = middle.lstrip("\n").partition("\n")
    line = first.lstrip()
    if not begun.strip() or not line.startswith(begun.strip()):
        return middle
    before, wanted = first.removesuffix(line), begun.removesuffix(begun.lstrip())
    left = line.removeprefix(begun.strip())
    if begun != begun.rstrip():
        left = left.lstrip()
    lines = (wanted + line.removeprefix(before) for line in rest.splitlines(keepends=True))
    whole = left + newline + "".join(lines)
    return whole.rstrip().removesuffix(ended.rstrip()) if ended.strip() else whole


def filled(prefix: str, middle: str, suffix: str, *, python: bool) -> str:
    """A file with its gap filled; with `python`, by a chat model that may have left out its indentation."""
    if prefix.endswith("\n"):  # the gap is made of whole lines
        middle += "" if middle.endswith("\n") or suffix[:1] in ("", "\n") else "\n"
    else:
        middle = middle.removesuffix("\n")
    whole = prefix + middle + suffix
    if not python or is_python(whole):
        return whole
    first = textwrap.dedent(middle)
    around = reversed([*prefix.splitlines(), *suffix.splitlines()])
    for indent in dict.fromkeys(line[: len(line) - len(line.lstrip())] for line in around):
        for deeper in ("", "    "):
            shifted = textwrap.indent(first, indent + deeper)
            if is_python(prefix + shifted + suffix):
                return prefix + shifted + suffix
    return whole


def answer_line(reply: str) -> str | None:
    """What follows the last `ANSWER:`."""
    found = list(_ANSWER.finditer(without_thought(reply)))
    return found[-1]["rest"].strip() if found else None


def folded(text: str) -> str:
    """Text as it is compared: without case, marks around it, and differences of white space."""
    return " ".join(text.split()).casefold().strip("`'\"*_ .").strip()


def number(text: str) -> float | None:
    """The first number in `text`; a percentage stays in per cent."""
    found = _NUMBER.search(text)
    if found is None:
        return None
    try:
        return float(re.sub(r"[,_ %]", "", found[0]))
    except ValueError:
        return None


def json_object(reply: str) -> dict[str, Any] | None:
    """The last JSON object written, in a block or in the text."""
    reply = without_thought(reply)
    for text in (*(block for _, block in reversed(code_blocks(reply))), reply):
        if found := _last_object(text):
            return found
    return None


def _last_object(text: str) -> dict[str, Any] | None:
    decoder, found, position = json.JSONDecoder(), None, 0
    for _ in range(MOST_OBJECTS):
        position = text.find("{", position)
        if position < 0:
            break
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            position += 1
            continue
        if isinstance(value, dict):
            found = value
    return found


def entries(reply: str) -> list[str] | None:
    """The list an answer gives: a JSON array, or what follows `ANSWER:`, one per line or between commas."""
    reply = without_thought(reply)
    found = list(_ANSWER.finditer(reply))
    text = reply[found[-1].start("rest") :] if found else reply
    opened = text.find("[")
    if opened >= 0:
        try:
            value, _ = json.JSONDecoder().raw_decode(text, opened)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list):
            return [entry if isinstance(entry, str) else json.dumps(entry) for entry in value]
    if not found:
        return None
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("```")]
    if len(lines) == 1:
        return [part.strip() for part in lines[0].split(",")]
    return [re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", line).strip() for line in lines]
