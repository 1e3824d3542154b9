"""Whatever a stranger hands over: refused in one line, or read right; never a crash, a hang or a flood."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from functools import cache

import pytest

from tests.hostile.case import Case
from tests.hostile.corpus import corpus
from tests.hostile.walk import MOST_MEMORY_BYTES, Outcome

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits on a process are set as POSIX has it")

KINDS = ("gguf", "safetensors", "index", "config", "ollama", "cache", "hub")
ALONE = (  # through the command as a person starts it
    "gguf: giant: magic and terabytes of zeros",
    "gguf: metadata: 2^64 strings",
    "gguf: place: a pipe",
    "gguf: place: a name with escapes",
    "safetensors: header of 2^64 - 1 bytes",
    "config: not JSON: lists a hundred thousand deep",
)


@cache
def outcomes(kind: str) -> dict[str, Outcome]:
    """What came of all cases of a kind, walked in one process under limits."""
    walk = [sys.executable, "-m", "tests.hostile.walk", kind]
    done = subprocess.run(walk, capture_output=True, text=True, check=False, timeout=600)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1:]} was the end of it: {done.stderr[-2000:]}"
    return {line["name"]: Outcome(**line) for line in lines if "name" in line}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_is_refused_in_one_line(kind: str) -> None:
    refused = [case for case in corpus(kind) if not case.accepted]
    assert refused
    assert not [problem for case in refused if (problem := _not_refused(case, outcomes(kind)[case.name]))]


def _not_refused(case: Case, outcome: Outcome) -> str:
    """What is wrong with the way a case was refused; "" when nothing is."""
    line = outcome.error.removesuffix("\n")
    clean = line.isprintable() and not outcome.out and line.startswith("weigh: ")
    if outcome.code == 2 and clean and re.search(case.says, line):
        return ""
    return f"{case.name}: code {outcome.code}, {line[:300]!r}, wanted {case.says!r}"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_merely_odd_is_read_right(kind: str) -> None:
    sound = [case for case in corpus(kind) if case.accepted]
    assert sound
    for case in sound:
        found = outcomes(kind)[case.name]
        assert (case.name, found.code, found.error) == (case.name, 0, "")
        assert {key: found.figures.get(key) for key in case.shows} == case.shows, case.name
        assert all(line.isprintable() for line in found.out.split("\n")), case.name


@pytest.mark.parametrize("kind", KINDS)
def test_no_case_takes_more_memory_than_is_allowed(kind: str) -> None:
    most = max(outcomes(kind).values(), key=lambda outcome: outcome.peak_bytes)
    assert most.peak_bytes < MOST_MEMORY_BYTES, most.name


def test_names_tell_cases_apart() -> None:
    names = [case.name for case in corpus()]
    assert len(names) == len(set(names)) > 500
    assert {name.partition(":")[0] for name in names} == set(KINDS)


@pytest.mark.parametrize("name", ALONE)
def test_the_command_itself_refuses_in_one_line(name: str, tmp_path) -> None:
    case = next(case for case in corpus(name.partition(":")[0]) if case.name == name)
    command = [sys.executable, "-m", "weigh", "model", case.make(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=_limited)
    assert not _not_refused(case, Outcome(name, done.returncode, done.stdout, done.stderr, {}, 0, 0))


def _limited() -> None:
    """Twice what is allowed of time, and what is allowed of memory."""
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
