"""The answer's end: imports its code and does what the tests ask. Nothing it says is trusted.

Run by `start.py` in a sandbox that holds the answer alone. Imports nothing of weigh.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import operator
import os
import sys
from collections.abc import Callable

from weigh.quality.sandbox.inside import wire
from weigh.quality.sandbox.inside.plain import MUTABLE

TYPE_CHECKING = False  # see plain.py
if TYPE_CHECKING:
    from typing import Any


def enter(context: Any) -> Any:
    return type(context).__enter__(context)


def leave(context: Any, said: str | None) -> Any:
    error = None if said is None else RuntimeError(said)
    return type(context).__exit__(context, error and type(error), error, None)


def getitem(value: Any, key: Any) -> Any:
    """What is kept here stays here with all that is in it."""
    entry = value[key]
    kept = type(value) in (list, dict, tuple) and isinstance(entry, MUTABLE)
    return wire.AsHandle(entry) if kept else entry


def printed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, str]:
    """What `function` returns, and what it printed."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        result = function(*args, **kwargs)
    return result, text.getvalue()


def run(coroutine: Any) -> Any:
    import asyncio  # here, because it takes as long as all the rest

    return asyncio.run(coroutine)


def program(command: list[str], stdin: str) -> tuple[int, str, str]:
    """Exit code, output and error output of a program; a `.py` file runs in this Python."""
    import subprocess

    if command[0].endswith(".py"):
        command = [sys.executable, "-B", *command]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, errors="replace", check=False)
    return done.returncode, done.stdout, done.stderr


DEEDS: dict[str, Callable[..., Any]] = {
    "import": importlib.import_module,
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "delattr": delattr,
    "repr": repr,
    "str": str,
    "len": len,
    "getitem": getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "iter": lambda value: wire.AsHandle(iter(value)),
    "next": next,
    "enter": enter,
    "exit": leave,
    "hold": wire.AsHandle,
    "keep": lambda function, *args, **kwargs: wire.AsHandle(function(*args, **kwargs)),
    "plain": lambda value: value,
    "printed": printed,
    "run": run,
    "program": program,
}


def main(fd: str, *modules: str) -> None:
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - pathlib takes long to import
    peer = wire.Peer(
        wire.Channel(int(fd)), lambda what, args, kwargs: DEEDS[what](*args, **kwargs), wire.CallBack
    )
    peer.known_modules = frozenset(modules)
    with contextlib.suppress(wire.Gone):
        peer.answer_for_ever()
