"""Hostile and odd `config.json` files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.case import Case, written

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 300,
    "max_position_embeddings": 4096,
}
# Embedding and output of 300 x 256; per layer two norms and seven matrices; a last norm.
TINY = {
    "parameters": 2 * 300 * 256 + 2 * (512 + 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512) + 256,
    "layers": 2,
}
_ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\nsecond line\u202e\ud800"


def cases() -> Iterator[Case]:
    yield from _not_json()
    yield from _fields()
    yield from _giants()
    yield from _places()
    yield from _sound()


def _case(name: str, data: bytes | dict[str, object], says: str) -> Case:
    return Case(f"config: {name}", _made(data), says)


def _made(data: bytes | dict[str, object]) -> Callable[[Path], str]:
    return written("config.json", data if isinstance(data, bytes) else json.dumps(data).encode())


def _raw(field: str, value: str) -> bytes:
    """The config with one field's JSON written by hand."""
    fields = {key: json.dumps(v) for key, v in LLAMA.items()} | {field: value}
    return ("{" + ",".join(f'"{key}":{v}' for key, v in fields.items()) + "}").encode()


def _not_json() -> Iterator[Case]:
    for name, data in (
        ("empty", b""),
        ("blanks", b" \n" * 100),
        ("a lone brace", b"{"),
        ("cut", json.dumps(LLAMA).encode()[:-5]),
        ("two objects", b"{}{}"),
        ("not UTF-8", b'{"model_type": "\xff\xfe"}'),
        ("UTF-16", json.dumps(LLAMA).encode("utf-16")),
        ("a byte order mark", b"\xef\xbb\xbf" + json.dumps(LLAMA).encode()),
        ("zeros", bytes(4096)),
        ("a pickle", b"\x80\x02cos\nsystem\n(S'id'\ntR."),
        ("a comma too many", b'{"model_type": "llama",}'),
        ("names without quotes", b"{model_type: 'llama'}"),
        ("comments", b'{/* */"model_type": "llama"}'),
        ("control characters in a text", b'{"model_type": "ll\x1bama"}'),
        ("lists a hundred thousand deep", b"[" * 100_000 + b"]" * 100_000),
        ("objects a hundred thousand deep", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        ("lists never closed", b"[" * 1_000_000),
        ("NaN", _raw("num_hidden_layers", "NaN")),
        ("Infinity", _raw("num_hidden_layers", "Infinity")),
        ("minus Infinity", _raw("num_hidden_layers", "-Infinity")),
        ("a number of a million digits", _raw("num_hidden_layers", "9" * 1_000_000)),
    ):
        yield _case(f"not JSON: {name}", data, "JSON|config|larger")
    for name, data in (("a list", b"[1, 2]"), ("a text", b'"llama"'), ("a number", b"7"), ("null", b"null")):
        yield _case(f"no object: {name}", data, "object")
    yield _case("a name twice", b'{"model_type": "llama", "model_type": "gpt2"}', "twice|missing")


def _fields() -> Iterator[Case]:
    """Values that no model has; each line names what is wrong."""
    needed = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "intermediate_size")
    for field in needed:
        for value in (
            "-1",
            "0",
            "2.5",
            "1e999",
            "1e300",
            '"8"',
            "[8]",
            "{}",
            "4" + "0" * 40,
            "18446744073709551616",
        ):
            yield _case(f"{field} is {value[:24]}", _raw(field, value), f"{field}|attn_q")
        yield _case(f"no {field}", {k: v for k, v in LLAMA.items() if k != field}, f"{field}|attn_q")
    for value in ("-1", "2.5", '"2"', "[2]", "3", "8"):
        yield _case(f"num_key_value_heads is {value}", _raw("num_key_value_heads", value), "key.value.heads")
    for value in ("1e999", "-1e999", '"a"', "[1]", "-64", "1e30", "0"):
        yield _case(f"head_dim is {value}", _raw("head_dim", value), "head_dim")
    for name, value in (
        ("escapes", json.dumps(_ESCAPES)),
        ("a number", "5"),
        ("a list", '["llama"]'),
        ("null", "null"),
        ("nothing", '""'),
        ("a path", '"../../etc/passwd"'),
        ("a format directive", '"{0.__class__}"'),
        ("ten thousand letters", json.dumps("a" * 10_000)),
        ("a name Python has", '"__class__"'),
    ):
        yield _case(f"model_type is {name}", _raw("model_type", value), "model_type|not known|config")
    for name, section in (("a list", [1]), ("a text", "x"), ("empty", {}), ("itself", {"text_config": {}})):
        inner = {"model_type": "gemma3", "text_config": section}
        yield _case(f"text_config is {name}", inner, "num_hidden_layers")
    for name, rope in (("a text", "x"), ("a list", [1, 2]), ("numbers", {"rope_type": 5, "factor": "x"})):
        yield _case(f"rope_scaling is {name}", LLAMA | {"rope_scaling": rope}, "rope")
    for name, rope in (("escapes", {"rope_type": _ESCAPES, "factor": 2}), ("empty", {}), ("null", None)):
        # sizes do not hang on it
        yield Case(f"config: rope_scaling is {name}", _made(LLAMA | {"rope_scaling": rope}), shows=TINY)
    yield _case("4,000 experts of a billion", LLAMA | _experts(4_000, 1_000_000_000), "moe_intermediate_size")
    yield _case("minus eight experts", LLAMA | _experts(-8, 256), "num_experts")
    for value in (1 << 31, 10**9, 10**6, 5000):
        yield _case(f"{value} layers", LLAMA | {"num_hidden_layers": value}, "layer")


def _experts(count: int, width: int) -> dict[str, object]:
    return {
        "model_type": "qwen3_moe",
        "num_experts": count,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": width,
    }


def _giants() -> Iterator[Case]:
    fields = json.dumps(LLAMA)[:-1].encode()

    def case(name: str, data: Callable[[], bytes], says: str) -> Case:
        return Case(f"config: giant: {name}", written("config.json", data), says, {} if says else TINY)

    yield case("two million numbers", lambda: fields + b',"x":[' + b"1," * 2_000_000 + b"1]}", "larger")
    yield case("two million objects", lambda: fields + b',"x":[' + b"{}," * 2_000_000 + b"1]}", "larger")
    yield case("two million fields", lambda: fields + b',"k":1' * 1_100_000 + b"}", "larger")
    wide = "\U0001f600".encode()
    yield case("7 MB of wide letters", lambda: fields + b',"x":"' + wide * 1_900_000 + b'"}', "larger")
    yield case("9 MB of blanks", lambda: fields + b" " * 9_000_000 + b"}", "longer")
    hole = written("config.json", b"{", size=10**12)
    yield Case("config: giant: a terabyte", hole, "longer|larger|config")
    many = range(500_000)
    yield case(
        "half a million fields that say nothing",
        lambda: fields + b"".join(b',"k%d":1' % i for i in many) + b"}",
        "",
    )
    kinds = LLAMA | {"layer_types": ["full_attention"] * 200_000}
    yield case("200,000 kinds of layers that nobody reads", lambda: json.dumps(kinds).encode(), "")


def _places() -> Iterator[Case]:
    def linked(target: str) -> Callable[[Path], str]:
        def make(folder: Path) -> str:
            (folder / "config.json").symlink_to(target)
            return str(folder / "config.json")

        return make

    def folder_of(name: str) -> Callable[[Path], str]:
        def make(folder: Path) -> str:
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(json.dumps({"model_type": "none"}))
            return str(folder / name)

        return make

    yield Case("config: place: a link to /dev/zero", linked("/dev/zero"), "device|exist|config")
    yield Case("config: place: a link to itself", linked("config.json"), "exist|cannot be read")
    yield Case("config: place: a link to a secret", linked("/etc/hostname"), "JSON|config|link|device")
    yield Case("config: place: a folder with escapes in its name", folder_of("a\x1b[31m\nb"), "not known")


def _sound() -> Iterator[Case]:
    yield Case("config: odd: as usual", _made(dict(LLAMA)), shows=TINY)
    extra = LLAMA | {"auto_map": {"AutoModel": "evil.Model"}, "torch_dtype": _ESCAPES[:-1], "x": [[[[]]]]}
    yield Case("config: odd: fields that would run code elsewhere", _made(extra), shows=TINY)
    blanks = b"\n\t " + json.dumps(LLAMA).encode() + b"\n \n"
    yield Case("config: odd: blanks around it", _made(blanks), shows=TINY)
    escaped = _raw("model_type", '"\\u006clama"')
    yield Case("config: odd: letters as escapes", _made(escaped), shows=TINY)

    def odd_folder(folder: Path) -> str:
        (folder / "m\x1b[31m\r\nn").mkdir()
        (folder / "m\x1b[31m\r\nn" / "config.json").write_text(json.dumps(LLAMA))
        return str(folder / "m\x1b[31m\r\nn")

    yield Case("config: odd: escapes in its folder's name", odd_folder, shows=TINY)
