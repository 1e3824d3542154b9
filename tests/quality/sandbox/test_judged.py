"""A verdict cannot be forged by the code that is judged."""

from __future__ import annotations

import json

import pytest

from tests.sandboxes import needs_sandbox
from weigh.errors import NotSupported
from weigh.quality.sandbox.box import Box, Limits, Part, watch
from weigh.quality.sandbox.judged import fallen_walls, require_sandbox, rewritten, run_test_file, run_tests

HIDDEN = """
import answer

def test_values():
    assert answer.double(21) == 42

def test_kind():
    assert answer.double("ab") == "abab"
"""
# The judge most harnesses have: tests and answer in one process, whose exit code or last words count.
NAIVE = """
import sys
sys.path.insert(0, ".")
try:
    import hidden
    for name in list(vars(hidden)):
        if name.startswith("test"):
            getattr(hidden, name)()
except Exception:
    sys.exit(1)
print("passed")
"""
FORGERIES = {
    "equal to everything": """
class Equal:
    def __eq__(self, other): return True
    def __bool__(self): return True
    def __len__(self): return 2
def double(x): return Equal()
""",
    "a str equal to everything": """
class Equal(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
def double(x): return Equal("forged")
""",
    "leaves with success": """
import os
print("passed", flush=True)
os._exit(0)
""",
    "leaves in the test": """
import sys
def double(x):
    print("passed")
    sys.exit(0)
""",
    "patches the tests": """
import sys, types
def double(x):
    for module in list(sys.modules.values()):
        for name in list(vars(module) or ()):
            if name.startswith("test"):
                setattr(module, name, lambda: None)
    frame = sys._getframe()
    while frame:
        for name, value in list(frame.f_globals.items()):
            if name.startswith("test"):
                frame.f_globals[name] = lambda: None
        frame = frame.f_back
    raise Skip
class Skip(BaseException): pass
import sys
hook = lambda *_: (print("passed", flush=True), __import__("os")._exit(0))
sys.excepthook = hook
""",
    "reads the expected values": """
import sys
def double(x):
    frame = sys._getframe().f_back
    while frame:
        consts = [c for c in frame.f_code.co_consts if c not in (None, x)]
        if frame.f_code.co_name.startswith("test"):
            return consts[-1]
        frame = frame.f_back
    return None
""",
}
FORGERIES_OF_THE_WIRE = {
    "writes to every pipe": """
import os
for fd in range(64):
    try:
        os.write(fd, b'{"passed": true, "why": ""}')
    except OSError:
        pass
""",
    "answers before it is asked": """
import gc, struct, json, os
def forge():
    body = json.dumps({"ok": True}).encode()
    for fd in range(3, 64):
        try:
            os.write(fd, (struct.pack("!I", len(body)) + body) * 20)
        except OSError:
            pass
forge()
""",
    "sends what is no message": """
import os, struct
for fd in range(3, 64):
    try:
        os.write(fd, struct.pack("!I", 5) + b"[[[[[")
    except OSError:
        pass
""",
    "sends a class that runs code": """
import os, json, struct
value = {"!": "namedtuple", "n": "X", "f": ["a=__import__('os')._exit(0)"], "v": [1]}
body = json.dumps({"ok": value}).encode()
for fd in range(3, 64):
    try:
        os.write(fd, struct.pack("!I", len(body)) + body)
    except OSError:
        pass
""",
    "asks for the tests' own objects": """
import sys
def double(x):
    peer = sys.modules["weigh.quality.sandbox.inside.wire"]
    import gc
    for thing in gc.get_objects():
        if type(thing).__name__ == "Peer":
            for number in range(20):
                try:
                    handle = peer.CallBack(thing, number)
                    return handle.__globals__
                except Exception as error:
                    last = error
    raise last
""",
}


@needs_sandbox
@pytest.mark.parametrize("name", FORGERIES)
def test_forged_verdict(name: str):
    code = FORGERIES[name]
    assert not run_tests(code, HIDDEN).passed
    # the same forgery, in the same sandbox, before a judge in its own process
    trial = """
import remote
def test_naive():
    done = remote.program("naive.py")
    assert (done.code, done.out.split()[-1:]) == (0, ["passed"]), done.err
"""
    naive = run_tests(code, trial, support={"naive.py": NAIVE, "hidden.py": HIDDEN})
    assert naive.passed, naive.why


@needs_sandbox
@pytest.mark.parametrize("name", FORGERIES_OF_THE_WIRE)
def test_forged_message(name: str):
    assert not run_tests(FORGERIES_OF_THE_WIRE[name], HIDDEN).passed


@needs_sandbox
def test_ending_a_loop_of_the_tests():
    """In one process `map` ends at StopIteration, and with it every check that was to come."""
    tests = """
import answer
def test_all():
    for got, want in map(answer.pair, [1, 2]):
        assert got == want
"""
    verdict = run_tests("def pair(x):\n    raise StopIteration", tests)
    assert "RuntimeError: raised StopIteration" in verdict.why
    generator = "import answer\ndef test_all():\n    assert list(answer.upto(2)) == [0, 1]"
    assert run_tests("def upto(n):\n    yield from range(n)", generator).passed


@needs_sandbox
def test_right_and_wrong_code():
    assert run_tests("def double(x): return x + x", HIDDEN).passed
    verdict = run_tests("def double(x): return 2 * int(x)", HIDDEN)
    assert not verdict.passed
    assert "test_kind: ValueError" in verdict.why
    assert "its import" in run_tests("import nothing_there", HIDDEN).why
    assert "no tests" in run_tests("x = 1", "import answer").why


@needs_sandbox
def test_a_callback_shows_nothing_of_the_tests():
    tests = """
import answer
SECRET = 42

class Clock:
    def __init__(self):
        self._hidden = 42
        self.now_s = 5.0
    def later(self):
        return self.now_s + 1

def test_set():
    clock = Clock()
    assert answer.altered(clock) == "AttributeError"
    assert clock.now_s == 5.0

def test_seen():
    assert answer.seen(lambda: SECRET and None, Clock()) == ["AttributeError", "AttributeError", "AttributeError"]
    assert answer.used(Clock()) == 11.0
"""
    code = """
def seen(function, clock):
    found = []
    for attempt in (lambda: function.__globals__, lambda: function.__code__, lambda: clock._hidden):
        try:
            found.append(attempt())
        except Exception as error:
            found.append(type(error).__name__)
    return found
def altered(clock):
    try:
        clock.now_s = 7.0
    except Exception as error:
        return type(error).__name__
def used(clock):
    return clock.now_s + clock.later()
"""
    verdict = run_tests(code, tests)
    assert verdict.passed, verdict.why


@needs_sandbox
def test_what_travels():
    code = """
import collections, dataclasses, datetime, enum, fractions, decimal
Row = collections.namedtuple("Row", "name count")
class Colour(enum.Enum):
    RED = 1
@dataclasses.dataclass
class Point:
    x: int
    y: int = 0
    def __add__(self, other): return Point(self.x + other.x, self.y + other.y)
class ParseError(ValueError):
    def __init__(self, text, line):
        super().__init__(text)
        self.line = line
class Strict(ParseError): pass
def fail(): raise Strict("bad", 3)
def values():
    return [None, True, 1, 10**30, 1.5, float("inf"), 2j, "s", b"b", (1, [2]), {(1, 2): {3}}, frozenset([4]),
            Row("a", 1), collections.Counter("aab"), datetime.date(2026, 1, 2), datetime.timedelta(seconds=3),
            fractions.Fraction(1, 3), decimal.Decimal("1.10"), range(3)]
def numbers(n): yield from range(n)
def sort(xs): xs.sort()
def grow(rows): rows[0].append(9)
def retry(action, errors):
    try:
        return action()
    except errors:
        return "retried"
def total(source): return sum(source)
class Stack(list):
    def __enter__(self): return self
    def __exit__(self, *error): self.clear()
class Bag:
    def __init__(self): self.held = []
    def put(self, x): self.held.append(x); return self
    def __len__(self): return len(self.held)
    def __iter__(self): return iter(self.held)
    def __getitem__(self, i): return self.held[i]
def shout(text): print(text.upper())
async def later(x): return x + 1
KEPT = [[1]]
def rows(): return KEPT
"""
    tests = """
import datetime, decimal, fractions
import answer, remote
from answer import ParseError, Point

def test_plain():
    got = answer.values()
    want = [None, True, 1, 10**30, 1.5, float("inf"), 2j, "s", b"b", (1, [2]), {(1, 2): {3}}, frozenset([4]),
            ("a", 1), {"a": 2, "b": 1}, datetime.date(2026, 1, 2), datetime.timedelta(seconds=3),
            fractions.Fraction(1, 3), decimal.Decimal("1.10"), range(3)]
    assert got == want
    assert [type(a) for a in got[:12]] == [type(a) for a in want[:12]]
    assert got[12].name == "a"

def test_objects():
    p = Point(1, y=2)
    assert (p.x, p.y) == (1, 2)
    assert (str(p), f"{p!r}") == ("Point(x=1, y=2)", "Point(x=1, y=2)")
    assert p.__eq__(Point(1, 2)) is True
    assert p != (1, 2)
    assert p.__add__(Point(1, 1)).x == 2
    p.x = 5
    assert p.x == 5
    assert answer.Colour.RED == answer.Colour.RED
    assert answer.Colour.RED.value == 1
    try:
        bool(p)
    except TypeError:
        pass
    else:
        raise AssertionError
    bag = answer.Bag().put(1).put(2)
    assert (len(bag), list(bag), bag[1], 2 in bag) == (2, [1, 2], 2, True)

def test_exceptions():
    try:
        answer.fail()
    except ParseError as error:
        assert isinstance(error, ValueError) and str(error) == "bad" and error.line == 3
    else:
        raise AssertionError
    def breaks():
        raise KeyError("k")
    def breaks_its_way():
        raise ParseError("x")
    assert answer.retry(breaks, KeyError) == "retried"
    assert answer.retry(breaks, (KeyError, OSError)) == "retried"
    assert answer.retry(breaks_its_way, ParseError) == "retried"

def test_arguments():
    xs = [3, 1]
    answer.sort(xs)
    assert xs == [1, 3]
    row = [1]
    answer.grow([row])
    assert row == [1, 9]
    assert answer.total(n for n in range(4)) == 6
    assert list(answer.numbers(3)) == [0, 1, 2]

def test_remote():
    held = remote.hold([2, 1])
    answer.sort(held)
    assert remote.plain(held) == [1, 2]
    remote.keep(answer.rows)[0].append(2)
    assert answer.rows() == [[1, 2]]
    assert remote.printed(answer.shout, "a") == (None, "A\\n")
    assert remote.run(answer.later(1)) == 2
    done = remote.program("sh", "-c", "cat; exit 3", stdin="in")
    assert (done.code, done.out) == (3, "in")
    assert "KEPT" in remote.source
    assert answer.KEPT == [[1, 2]]
"""
    verdict = run_tests(code, tests)
    assert verdict.passed, verdict.why


# --- answers that are tests ----------------------------------------------------------------------------

RIGHT = "def add(a, b):\n    # sums\n    return a + b\n"
MUTANTS = ["def add(a, b):\n    return a - b\n", "def add(a, b):\n    return a\n"]


@needs_sandbox
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("import m\ndef test_a():\n    assert m.add(2, 3) == 5", ""),
        (
            "import unittest, m\nclass T(unittest.TestCase):\n def test(self): self.assertEqual(m.add(2, 3), 5)",
            "",
        ),
        ("import m\ndef test_a():\n    assert m.add(2, 0) == 2", "is accepted"),
        ("import m\ndef test_a():\n    assert m.add(2, 3) == 6", "right version 1 is rejected"),
        ("import m\ndef check(): pass", "is rejected: it holds no tests"),
        ("import os\nos._exit(0)", "right version 1 is rejected"),
        ("import os, m\ndef test_a():\n    if m.add(2, 3) != 5: os._exit(0)", ""),
        (
            f"import inspect, m\ndef test_a():\n    assert inspect.getsource(m.add) == {RIGHT!r}",
            "right version 1 is rejected",
        ),
        (
            "import m\ndef right(a, b):\n    return a + b\n"
            "def test_a():\n    assert m.add.__code__.co_code == right.__code__.co_code",
            "right version 1 is rejected",
        ),
    ],
    ids=["function", "unittest", "weak", "wrong", "none", "leaves", "leaves on fault", "source", "bytecode"],
)
def test_test_files(answer: str, why: str):
    verdict = run_test_file(answer, module="m.py", right=[RIGHT], mutants=MUTANTS)
    assert verdict.passed is (why == "")
    assert why in verdict.why


@needs_sandbox
def test_forged_report_says_the_same_of_every_version():
    for report in ({"ran": 1, "failed": 0}, {"ran": 1, "failed": 1}):
        answer = f"""
import os, json, struct
body = json.dumps({report}).encode()
for fd in range(3, 64):
    try:
        os.write(fd, struct.pack("!I", len(body)) + body)
    except OSError:
        pass
os._exit(0)
"""
        assert not run_test_file(answer, module="m.py", right=[RIGHT], mutants=MUTANTS).passed


def test_rewritten_keeps_the_meaning():
    code = '"""Doc."""\ndef f(x):\n    """Doc."""\n    def g():\n        return x  # why\n    return g()\n'
    space: dict[str, object] = {}
    exec(rewritten(code), space)
    function = space["f"]
    assert callable(function)
    assert (function(3), function.__doc__) == (3, "Doc.")
    assert rewritten(code) != rewritten(code)


# --- no sandbox ----------------------------------------------------------------------------------------


@pytest.fixture
def forgotten():
    """Whether there is a sandbox is found out anew."""
    require_sandbox.cache_clear()
    yield
    require_sandbox.cache_clear()


def test_without_bubblewrap_nothing_runs(forgotten, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotSupported, match="bubblewrap is not installed"):
        run_tests(f"open({str(tmp_path / 'ran')!r}, 'w')", HIDDEN)
    assert not (tmp_path / "ran").exists()


def test_where_namespaces_are_refused_nothing_runs(forgotten, tmp_path, monkeypatch):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotSupported, match=r"no sandbox can be made here \(bwrap: No permissions"):
        run_tests("", HIDDEN)


def test_on_other_systems_nothing_runs(forgotten, monkeypatch):
    monkeypatch.setattr("weigh.quality.sandbox.box.sys.platform", "darwin")
    with pytest.raises(NotSupported, match="Linux alone"):
        run_tests("", HIDDEN)


@needs_sandbox
@pytest.mark.parametrize(
    ("part", "wall"),
    [
        (Part.NETWORK, "it has a network"),
        (Part.PROCESSES, "it sees other processes"),
        (Part.ENVIRONMENT, "it has weigh's variables"),
        (Part.SYSTEM_CALLS, "system calls are not filtered"),
        (Part.SYSTEM_ONLY, "it sees a home"),
    ],
)
def test_a_fallen_wall_is_seen(part: Part, wall: str):
    assert facts() == []
    assert wall in facts(part)


def facts(*parts: Part) -> list[str]:
    with Box("probe", files={}, limits=Limits(), without=frozenset(parts)) as box:
        watch((box,), until=box)
    return fallen_walls(json.loads(box.output))
