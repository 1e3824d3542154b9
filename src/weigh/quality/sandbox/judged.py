"""What a piece of model-written code is worth: it runs inside, the verdict is made outside it.

Hidden tests run in a second sandbox and know the answer's code only through plain data that comes over a
socket, so nothing the code does reaches the comparison. An answer that is itself a test file is run against
right and wrong versions of the module it tests, which it can tell apart by their behaviour alone.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weigh.errors import NotSupported
from weigh.quality.sandbox.box import Box, Limits, Part, bubblewrap, never, watch
from weigh.quality.sandbox.syscalls import seccomp_filter

USUAL = Limits()
PROGRAMS = (".py", ".sh")  # files the tests do not have beside them, so that they cannot run them by mistake
NOTHING_LEFT_OUT: frozenset[Part] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer passed and, if not, why in one line."""

    passed: bool
    why: str = ""


@functools.cache
def require_sandbox() -> None:
    """Start one sandbox and see that its walls stand.

    Raises:
        NotSupported: there is none here; model-written code must not run.
    """
    bubblewrap()
    with Box("probe", files={}, limits=Limits()) as box:
        watch((box,), until=box)
    said = box.errors.decode(errors="replace").strip().splitlines()
    try:
        facts = json.loads(box.output)
    except ValueError:
        why = said[-1] if said else box.ended_for or f"it ended with status {box.exit_code}"
        raise NotSupported(
            f"model-written code is not run: no sandbox can be made here ({why})",
            hint="bubblewrap needs user namespaces, which containers and some systems refuse",
        ) from None
    if fallen := fallen_walls(facts):
        raise NotSupported(f"model-written code is not run: in the sandbox here {' and '.join(fallen)}")


def fallen_walls(facts: Mapping[str, Any]) -> list[str]:
    """What a program may do that it must not, by the facts that `inside/probe.py` reports."""
    found = {
        "it would be root": facts["user"] == 0,
        "it would have capabilities": facts["capabilities"] != 0,
        "it could gain privileges": not facts["new_privileges_refused"],
        "system calls are not filtered": not facts["system_calls_filtered"] and seccomp_filter() is not None,
        "it sees other processes": facts["processes"] > 3,
        "it has a network": facts["network_devices"] not in ([], ["lo"]),
        "it has weigh's variables": bool(set(facts["variables"]) - {"PWD", "LC_CTYPE"}),
        "it sees a home": bool(facts["homes"]),
        "its system can be written": facts["root_writable"],
    }
    return [wall for wall, has_fallen in found.items() if has_fallen]


def run_tests(
    code: str,
    tests: str,
    *,
    file: str = "answer.py",
    support: Mapping[str, str] | None = None,
    limits: Limits = USUAL,
    without: frozenset[Part] = NOTHING_LEFT_OUT,
    stopped: Callable[[], bool] = never,
) -> Verdict:
    """Does `code`, put in `file` beside the files of `support`, pass every test?

    Raises:
        NotSupported: there is no sandbox.
    """
    require_sandbox()
    files = {**(support or {}), file: code}
    modules = [name.removesuffix(".py") for name in files if name.endswith(".py")]
    seen = {name: text for name, text in files.items() if not name.endswith(PROGRAMS)}
    job = json.dumps({"tests": tests, "source": code, "modules": modules})
    here, there = socket.socketpair()
    with (
        here,
        there,
        Box("answer_side", modules, files=files, limits=limits, channel=there, without=without) as answer,
        Box("test_side", files={**seen, "job.json": job}, limits=limits, channel=here) as judge,
    ):
        watch((answer, judge), until=judge, stopped=stopped)
        ended_for = answer.ended_for
    if ended_for or judge.ended_for:
        return Verdict(False, ended_for or judge.ended_for)
    try:
        verdict = json.loads(judge.output)
    except ValueError:
        said = judge.errors.decode(errors="replace").strip().splitlines()
        if said and said[-1].startswith("bwrap:"):
            raise NotSupported(f"the sandbox failed: {said[-1]}") from None
        return Verdict(False, f"the tests gave no verdict: {said[-1] if said else judge.exit_code}")
    return Verdict(verdict["passed"] is True, str(verdict["why"]))


def run_test_file(
    answer: str,
    *,
    module: str,
    right: Sequence[str],
    mutants: Sequence[str],
    support: Mapping[str, str] | None = None,
    limits: Limits = USUAL,
    without: frozenset[Part] = NOTHING_LEFT_OUT,
    stopped: Callable[[], bool] = never,
) -> Verdict:
    """Does the test file `answer` accept each of `right` and reject each of `mutants`?

    The versions come in random order and slightly rewritten, so that only their behaviour tells them apart.

    Raises:
        NotSupported: there is no sandbox.
    """
    require_sandbox()
    versions = [(True, number, code) for number, code in enumerate(right, 1)]
    versions += [(False, number, code) for number, code in enumerate(mutants, 1)]
    random.shuffle(versions)
    for is_right, number, code in versions:
        report = _report(answer, module, rewritten(code), support or {}, limits, without, stopped)
        if is_right and not report.passed:
            return Verdict(False, f"right version {number} is rejected: {report.why}")
        if not is_right and report.passed:
            return Verdict(False, f"mutant {number} is accepted")
    return Verdict(True)


def _report(
    answer: str,
    module: str,
    code: str,
    support: Mapping[str, str],
    limits: Limits,
    without: frozenset[Part],
    stopped: Callable[[], bool],
) -> Verdict:
    """What the test file says of one version; anything but an orderly report of success is a rejection."""
    from weigh.quality.sandbox.inside.wire import Channel, Gone

    here, there = socket.socketpair()
    with (
        contextlib.closing(Channel(here.detach())) as channel,
        Box("unit_side", files=support, limits=limits, channel=there, without=without) as box,
    ):
        job = {"module": module.removesuffix(".py"), "code": code, "answer": answer}
        try:
            channel.send(job)
            watch((box,), until=box, stopped=stopped)
            report = channel.receive()
        except Gone as error:
            return Verdict(False, box.ended_for or str(error))
    ran, failed = report.get("ran"), report.get("failed")
    if type(ran) is not int or type(failed) is not int:
        return Verdict(False, str(report.get("error", "no report"))[:300])
    if ran < 1:
        return Verdict(False, "it holds no tests")
    return Verdict(failed == 0, f"{failed} of {ran} tests fail")


class _Marked(ast.NodeTransformer):
    """Gives each function a first statement without effect."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        mark = ast.parse(f"_{random.getrandbits(40):x} = {random.getrandbits(40)}").body
        first = 1 if ast.get_docstring(node) is not None else 0
        node.body[first:first] = mark
        return node


def rewritten(code: str) -> str:
    """The same program in other words: no comments, its own layout, a statement without effect in each function."""
    return ast.unparse(_Marked().visit(ast.parse(code)))
