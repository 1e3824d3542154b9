"""Feeds a reader changed inputs by the million and fails on anything but a clean refusal.

    python fuzz/run.py gguf --runs 1000000
    python fuzz/run.py all --runs 100000

What fails: any exception that is not a `WeighError`, an execution of more than a second of processor time,
200 MB more memory than before the first. The input is kept in `fuzz/crashes`, and can be given as
`--input`. With atheris installed, changes are led by what they make the reader do; without, they are random.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
if str(HERE.parent) not in sys.path:
    sys.path.insert(0, str(HERE.parent))  # the seeds come from the tests

from fuzz.targets import SPLIT, TARGETS, Target  # noqa: E402

MOST_CPU_S = 1.0
MOST_BYTES = 200 << 20


class Failed(Exception):
    """A reader did what it must not."""


def main() -> int:
    options = _options()
    if options.input:
        TARGETS[options.target].run(options.input.read_bytes())
        return 0
    if options.inside:
        _fuzz(options.target, options.runs, options.seed, plain=options.plain)
        return 0
    names = list(TARGETS) if options.target == "all" else [options.target]
    return max(_watched(name, options) for name in names)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="random changes, even with atheris")
    parser.add_argument("--input", type=Path, help="run one input only")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _watched(name: str, options: argparse.Namespace) -> int:
    """Fuzz in a child, whose time and memory the system counts; prints one line."""
    command = [sys.executable, __file__, name, "--inside", f"--runs={options.runs}", f"--seed={options.seed}"]
    began = time.monotonic()
    memory = Path("/dev/shm")  # a disk there is quicker, where there is one
    with (
        tempfile.TemporaryFile("w+") as said,
        tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if memory.is_dir() else None) as scratch,
    ):
        where = os.environ | {"TMPDIR": scratch}
        child = subprocess.Popen(command + ["--plain"] * options.plain, stdout=said, stderr=said, env=where)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        output = said.read()
    done = re.findall(r"^(?:Done|#)\s*(\d+)\b", output, re.MULTILINE)
    failed = child.returncode != 0
    print(
        f"{'FAILED' if failed else 'clean':7} {name:12} {int(done[-1]) if done else 0:>9,} executions"
        f" in {time.monotonic() - began:,.0f} s ({usage.ru_utime + usage.ru_stime:,.0f} s of processor time),"
        f" peak {usage.ru_maxrss / 1024:,.0f} MB with the fuzzer,"
        f" {' '.join(re.findall(r'^most: (.*)', output, re.MULTILINE)[-1:])}",
        flush=True,
    )
    if failed:
        print(output[-3000:])
    return int(failed)


def _fuzz(name: str, runs: int, seed: int, *, plain: bool) -> None:
    try:
        import atheris
    except ImportError:
        plain = True
    if plain:
        _plain(name, runs, seed)
        return
    with atheris.instrument_imports(include=["weigh"], enable_loader_override=False):
        target = _warm(name)
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    for i, data in enumerate(target.seeds()):
        (folder / f"{i:04}").write_bytes(data[: target.most_bytes])
    words = folder.with_suffix(".words")
    words.write_text("".join(f'"{_hexed(word)}"\n' for word in target.words))
    arguments = [f"-runs={runs}", f"-seed={seed}", f"-max_len={target.most_bytes}", f"-dict={words}"]
    arguments += ["-timeout=60", "-rss_limit_mb=0", f"-artifact_prefix={folder}/", "-print_final_stats=1"]

    def changed(data: bytes, most_bytes: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.7:
            return _retell(chance, data, target.words)[:most_bytes]
        return atheris.Mutate(data, most_bytes)

    told = any(seed.lstrip()[:1] == b"{" or seed[8:9] == b"{" for seed in target.seeds())
    more = {"custom_mutator": changed} if told else {}
    atheris.Setup([name, *arguments, str(folder)], guarded(name, target), **more)
    atheris.Fuzz()


def _hexed(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _warm(name: str) -> Target:
    """The target, once through its seeds: what is imported and read once is not the inputs' doing."""
    from weigh.errors import WeighError

    target = TARGETS[name]
    for data in target.seeds():
        with contextlib.suppress(WeighError):
            target.run(data)
    return target


def guarded(name: str, target: Target) -> Callable[[bytes], None]:
    """The target with its limits."""
    from weigh.errors import WeighError

    _forget_peak()
    baseline = _peak_bytes()
    slowest = grown = 0.0
    count = 0

    def run(data: bytes) -> None:
        nonlocal slowest, grown, count
        began = time.process_time()
        try:
            target.run(data)
        except WeighError as error:
            if not error.message.isprintable() or "\n" in error.message:
                raise Failed(f"prints what a terminal obeys: {_kept(name, data)}") from error
        except RecursionError as error:
            raise Failed(f"nests too deep: {_kept(name, data)}") from error
        except Exception:
            _kept(name, data)
            raise
        taken = time.process_time() - began
        slowest, count = max(slowest, taken), count + 1
        if count % 1000 == 0 or taken > MOST_CPU_S:
            grown = max(grown, _peak_bytes() - baseline)
            print(f"most: {slowest:.3f} s, {grown / 2**20:.0f} MB more than at first", flush=True)
        if taken > MOST_CPU_S:
            raise Failed(f"took {taken:.1f} s: {_kept(name, data)}")
        if grown > MOST_BYTES:
            raise Failed(f"took {grown / 2**20:.0f} MB: {_kept(name, data)}")

    return run


def _forget_peak() -> None:
    """Begin the peak anew: what the seeds took to make is not the reader's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _kept(name: str, data: bytes) -> Path:
    folder = HERE / "crashes"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


# --- without atheris -------------------------------------------------------------------------------------


def _plain(name: str, runs: int, seed: int) -> None:
    target = _warm(name)
    run = guarded(name, target)
    for number, data in enumerate(mutations(target, seed), 1):
        run(data)
        if number % 1000 == 0 or number == runs:
            print(f"# {number}", flush=True)
        if number == runs:
            return


def mutations(target: Target, seed: int) -> Iterator[bytes]:
    """Changed seeds without end, the same ones for the same number."""
    chance = random.Random(seed)
    seeds = target.seeds()
    while True:
        data = chance.choice(seeds)
        for _ in range(chance.choice((1, 1, 2, 3, 8))):
            data = chance.choice(_CHANGES)(chance, data, target.words)
        yield data[: target.most_bytes]


def _flip(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    if not data:
        return b"\0"
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _replace(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    word, at = chance.choice(words), chance.randrange(len(data) + 1)
    return data[:at] + word + data[at + len(word) :]


def _insert(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice((*words, chance.randbytes(chance.randrange(1, 9)))) + data[at:]


def _cut(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + data[at + chance.randrange(1, 65) :]


def _repeat(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    piece = data[at : at + chance.randrange(1, 65)]
    return data[:at] + piece * chance.choice((2, 3, 50)) + data[at + len(piece) :]


def _number(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    """Another number in the place of one that is written out."""
    found = list(re.finditer(rb"-?\d+", data))
    if not found:
        return _flip(chance, data, words)
    old = chance.choice(found)
    new = chance.choice((0, -1, 1, 3, 255, 1 << 31, 1 << 63, 1 << 64, 10**30, chance.randrange(1 << 20)))
    return data[: old.start()] + str(new).encode() + data[old.end() :]


def _retell(chance: random.Random, data: bytes, words: Sequence[bytes]) -> bytes:
    """Another value, name or member somewhere in the JSON of the input, which stays JSON.

    Of several files one is changed; a safetensors header gets the length it then has.
    """
    parts = data.split(SPLIT)
    i = chance.randrange(len(parts))
    framed = parts[i][8:9] == b"{"
    length = int.from_bytes(parts[i][:8], "little") if framed else len(parts[i])
    try:
        value = json.loads(parts[i][8 * framed :][:length])
    except (ValueError, RecursionError):
        return _flip(chance, data, words)
    texts = [word.decode()[1:-1] for word in words if word[:1] == word[-1:] == b'"' and len(word) > 2]
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        _change_member(chance, value, texts)
    raw = json.dumps(value).encode()
    parts[i] = len(raw).to_bytes(8, "little") + raw + parts[i][8 + length :] if framed else raw
    return SPLIT.join(parts)


def _change_member(chance: random.Random, value: object, texts: Sequence[str]) -> None:
    places = list(_places(value))
    if not places:
        return
    holder, key = chance.choice(places)
    match chance.randrange(6):
        case 0:
            del holder[key]
        case 1:
            other, name = chance.choice(places)
            holder[key] = json.loads(json.dumps(other[name])) if len(places) < 500 else None
        case 2 if isinstance(holder, dict):
            holder[chance.choice((*texts, "", "x"))] = holder.pop(key)
        case 3 if isinstance(holder, list):
            holder[key:key] = [holder[key]] * chance.choice((1, 2, 20))
        case 4 if type(holder[key]) is int:
            holder[key] += chance.choice((-1, 1, 8, -8, holder[key], 1 << 16))
        case _:
            holder[key] = chance.choice((*_VALUES, *texts))


_VALUES = (
    None,
    True,
    False,
    0,
    1,
    2,
    3,
    4,
    8,
    64,
    255,
    4096,
    -1,
    1 << 31,
    1 << 63,
    10**30,
    0.5,
    1e308,
    "",
    "a",
)
_VALUES += ("0", "../x", "\x1b[31m", "\ud800", (), (0,), (1, 2, 3), ((),), {"a": 1})


def _places(value: object) -> Iterator[tuple[Any, Any]]:
    """Every member of every object and list inside: what holds it, and its name or number there."""
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        names = (
            holder.keys()
            if isinstance(holder, dict)
            else range(len(holder))
            if isinstance(holder, list)
            else ()
        )
        for name in names:
            yield holder, name
            waiting.append(holder[name])


_CHANGES = (_flip, _replace, _insert, _cut, _repeat, _number, _retell, _retell)

if __name__ == "__main__":
    sys.exit(main())
