"""Two processes that speak by plain data: values, calls and exceptions over a socket.

Both ends run this file, inside their own sandboxes. What comes over the wire is never executed: a value
arrives as a built-in type or as a handle (`Remote`) whose every use asks the other side. Imports nothing of
weigh.
"""

from __future__ import annotations

import builtins
import json
import os
import struct
import sys
import threading
from collections import namedtuple
from collections.abc import Callable
from enum import Enum

from weigh.quality.sandbox.inside.plain import COLLECTIONS, MUTABLE, restore, scalar, scalar_json

TYPE_CHECKING = False  # see plain.py
if TYPE_CHECKING:
    from typing import Any

MOST_BYTES = 8 << 20  # of one message
TESTS = "tests"  # name of the module of hidden tests
PLAIN_INT = 1 << 62
ENDS_LOOPS = (StopIteration, StopAsyncIteration, GeneratorExit)


class Gone(BaseException):
    """The other side ended or broke the protocol; no `except Exception` of a test hides it."""


class Remote:
    """An object that lives on the other side.

    It has no truth, order or arithmetic, and equals only the same object: a comparison is never decided by
    the other side's code.
    """

    __slots__ = ("_number", "_peer")

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __repr__(self) -> str:
        return str(self._peer.ask("repr", self))

    def __str__(self) -> str:
        return str(self._peer.ask("str", self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and bool(other._number == self._number)

    def __hash__(self) -> int:
        return hash(self._number)

    def __bool__(self) -> bool:
        raise TypeError("the answer gave an object, not plain data: it has no truth value here")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._peer.ask("call", self, *args, **kwargs)

    def __getattribute__(self, name: str) -> Any:
        # operators go past this, to the methods here; their names, spelled out, mean the other side's
        if name in ("_peer", "_number", "__class__"):
            return object.__getattribute__(self, name)
        return self._peer.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._peer.ask("delattr", self, name)

    def __len__(self) -> int:
        return int(self._peer.ask("len", self))

    def __getitem__(self, key: Any) -> Any:
        return self._peer.ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._peer.ask("setitem", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._peer.ask("delitem", self, key)

    def __iter__(self) -> Any:
        return self._peer.ask("iter", self)

    def __next__(self) -> Any:
        return self._peer.ask("next", self)

    def __enter__(self) -> Any:
        return self._peer.ask("enter", self)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
        return self._peer.ask("exit", self, None if error is None else f"{kind.__name__}: {error}")


class CallBack(Remote):
    """The same on the answer's side: what the tests passed in. It is as true as any object."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<object {self._number}>"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return True


class AsHandle:
    """Wraps a value that is to travel as a handle though it is plain data."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Channel:
    """Messages of JSON, each led by its length, over a socket's descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        if len(body) > MOST_BYTES:
            raise ValueError(f"a value of {len(body)} bytes is more than can be handed over")
        left = memoryview(struct.pack("!I", len(body)) + body)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            raise Gone("its program ended") from error

    def receive(self) -> dict[str, Any]:
        (length,) = struct.unpack("!I", self._exactly(4))
        if length > MOST_BYTES:
            raise Gone("it sent more than can be taken")
        try:
            message = json.loads(self._exactly(length))
        except (ValueError, RecursionError) as error:
            raise Gone("it sent what is no message") from error
        if not isinstance(message, dict):
            raise Gone("it sent what is no message")
        return message

    def close(self) -> None:
        os.close(self._fd)

    def _exactly(self, length: int) -> bytes:
        parts: list[bytes] = []
        while length:
            try:
                part = os.read(self._fd, min(length, 1 << 16))
            except OSError as error:
                raise Gone("its program ended") from error
            if not part:
                raise Gone("its program ended")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


class Peer:
    """One end: asks the other, and answers what it asks meanwhile.

    `serve(what, args, kwargs)` carries out a request; `handle` is the class of objects over there.
    """

    def __init__(
        self, channel: Channel, serve: Callable[[str, list[Any], dict[str, Any]], Any], handle: type[Remote]
    ) -> None:
        self._channel, self._serve, self._handle = channel, serve, handle
        self._held: dict[int, Any] = {}  # number -> object of ours that the other side knows
        self._numbers: dict[int, int] = {}  # id of such an object -> its number
        self._classes: dict[
            tuple[str, str], type[BaseException]
        ] = {}  # (module, name) -> stand-in of an exception class over there
        self._lock = threading.RLock()

    # --- talking -----------------------------------------------------------------------------------

    def ask(self, what: str, /, *args: Any, **kwargs: Any) -> Any:
        """Let the other side do `what`; returns its result or raises its exception.

        Lists, dicts and sets among `args` are afterwards as the other side left them.
        """
        message = {
            "ask": what,
            "args": [self.encode(value) for value in args],
            "kwargs": {name: self.encode(value) for name, value in kwargs.items()},
        }
        with self._lock:
            self._channel.send(message)
            while "ask" in (reply := self._channel.receive()):
                self._answer(reply)
        for value, changed in zip(args, reply.get("after", ()), strict=False):
            restore(value, self.decode(changed))
        if "error" in reply:
            error = self._exception(reply["error"])
            if (
                isinstance(error, ENDS_LOOPS) and what != "next"
            ):  # would end a loop of the tests, checks and all
                error = RuntimeError(f"raised {type(error).__name__}")
            raise error from None
        return self.decode(reply.get("ok"))

    def answer_for_ever(self) -> None:
        while True:
            self._answer(self._channel.receive())

    def _answer(self, message: dict[str, Any]) -> None:
        args: list[Any] = []
        try:
            args = [self.decode(value) for value in message["args"]]
            kwargs = {str(name): self.decode(value) for name, value in message["kwargs"].items()}
            reply = {"ok": self.encode(self._serve(message["ask"], args, kwargs))}
        except Gone:
            raise
        except BaseException as error:
            reply = {"error": self._describe(error)}
        try:
            if any(isinstance(value, MUTABLE) for value in args):
                reply["after"] = [
                    self.encode(value) if isinstance(value, MUTABLE) else None for value in args
                ]
            self._channel.send(reply)
        except ValueError as error:
            self._channel.send({"error": self._describe(error)})

    # --- values ------------------------------------------------------------------------------------

    def hold(self, value: Any) -> int:
        """A number the other side may call `value` by, the same for the same object."""
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._held)
            self._held[number] = value
        return number

    def encode(self, value: Any) -> Any:
        """`value` as JSON: plain data whole, anything else as a handle."""
        kind = type(value)
        if value is None or kind is bool:
            return value
        if isinstance(value, Remote):
            return {"!": "yours", "v": value._number}
        if kind is AsHandle:
            return {"!": "mine", "v": self.hold(value.value)}
        if isinstance(value, Enum):
            return {"!": "mine", "v": self.hold(value)}
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            whole = int.__int__(value)
            return whole if abs(whole) < PLAIN_INT else {"!": "int", "v": hex(whole)}
        if isinstance(value, float):
            return {"!": "float", "v": float.__repr__(value)}
        if isinstance(value, tuple):
            entries = [self.encode(entry) for entry in tuple.__iter__(value)]
            fields = getattr(kind, "_fields", None)
            if kind is not tuple and isinstance(fields, tuple) and len(fields) == len(entries):
                return {"!": "namedtuple", "n": kind.__name__, "f": list(fields), "v": entries}
            return {"!": "tuple", "v": entries}
        if isinstance(value, list):
            return [self.encode(entry) for entry in list.__iter__(value)]
        if isinstance(value, dict):
            pairs = [[self.encode(k), self.encode(v)] for k, v in dict.items(value)]
            return {"!": "dict", "v": pairs}
        if isinstance(value, set | frozenset):
            return {
                "!": "set" if isinstance(value, set) else "frozenset",
                "v": [self.encode(entry) for entry in value],
            }
        if found := scalar_json(value):
            return {"!": found[0], "v": found[1]}
        return self._encode_class(value) if isinstance(value, type) else {"!": "mine", "v": self.hold(value)}

    def _encode_class(self, value: type) -> Any:
        if getattr(builtins, value.__name__, None) is value:
            return {"!": "builtin", "v": value.__name__}
        if issubclass(value, BaseException):
            return {"!": "exception", "v": self._lineage(value)}
        return {"!": "mine", "v": self.hold(value)}

    def decode(self, value: Any) -> Any:
        """The value meant by JSON of the other side; never runs anything of it.

        Raises:
            Gone: it follows no form known here.
        """
        if isinstance(value, list):
            return [self.decode(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        try:
            kind, content = value["!"], value["v"]
            if kind == "mine":
                return self._handle(self, int(content))
            if kind == "yours":
                return self._held[content]
            if kind == "builtin":
                found = getattr(builtins, content)
                if isinstance(found, type):
                    return found
            elif kind == "exception":
                return self._class(content)
            elif kind == "int":
                return int(content, 16)
            elif kind == "float":
                return float(content)
            elif kind == "dict":
                return {self.decode(k): self.decode(v) for k, v in content}
            elif kind == "namedtuple":
                return namedtuple(value["n"], value["f"])(*map(self.decode, content))
            elif kind in COLLECTIONS:
                return COLLECTIONS[kind](self.decode(entry) for entry in content)
            return scalar(kind, content)
        except Exception as error:
            raise Gone(f"it sent a value that cannot be read: {error!r}") from error

    # --- exceptions --------------------------------------------------------------------------------

    def _describe(self, error: BaseException) -> dict[str, Any]:
        """An exception as JSON: its classes, text, arguments and public attributes, as far as plain."""
        try:
            args = [self.encode(value) for value in error.args]
            extra = {k: self.encode(v) for k, v in vars(error).items() if not k.startswith("_")}
        except BaseException:
            args, extra = [], {}
        return {"class": self._lineage(type(error)), "args": args, "extra": extra}

    def _lineage(self, kind: type[BaseException]) -> list[Any]:
        """Each class of an exception's ancestry with the places of its bases, nearest first."""
        mro = [c for c in kind.__mro__ if issubclass(c, BaseException)]
        return [
            [str(c.__module__), c.__name__, [mro.index(base) for base in c.__bases__ if base in mro]]
            for c in mro
        ]

    def _class(self, lineage: list[Any]) -> type[BaseException]:
        """The exception class of that ancestry here: built-in, known by name, or made to its pattern."""
        made: list[type[BaseException]] = []
        for module, name, bases in reversed(lineage):  # ancestors first
            is_ours = module in self.known_modules or module.partition(".")[0] in sys.stdlib_module_names
            known = getattr(sys.modules.get(module), name, None) if is_ours else None
            if not (isinstance(known, type) and issubclass(known, BaseException)):
                parents = tuple(made[len(lineage) - 1 - place] for place in bases) or (Exception,)
                known = self._classes.get((module, name)) or type(name, parents, {"__module__": module})
                self._classes[module, name] = known
            made.append(known)
        return made[-1]

    known_modules: frozenset[str] = frozenset()  # whose exceptions are real here

    def _exception(self, described: dict[str, Any]) -> BaseException:
        try:
            kind = self._class(described["class"])
            args = tuple(self.decode(value) for value in described["args"])
            try:
                error = kind.__new__(kind, *args)
            except TypeError:  # an exception group, say
                return RuntimeError(f"{kind.__name__}: {args}")
            error.args = args
            if isinstance(error, SystemExit | StopIteration):
                setattr(
                    error, "code" if isinstance(error, SystemExit) else "value", args[0] if args else None
                )
            for name, value in described["extra"].items():
                if name.isidentifier() and not name.startswith("_"):
                    setattr(error, name, self.decode(value))
        except Exception as problem:
            raise Gone(f"it sent an exception that cannot be read: {problem!r}") from problem
        return error
