"""The tests' end: runs the hidden tests, with stand-ins for the answer's modules, and says how it went.

Run by `start.py` in a sandbox of its own: the answer's code is never here. Prints one line of JSON, the
verdict. Imports nothing of weigh.
"""

from __future__ import annotations

import functools
import io
import json
import os
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec

from weigh.quality.sandbox.inside import wire

TYPE_CHECKING = False  # see plain.py
if TYPE_CHECKING:
    from typing import Any

FUNCTION_NAMES = ("__name__", "__qualname__", "__doc__")
ITEMS: dict[str, Callable[..., Any]] = {
    "len": len,
    "getitem": lambda value, key: value[key],
    "setitem": lambda value, key, entry: value.__setitem__(key, entry),
    "delitem": lambda value, key: value.__delitem__(key),
    "iter": lambda value: wire.AsHandle(iter(value)),
    "next": next,
    "enter": lambda value: type(value).__enter__(value),
    "exit": lambda value, said: type(value).__exit__(value, None, None, None),
    "getattr": getattr,
}


def serve(what: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """What the answer may do with what a test passed to it: call it, and use a test's own objects.

    Never more: a function's globals or a frame would show it the tests, and what a fake has counted is not
    the answer's to set.
    """
    value = args[0]
    if what == "call" and callable(value):
        return value(*args[1:], **kwargs)
    if what in ("iter", "next") and isinstance(value, types.GeneratorType):
        return ITEMS[what](value)
    if what == "getattr" and callable(value) and args[1] in FUNCTION_NAMES:
        return getattr(value, args[1])
    if what in ITEMS and (type(value).__module__ == wire.TESTS or type(value) in (io.StringIO, io.BytesIO)):
        if what == "getattr" and str(args[1]).startswith("_"):
            raise AttributeError(args[1])
        return ITEMS[what](*args, **kwargs)
    if what in ("getattr", "setattr", "delattr"):
        raise AttributeError(args[1])
    raise TypeError(f"{what} is not possible on what a test passed in")


class StandIn(types.ModuleType):
    """A module of the answer."""

    def __init__(self, name: str, peer: wire.Peer) -> None:
        super().__init__(name)
        self.__dict__["_remote"] = peer.ask("import", name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["_remote"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):
            super().__setattr__(name, value)
        else:
            setattr(self.__dict__["_remote"], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__dict__["_remote"], name)


class Finder:
    """Imports a stand-in where a test imports a module of the answer."""

    def __init__(self, peer: wire.Peer, modules: frozenset[str]) -> None:
        self._peer, self._modules = peer, modules

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return ModuleSpec(name, self) if name in self._modules else None  # type: ignore[arg-type]  # a duck

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return StandIn(spec.name, self._peer)

    def exec_module(self, module: types.ModuleType) -> None:
        pass  # it has run on the other side


class Finished:
    """A program's end."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def remote_module(peer: wire.Peer, source: str) -> types.ModuleType:
    """The module `remote`: what tests can ask of the answer beyond using its names."""

    def program(*command: str, stdin: str = "") -> Finished:
        return Finished(*peer.ask("program", list(command), stdin))

    module = types.ModuleType("remote")
    asks = {name: functools.partial(peer.ask, name) for name in ("hold", "keep", "plain", "printed", "run")}
    vars(module).update(asks, source=source, program=program)
    return module


def verdict(code: str, peer: wire.Peer, modules: frozenset[str], source: str) -> dict[str, Any]:
    """Run every test; a dict with `passed` and, if not, `why`."""
    sys.modules["remote"] = remote_module(peer, source)
    tests = sys.modules[wire.TESTS] = types.ModuleType(wire.TESTS)
    where = "its import"
    try:
        sys.meta_path.insert(0, Finder(peer, modules))
        exec(compile(code, wire.TESTS, "exec"), tests.__dict__)
        functions = [
            (name, value)
            for name, value in vars(tests).items()
            if name.startswith("test") and isinstance(value, types.FunctionType)
        ]
        if not functions:
            return {"passed": False, "why": "there are no tests"}
        for name, function in functions:
            where = name
            function()
    except BaseException as error:
        return {"passed": False, "why": f"{where}: {said(error, code)}"}
    return {"passed": True, "why": ""}


def said(error: BaseException, code: str) -> str:
    """An error in one line, with the failing line of the tests."""
    number, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == wire.TESTS:
            number = trace.tb_lineno
        trace = trace.tb_next
    line = code.splitlines()[number - 1].strip() if number else ""
    try:
        text = str(error)
    except BaseException:
        text = ""
    return " ".join(f"{type(error).__name__}: {text} {f'at `{line}`' if line else ''}".split())[:500]


def main(fd: str) -> None:
    with open("job.json", encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes long to import
        job = json.load(file)
    out, sys.stdout = sys.stdout, sys.stderr
    peer = wire.Peer(wire.Channel(int(fd)), serve, wire.Remote)
    peer.known_modules = frozenset((wire.TESTS,))
    outcome = verdict(job["tests"], peer, frozenset(job["modules"]), job["source"])
    out.write(json.dumps(outcome))
    out.flush()
    os._exit(0)
