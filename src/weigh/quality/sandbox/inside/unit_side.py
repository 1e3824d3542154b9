"""Runs an answer that is itself a test file against one version of the module it tests.

The version comes over the socket and is never a file: a test that reads the source instead of running it
finds none. What is reported is the answer's own word, so it is worth something only across versions which
it cannot tell apart but by running them. Imports nothing of weigh.
"""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec

from weigh.quality.sandbox.inside import wire

TYPE_CHECKING = False  # see plain.py
if TYPE_CHECKING:
    from typing import Any


class Version:
    """Finds the module under test in memory."""

    def __init__(self, name: str, code: types.CodeType) -> None:
        self._name, self._code = name, code

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return ModuleSpec(name, self) if name == self._name else None  # type: ignore[arg-type]  # a duck

    def create_module(self, spec: ModuleSpec) -> None:
        pass  # a plain one

    def exec_module(self, module: types.ModuleType) -> None:
        exec(self._code, module.__dict__)


def count(answer: types.ModuleType) -> tuple[int, int]:
    """Tests run and tests failed, as plain functions and as unittest has them."""
    failed = ran = 0
    for name, value in list(vars(answer).items()):
        if name.startswith("test") and isinstance(value, types.FunctionType):
            ran += 1
            try:
                value()
            except Exception:
                failed += 1
    unittest = sys.modules.get("unittest")
    if unittest is None:
        return ran, failed
    suite = unittest.defaultTestLoader.loadTestsFromModule(answer)
    result = unittest.TestResult()
    suite.run(result)
    return ran + result.testsRun, failed + len(result.failures) + len(result.errors)


def main(fd: str) -> None:
    channel = wire.Channel(int(fd))
    job = channel.receive()
    sys.meta_path.insert(0, Version(job["module"], compile(job["code"], "<under test>", "exec")))
    answer = sys.modules["test_answer"] = types.ModuleType("test_answer")
    try:
        exec(compile(job["answer"], "test_answer.py", "exec"), answer.__dict__)
        ran, failed = count(answer)
        channel.send({"ran": ran, "failed": failed})
    except BaseException as error:
        channel.send({"error": f"{type(error).__name__}: {error}"[:300]})
