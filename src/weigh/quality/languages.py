"""Programming languages by the endings of their files, and how their comment lines begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

_HASH, _SLASHES, _DASHES, _PERCENT = ("#",), ("//", "/*", "*"), ("--",), ("%",)


@dataclass(frozen=True, slots=True)
class Language:
    """`comments`: what a line begins with that says nothing to the computer."""

    name: str
    comments: tuple[str, ...]

    def is_comment(self, line: str) -> bool:
        return line.lstrip().startswith(self.comments)


_ENDINGS: Mapping[tuple[str, tuple[str, ...]], str] = {
    ("Python", (*_HASH, '"""', "'''")): ".py .pyi .pyx",
    ("JavaScript", _SLASHES): ".js .mjs .cjs .jsx",
    ("TypeScript", _SLASHES): ".ts .tsx .mts .cts",
    ("Java", _SLASHES): ".java",
    ("Kotlin", _SLASHES): ".kt .kts",
    ("C", _SLASHES): ".c .h",
    ("C++", _SLASHES): ".cc .cpp .cxx .hpp .hh .hxx .ipp .cu .cuh",
    ("C#", _SLASHES): ".cs",
    ("F#", _SLASHES): ".fs",
    ("Go", _SLASHES): ".go",
    ("Rust", _SLASHES): ".rs",
    ("Ruby", _HASH): ".rb .rake",
    ("PHP", (*_SLASHES, "#")): ".php",
    ("Swift", _SLASHES): ".swift",
    ("Objective-C", _SLASHES): ".m .mm",
    ("Scala", _SLASHES): ".scala .sc",
    ("Groovy", _SLASHES): ".groovy .gradle",
    ("Dart", _SLASHES): ".dart",
    ("Zig", _SLASHES): ".zig",
    ("Nim", _HASH): ".nim",
    ("Shell", _HASH): ".sh .bash .zsh",
    ("PowerShell", _HASH): ".ps1 .psm1",
    ("Perl", _HASH): ".pl .pm",
    ("Lua", _DASHES): ".lua",
    ("R", _HASH): ".r",
    ("Julia", _HASH): ".jl",
    ("Haskell", (*_DASHES, "{-")): ".hs",
    ("OCaml", ("(*",)): ".ml .mli",
    ("Elixir", _HASH): ".ex .exs",
    ("Erlang", _PERCENT): ".erl .hrl",
    ("Clojure", (";",)): ".clj .cljs .cljc",
    ("Lisp", (";",)): ".lisp .el .scm",
    ("SQL", _DASHES): ".sql",
    ("Fortran", ("!",)): ".f90 .f95 .f03",
    ("Verilog", _SLASHES): ".v .sv",
    ("VHDL", _DASHES): ".vhd .vhdl",
    ("Terraform", (*_HASH, "//")): ".tf",
    ("Vue", (*_SLASHES, "<!--")): ".vue",
    ("Svelte", (*_SLASHES, "<!--")): ".svelte",
    ("CSS", _SLASHES): ".css .scss .less",
}
_BY_ENDING = {
    ending: Language(name, comments)
    for (name, comments), endings in _ENDINGS.items()
    for ending in endings.split()
}


def language_of(path: str) -> Language | None:
    """By the file's name alone; None for what is no source code, or none that is known."""
    return _BY_ENDING.get(PurePosixPath(path).suffix.lower())
