"""Held-out source files of the user's own repository: the newest first, each content once, and only what people wrote.

What a model has seen in training it knows by heart, so files are taken by when they were last written: from
git's history where there is one, else from the files' own times.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path

from weigh.errors import BadInput
from weigh.quality.git_tree import GitFailed, GitTree
from weigh.quality.languages import Language, language_of

LEAST_BYTES, MOST_BYTES = 256, 256 << 10  # of a file
LEAST_LINES = 10
MOST_FILES = 200  # the newest; more than are read within minutes
MOST_ENTRIES = 200_000  # of folders that are walked
LONGEST_LINE = 500  # characters; minified code, and data written as code
MOST_DIGITS = 0.2  # share of what is no space; code people wrote stays below 0.1
NEARLY = 0.7  # share of a file's lines that another has too

_NOT_OURS = frozenset(
    {
        *(
            "vendor",
            "vendors",
            "vendored",
            "third_party",
            "third-party",
            "thirdparty",
            "3rdparty",
            "external",
        ),
        *("externals", "extern", "deps", "godeps", "pods", "carthage", "node_modules", "bower_components"),
        *("jspm_packages", "site-packages", "dist-packages", "dist"),
    }
)
_LEFT_BY_BUILDS = frozenset(  # where git does not say what is tracked
    {"build", "out", "target", "obj", "bin", "env", "venv", "__pycache__", "htmlcov", "coverage"}
)
_GENERATED_NAME = re.compile(
    r"(_pb2(_grpc)?\.pyi?|\.pb(\.gw)?\.(go|cc|h)|\.g\.(dart|cs)|\.freezed\.dart|\.designer\.cs|[._-]generated\.\w+"
    r"|_gen\.go|\.gen\.\w+|\bmoc_\w+\.cpp|\bui_\w+\.py)$",
    re.IGNORECASE,
)
_MINIFIED_NAME = re.compile(r"[.-](min|bundle)\.(m?js|css)$", re.IGNORECASE)
_GENERATED = re.compile(
    r"@generated\b|\b(auto[- ]?|automatically )generated\b|\bgenerated (by|from|with|using|on)\b"
    r"|\bcode generated\b|\bdo not edit\b",
    re.IGNORECASE,
)
_HEAD_LINES = 20


class Why(StrEnum):
    """Why a file is left out."""

    NOT_SOURCE = "no source code by name"
    LINK = "links and submodules"
    VENDORED = "vendored"
    GENERATED = "generated"
    MINIFIED = "minified or with very long lines"
    DATA = "mostly numbers"
    BINARY = "not UTF-8 text"
    LARGE = "too large"
    SMALL = "too short"
    COPY = "copies"
    NEAR_COPY = "near copies"
    UNREADABLE = "not readable"
    NOT_REACHED = "older, not needed"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file held out.

    Attributes:
        path: below the folder asked about, fit to be printed.
        written_unix_s: when its content was last written; None when the history does not reach so far.
    """

    path: str
    language: Language
    text: str
    written_unix_s: float | None


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What was chosen, newest first, and how many files were left out why.

    Attributes:
        commit: the git commit the contents are of; "" where files were taken as they lie there.
        because: why git's history was not used; "" when it was.
    """

    files: tuple[SourceFile, ...]
    left_out: Mapping[Why, int]
    commit: str
    because: str

    @property
    def languages(self) -> dict[str, int]:
        """Files by language, most first."""
        return dict(Counter(file.language.name for file in self.files).most_common())


def held_out(folder: Path, *, most_files: int = MOST_FILES) -> HeldOut:
    """Choose up to `most_files` files below `folder`.

    Raises:
        BadInput: there is no such folder, or no source file in it that can be used.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder", hint="name the folder of a repository")
    try:
        tree = GitTree(folder)
        found = _from_git(tree, most_files)
        commit, because = (tree.commit, "") if found.listed else ("", "git tracks nothing in this folder")
    except GitFailed as error:
        commit, because = "", error.message
    if not commit:
        found = _from_folder(folder, most_files)
    if not found.files:
        raise BadInput(
            f"{folder} has no source file to measure with: {said(found.left_out) or 'it is empty'}",
            hint="name the folder of a repository with code in it",
        )
    return HeldOut(tuple(found.files), found.counts, commit, because)


def said(left_out: Mapping[Why, int]) -> str:
    """`31 no source code by name, 4 generated`."""
    most_first = sorted(left_out.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{count:,} {why}" for why, count in most_first if count)


def _from_git(tree: GitTree, most_files: int) -> _Choice:
    blobs = tree.files()
    choice = _Choice(most_files, listed=len(blobs))
    times = tree.changed_unix_s()
    marked = tree.marked(blob.path for blob in blobs if language_of(blob.path))
    wanted = [
        blob
        for blob in sorted(blobs, key=lambda blob: (-times.get(blob.path, 0.0), blob.path))
        if choice.admits(
            blob.path, blob.size_bytes, ours=blob.path not in marked, is_file=blob.kind == "file"
        )
    ]
    for number, (blob, content) in enumerate(zip(wanted, tree.contents(wanted), strict=False)):
        choice.take(blob.path, content, times.get(blob.path))
        if choice.full:
            choice.left_out[Why.NOT_REACHED] += len(wanted) - number - 1
            break
    return choice


def _from_folder(folder: Path, most_files: int) -> _Choice:
    entries = list(_walk(folder))
    choice = _Choice(most_files, listed=len(entries))
    wanted = [
        entry
        for entry in sorted(entries, key=lambda entry: (-entry.written_unix_s, entry.path))
        if choice.admits(entry.path, entry.size_bytes, is_file=entry.is_file)
    ]
    for number, entry in enumerate(wanted):
        try:
            content = _content(folder / entry.path)
        except OSError:
            choice.left_out[Why.UNREADABLE] += 1
            continue
        choice.take(entry.path, content, entry.written_unix_s)
        if choice.full:
            choice.left_out[Why.NOT_REACHED] += len(wanted) - number - 1
            break
    return choice


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    size_bytes: int
    written_unix_s: float
    is_file: bool


def _walk(folder: Path) -> Iterator[_Entry]:
    """Files below `folder`, links unfollowed; hidden folders and what builds leave behind are passed by."""
    left = MOST_ENTRIES
    folders = [""]
    while folders:
        inside = folders.pop()
        try:
            with os.scandir(folder / inside) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            left -= 1
            if left < 0:
                return
            path = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith(".") and entry.name.lower() not in _LEFT_BY_BUILDS | _NOT_OURS:
                    folders.append(path)
                continue
            try:
                about = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            yield _Entry(path, about.st_size, about.st_mtime, stat.S_ISREG(about.st_mode))


def _content(path: Path) -> bytes:
    """Of a plain file of bounded size; what has become a link or a pipe since is an OSError."""
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with open(opened, "rb") as file:  # noqa: PTH123 - of a descriptor
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError("no plain file")
        return file.read(MOST_BYTES + 1)


@dataclass
class _Choice:
    """Files as they are looked at one by one, and what was decided about them."""

    most_files: int
    listed: int
    files: list[SourceFile] = field(default_factory=list)
    left_out: Counter[Why] = field(default_factory=Counter)
    _seen: set[bytes] = field(default_factory=set)
    _having: dict[int, list[int]] = field(default_factory=dict)  # a line's hash -> the files with that line
    _lines: list[int] = field(default_factory=list)  # distinct lines of each file

    @property
    def full(self) -> bool:
        return len(self.files) >= self.most_files

    @property
    def counts(self) -> dict[Why, int]:
        return {why: self.left_out[why] for why in Why if self.left_out[why]}

    def admits(self, path: str, size_bytes: int, *, is_file: bool, ours: bool = True) -> bool:
        """Whether a file is worth reading, by what is known of it from outside."""
        why = _outside(path, size_bytes, is_file=is_file)
        if why is None and not ours:
            why = Why.GENERATED
        if why is not None:
            self.left_out[why] += 1
        return why is None

    def take(self, path: str, content: bytes, written_unix_s: float | None) -> None:
        """Keep the file, or count why not."""
        language = language_of(path)
        assert language is not None  # `admits` has seen to it
        text, why = _text(content)
        why = why or _inside(text, language) or self._copied(text)
        if why is not None:
            self.left_out[why] += 1
            return
        self.files.append(SourceFile(_printable(path), language, text, written_unix_s))

    def _copied(self, text: str) -> Why | None:
        """Whether a newer file says the same: all of it, or most of the lines of either."""
        lines = {" ".join(line.split()) for line in text.splitlines()}
        whole = blake2b("\n".join(sorted(lines)).encode(), digest_size=16).digest()
        if whole in self._seen:
            return Why.COPY
        hashes = {hash(line) for line in lines if len(line) > 8}  # shorter ones are in every file
        shared = Counter(number for line in hashes for number in self._having.get(line, ()))
        for number, count in shared.items():
            if count >= NEARLY * min(len(hashes), self._lines[number]):
                return Why.NEAR_COPY
        self._seen.add(whole)
        for line in hashes:
            self._having.setdefault(line, []).append(len(self._lines))
        self._lines.append(len(hashes))
        return None


def _outside(path: str, size_bytes: int, *, is_file: bool) -> Why | None:
    *folders, name = path.lower().split("/")
    if not is_file:
        return Why.LINK
    if language_of(path) is None:
        return Why.NOT_SOURCE
    if not _NOT_OURS.isdisjoint(folders):
        return Why.VENDORED
    if _MINIFIED_NAME.search(name):
        return Why.MINIFIED
    if _GENERATED_NAME.search(name):
        return Why.GENERATED
    if size_bytes > MOST_BYTES:
        return Why.LARGE
    return Why.SMALL if size_bytes < LEAST_BYTES else None


def _text(content: bytes) -> tuple[str, Why | None]:
    if len(content) > MOST_BYTES:
        return "", Why.LARGE
    if b"\0" in content:
        return "", Why.BINARY
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "", Why.BINARY
    return text.replace("\r\n", "\n").replace("\r", "\n"), None


def _inside(text: str, language: Language) -> Why | None:
    lines = text.split("\n")
    if sum(bool(line.strip()) for line in lines) < LEAST_LINES:
        return Why.SMALL
    head = [line for line in lines[:_HEAD_LINES] if language.is_comment(line)]
    if any(_GENERATED.search(line) for line in head):
        return Why.GENERATED
    if max(map(len, lines)) > LONGEST_LINE:
        return Why.MINIFIED
    letters = "".join(text.split())
    return Why.DATA if _digits(letters) > MOST_DIGITS * len(letters) else None


def _digits(letters: Iterable[str]) -> int:
    return sum(letter.isdigit() for letter in letters)


def _printable(path: str) -> str:
    """Names can hold anything but NUL: bytes that are no text, and what a terminal would obey."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
