"""The files of a git repository's last commit, read from its object store while nothing of it runs.

A repository's own configuration can name programs (hooks, filters, a file-system monitor, a signature checker,
helpers that fetch what is missing). Every call here switches them off, reads no configuration but the
repository's own, and takes content from git's objects, so that links and the files lying about play no part.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weigh.errors import WeighError

MOST_COMMITS = 2000  # of history: what is older than that is old
MOST_TOUCHED = 200  # files; a commit that changes more reformats or moves them
MOST_S = 120.0  # of one call
_MOST_OUTPUT_BYTES = 256 << 20

_SWITCHED_OFF = (
    *("core.fsmonitor=", "core.hooksPath=/dev/null", "core.attributesFile=/dev/null", "core.pager=cat"),
    *("log.showSignature=false", "log.showRoot=true", "protocol.allow=never", "gc.auto=0"),
    *("submodule.recurse=false", "core.untrackedCache=false", "core.splitIndex=false"),
)
# Nothing of the caller's environment but where programs are: GIT_DIR and its like would lead elsewhere.
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",  # of git 2.44 and later; the next line does it for all
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "LC_ALL": "C",
}
_LINK_OR_MODULE = {b"120000": "link", b"160000": "submodule"}


class GitFailed(WeighError):
    """There is no repository, no git, or git refuses to read it."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A tracked file.

    Attributes:
        path: below the folder asked about; bytes that are not UTF-8 as surrogates.
        object_id: of its content; "" for what has none of its own (`kind` is then `link` or `submodule`).
    """

    path: str
    object_id: str
    size_bytes: int
    kind: str = "file"


class GitTree:
    """The last commit of the repository that `folder` lies in, and of its files those below `folder`."""

    def __init__(self, folder: Path) -> None:
        """Raises GitFailed when there is no such commit, or git does not read it."""
        self._folder = folder
        self.commit = self._said("rev-parse", "--verify", "--quiet", "HEAD^{commit}").decode().strip()

    def files(self) -> list[Blob]:
        """Every tracked file, links and submodules among them.

        Raises:
            GitFailed: as the constructor.
        """
        listed = self._said("ls-tree", "-r", "-z", "-l", self.commit)
        return [_blob(line) for line in listed.split(b"\0") if line]

    def changed_unix_s(self) -> Mapping[str, float]:
        """When the content of each file was last written, as far as the history is looked at.

        A file that was only moved keeps its time, and a commit that changes very many files counts for those
        it adds alone.

        Raises:
            GitFailed: as the constructor.
        """
        said = self._said(
            *("log", "-z", f"--max-count={MOST_COMMITS}", "--name-status", "--find-renames=100%"),
            *("--relative", "--diff-merges=off", "--no-ext-diff", "--no-textconv", "--no-color"),
            *("--no-show-signature", "--format=%x01%at", self.commit),
        )
        return _last_written(said.split(b"\0"))

    def marked(self, paths: Iterable[str]) -> frozenset[str]:
        """Of `paths`, those the repository's attributes call generated or vendored.

        Raises:
            GitFailed: as the constructor.
        """
        names = ("linguist-generated", "linguist-vendored")
        given = b"".join(os.fsencode(path) + b"\0" for path in paths)
        said = self._said("check-attr", "--cached", "-z", "--stdin", *names, given=given).split(b"\0")
        answers = zip(said[0::3], said[2::3], strict=False)
        return frozenset(os.fsdecode(path) for path, value in answers if value in (b"set", b"true"))

    def contents(self, blobs: Iterable[Blob]) -> Iterator[bytes]:
        """What each of `blobs` holds, one after another; git is ended when no more are wanted.

        Raises:
            GitFailed: the object is missing or damaged.
        """
        with self._started("cat-file", "--batch") as process:
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                for blob in blobs:
                    process.stdin.write(blob.object_id.encode() + b"\n")
                    process.stdin.flush()
                    head = process.stdout.readline().split()
                    if head[1:2] != [b"blob"] or int(head[2]) != blob.size_bytes:
                        raise GitFailed(f"git has no content of {blob.path!r}")
                    yield process.stdout.read(blob.size_bytes)
                    process.stdout.read(1)
            except OSError as error:
                raise GitFailed(f"git stopped: {error.strerror}") from None
            finally:
                process.kill()

    def _said(self, *arguments: str, given: bytes = b"") -> bytes:
        try:
            found = subprocess.run(
                self._command(arguments),
                input=given,
                capture_output=True,
                timeout=MOST_S,
                env=_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise GitFailed(f"git did not answer within {MOST_S:.0f} s") from None
        except OSError as error:
            raise GitFailed(f"git cannot be run: {error.strerror}") from None
        if found.returncode or len(found.stdout) > _MOST_OUTPUT_BYTES:
            raise GitFailed(_reason(found.stderr))
        return found.stdout

    def _started(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command(arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )

    def _command(self, arguments: Sequence[str]) -> list[str]:
        off = [word for setting in _SWITCHED_OFF for word in ("-c", setting)]
        return ["git", "--no-pager", "--no-optional-locks", *off, "-C", str(self._folder), *arguments]


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), **_ENVIRONMENT}


def _reason(said: bytes) -> str:
    """Git's first words, which hold no advice."""
    text = said.decode(errors="replace").strip().partition("\n")[0].removeprefix("fatal: ")
    return f"git says: {text[:200]}" if text else "it is no git repository with a commit"


def _blob(line: bytes) -> Blob:
    """Of `MODE KIND ID SIZE<tab>PATH`."""
    head, _, path = line.partition(b"\t")
    mode, kind, object_id, size = head.split()
    is_file = kind == b"blob" and mode not in _LINK_OR_MODULE
    if is_file and not size.isdigit():  # `BAD`: of an object that is not there
        raise GitFailed(f"git has no content of {os.fsdecode(path)!r}")
    return Blob(
        os.fsdecode(path),
        object_id.decode() if is_file else "",
        int(size) if is_file else 0,
        "file" if is_file else _LINK_OR_MODULE.get(mode, "submodule"),
    )


def _last_written(words: Sequence[bytes]) -> dict[str, float]:
    """Of `git log -z --name-status`, newest first: a header `\\1TIME`, then a status and one or two paths, again."""
    times: dict[str, float] = {}
    now_called: dict[str, str] = {}  # earlier names of files that were moved
    for written_s, changes in _commits(words):
        widely = len(changes) > MOST_TOUCHED
        for status, *paths in changes:
            name = os.fsdecode(paths[-1])
            present = now_called.get(name, name)
            if status.startswith(b"R"):
                now_called[os.fsdecode(paths[0])] = present
            elif status == b"A" or not widely:
                times.setdefault(present, written_s)
    return times


def _commits(words: Sequence[bytes]) -> Iterator[tuple[float, list[tuple[bytes, ...]]]]:
    rest = iter(words)
    written_s, changes = 0.0, list[tuple[bytes, ...]]()
    for word in rest:
        status = word.lstrip(b"\n")
        if status.startswith(b"\1"):
            if changes:
                yield written_s, changes
            # of a damaged commit git tells no time; like git's own log, take the oldest there is
            written_s, changes = float(status[1:] or 0), []
        elif status:
            paths = 2 if status[:1] in (b"R", b"C") else 1
            changes.append((status, *(next(rest, b"") for _ in range(paths))))
    if changes:
        yield written_s, changes
