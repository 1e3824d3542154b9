"""A task as its file states it: what a model is asked, and how its answer is checked.

One TOML file per task, `data/<need>/<name>.toml`. Files may come from anyone: every key and type is
checked, and what is not known is refused.
"""

from __future__ import annotations

import ast
import hashlib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

from weigh.errors import BadFile, BadInput, UnknownName

DATA = Path(__file__).parent / "data"
NEEDS = (
    "completion",
    "refactoring",
    "unit_tests",
    "debugging",
    "review",
    "documentation",
    "explanation",
    "translation",
    "reasoning",
)
MOST_FILE_BYTES = 256 << 10
MOST_TASKS = 10_000
NUMBER_TOLERANCE = 1e-9


class Kind(StrEnum):
    CODE = "code"  # hidden tests, run in the sandbox
    STRUCTURED = "structured"  # compared with the expected answer


@dataclass(frozen=True, slots=True)
class Expected:
    """The answer of a structured task; exactly one of the fields is set.

    Attributes:
        texts: any of these, compared after folding (see `judge.folded`).
        number, tolerance: a number, within an absolute tolerance.
        keys: values a JSON object must hold.
        lines, ordered: the entries of a list.
    """

    texts: tuple[str, ...] = ()
    number: float | None = None
    tolerance: float = NUMBER_TOLERANCE
    keys: Mapping[str, str] | None = None
    lines: tuple[str, ...] = ()
    ordered: bool = True


@dataclass(frozen=True, slots=True)
class WrongAnswer:
    text: str
    why: str


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        id: `need/name`, as its place among the files.
        difficulty: 1 (a line) to 5 (an hour for a person).
        language: of the answer's code; empty for an answer in words.
        prompt: empty where the common wording serves (completion tasks, see `prompts.chat_prompt`).
        prefix, suffix, stop: what stands around the gap, and where a base model's text is cut
            (completion tasks only).
        file: where the answer's code is put.
        support: further files beside it.
        tests: Python with `test_*` functions, run apart from the answer.
        module: the file that an answer which is itself a test file imports.
        right, mutants: versions of `module` that such an answer must accept and must reject.
    """

    id: str
    need: str
    difficulty: int
    language: str
    kind: Kind
    prompt: str
    right_answers: tuple[str, ...]
    wrong_answers: tuple[WrongAnswer, ...]
    prefix: str = ""
    suffix: str = ""
    stop: tuple[str, ...] = ()
    file: str = ""
    support: Mapping[str, str] | None = None
    tests: str = ""
    module: str = ""
    right: tuple[str, ...] = ()
    mutants: tuple[str, ...] = ()
    expected: Expected | None = None

    @property
    def version(self) -> str:
        """16 hexadecimal digits of what it asks and how it is judged; its example answers aside."""
        judged = replace(self, right_answers=(), wrong_answers=())
        return hashlib.sha256(repr(judged).encode()).hexdigest()[:16]

    @property
    def fills_gap(self) -> bool:
        """The answer goes between `prefix` and `suffix`; a base model can be asked too."""
        return bool(self.prefix or self.suffix)


def load_tasks(folder: Path = DATA, wanted: Iterable[str] = ()) -> tuple[Task, ...]:
    """All tasks below `folder`, by id; only those whose id or need is in `wanted`, if it names any.

    Raises:
        BadFile: a file does not follow the format.
        BadInput, UnknownName: see `task_files`.
    """
    return tuple(load_task(path) for path in task_files(folder, wanted))


def task_files(folder: Path, wanted: Iterable[str] = ()) -> list[Path]:
    """The files of the tasks that `load_tasks` loads.

    Raises:
        UnknownName: `wanted` names neither a need nor a task.
        BadInput: there are no tasks.
    """
    paths = sorted(folder.glob("*/*.toml"))
    if not paths:
        raise BadInput(f"{folder} holds no tasks", hint="tasks are files NEED/NAME.toml")
    if len(paths) > MOST_TASKS:
        raise BadInput(f"{folder} holds {len(paths)} tasks; at most {MOST_TASKS} are read")
    names = {f"{path.parent.name}/{path.stem}": path for path in paths}
    chosen = set(wanted)
    needs = {name.partition("/")[0] for name in names} | set(NEEDS)
    for word in chosen - needs - names.keys():
        import difflib

        raise UnknownName("task", word, close=difflib.get_close_matches(word, [*needs, *names], 2))
    picked = [
        path
        for name, path in names.items()
        if not chosen or name in chosen or name.partition("/")[0] in chosen
    ]
    if not picked:
        raise BadInput(f"{folder} holds no task of {' or '.join(sorted(chosen))}")
    return picked


def load_task(path: Path) -> Task:
    """Read one task; its need and name are its folder and file name.

    Raises:
        BadFile: it cannot be read or does not follow the format.
    """
    try:
        if path.stat().st_size > MOST_FILE_BYTES:
            raise BadFile(path, f"is larger than a task may be ({MOST_FILE_BYTES} bytes)")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFile(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadFile(path, "is not UTF-8 text", offset=error.start) from error
    except tomllib.TOMLDecodeError as error:
        raise BadFile(path, f"is not TOML: {error}") from error
    except RecursionError as error:
        raise BadFile(path, "is nested too deeply") from error
    return _Reader(path, document).task()


class _Reader:
    """One file's keys, each taken once; what is left over at the end is a mistake."""

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self._path = path
        self._left = document

    def task(self) -> Task:
        need = self._path.parent.name
        kind = self._text("kind")
        if kind not in tuple(Kind):
            self._fail(f"`kind` is `{kind}`, not `code` or `structured`")
        task = Task(
            id=self._id(),
            need=need,
            difficulty=self._whole("difficulty", 1, 5),
            language=self._text("language", empty=True),
            kind=Kind(kind),
            prompt=self._text("prompt") if need != "completion" or "prompt" in self._left else "",
            right_answers=tuple(self._answer(table, "right") for table in self._tables("right_answers")),
            wrong_answers=tuple(
                WrongAnswer(self._answer(table, "wrong"), self._why(table))
                for table in self._tables("wrong_answers")
            ),
            **(self._code(need) if kind == "code" else {"expected": self._expected()}),
        )
        if self._left:
            self._fail(f"unknown key `{next(iter(self._left))}` for a task of kind `{kind}`")
        return task

    def _id(self) -> str:
        place = f"{self._path.parent.name}/{self._path.stem}"
        if not re.fullmatch(r"[a-z_]+/[a-z0-9_-]+", place):
            self._fail("folder and name are made of a-z, 0-9, - and _")
        if place.partition("/")[0] not in NEEDS:
            self._fail(f"its folder is none of {', '.join(NEEDS)}")
        if self._text("id") != place:
            self._fail(f"`id` is not `{place}`, its place")
        if self._text("need") != place.partition("/")[0]:
            self._fail("`need` is not its folder's name")
        return place

    def _code(self, need: str) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "file": self._file_name("file", self._text("file")),
            "support": {
                self._file_name("support", name): self._is_text(f"support.{name}", text)
                for name, text in self._table("support").items()
            },
        }
        if need == "unit_tests":
            fields["module"] = self._file_name("module", self._text("module"))
            right = self._left.pop("right", None)
            fields["right"] = (right,) if isinstance(right, str) else self._text_list("right", right, least=1)
            fields["mutants"] = self._text_list("mutants", self._left.pop("mutants", None), least=1)
            for number, code in enumerate((*fields["right"], *fields["mutants"]), 1):
                self._compiles(f"version {number} of `{fields['module']}`", code)
        else:
            fields["tests"] = self._text("tests")
            self._has_tests(fields["tests"])
        if need == "completion":
            fields["prefix"] = self._text("prefix")
            fields["suffix"] = self._text("suffix", empty=True)
            fields["stop"] = self._text_list("stop", self._left.pop("stop", []))
        return fields

    def _expected(self) -> Expected:
        forms = [key for key in ("answer", "answers", "number", "keys", "lines") if key in self._left]
        if len(forms) != 1:
            self._fail("needs exactly one of `answer`, `answers`, `number`, `keys`, `lines`")
        match forms[0]:
            case "answer":
                return Expected(texts=(self._text("answer"),))
            case "answers":
                return Expected(texts=self._text_list("answers", self._left.pop("answers"), least=1))
            case "number":
                number = self._number("number")
                tolerance = self._number("tolerance") if "tolerance" in self._left else NUMBER_TOLERANCE
                return Expected(number=number, tolerance=tolerance)
            case "keys":
                keys = {k: self._scalar(f"keys.{k}", v) for k, v in self._table("keys").items()}
                return Expected(keys=keys) if keys else self._fail("`keys` is empty")
            case _:
                lines = self._text_list("lines", self._left.pop("lines"), least=1)
                ordered = self._left.pop("ordered", True)
                if not isinstance(ordered, bool):
                    self._fail("`ordered` is not true or false")
                return Expected(lines=lines, ordered=ordered)

    # --- single values -----------------------------------------------------------------------------

    def _text(self, key: str, *, empty: bool = False) -> str:
        if key not in self._left:
            self._fail(f"`{key}` is missing")
        text = self._is_text(key, self._left.pop(key))
        if not text.strip() and not empty:
            self._fail(f"`{key}` is empty")
        return text

    def _is_text(self, key: str, value: object) -> str:
        return value if isinstance(value, str) else self._fail(f"`{key}` is not text")

    def _text_list(self, key: str, value: object, *, least: int = 0) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
            self._fail(f"`{key}` is not a list of texts")
        if len(value) < least:
            self._fail(f"`{key}` is empty")
        return tuple(value)

    def _number(self, key: str) -> float:
        value = self._left.pop(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self._fail(f"`{key}` is not a finite number")
        return float(value)

    def _whole(self, key: str, low: int, high: int) -> int:
        value = self._left.pop(key, None)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self._fail(f"`{key}` is not a whole number from {low} to {high}")
        return value

    def _scalar(self, key: str, value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return str(value) if isinstance(value, str | int | float) else self._fail(f"`{key}` is not a text")

    def _table(self, key: str) -> dict[str, Any]:
        value = self._left.pop(key, {})
        return value if isinstance(value, dict) else self._fail(f"`{key}` is not a table")

    def _tables(self, key: str) -> list[dict[str, Any]]:
        value = self._left.pop(key, None)
        if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
            self._fail(f"needs at least one [[{key}]]")
        return value

    def _answer(self, table: dict[str, Any], which: str) -> str:
        if not isinstance(table.get("text"), str):
            self._fail(f"a {which} answer has no `text`")
        if extra := table.keys() - {"text", "why"}:
            self._fail(f"unknown key `{min(extra)}` in a {which} answer")
        text: str = table["text"]
        return text

    def _why(self, table: dict[str, Any]) -> str:
        if not isinstance(table.get("why"), str) or not table["why"].strip():
            self._fail("a wrong answer does not say `why`")
        why: str = table["why"]
        return why

    def _file_name(self, key: str, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", name):
            self._fail(f"`{key}`: `{name}` is not a plain file name")
        return name

    def _has_tests(self, code: str) -> None:
        tree = self._compiles("`tests`", code)
        if not any(isinstance(node, ast.FunctionDef) and node.name.startswith("test") for node in tree.body):
            self._fail("`tests` holds no function `test_…`")

    def _compiles(self, what: str, code: str) -> ast.Module:
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            self._fail(f"{what} is not Python: {error}")

    def _fail(self, problem: str) -> NoReturn:
        raise BadFile(self._path, problem)
