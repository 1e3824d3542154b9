"""What the logs tell, as the table of docs/ladder.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

HEAD = (
    "| model | parameters | tokens | nats per token | bits per byte | minutes | CPU minutes |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def table(logs: Path) -> str:
    """One row for each branch that has ended, by size and tokens."""
    rows = sorted(row for path in logs.glob("*.jsonl") for row in _rows(path))
    return "\n".join([HEAD, *(text for *_, text in rows)])


def _rows(path: Path) -> Iterator[tuple[int, str, int, str]]:
    header, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if "end" in line:
            yield (
                header["parameters"],
                header["run"],
                line["tokens"],
                f"| {header['run']} | {header['parameters']:,} | {line['tokens']:,} "
                f"| {line['nats_per_token']:.4f} ± {line['nats_per_token_standard_error']:.4f} "
                f"| {line['bits_per_byte']:.4f} | {line['wall_s'] / 60:.1f} | {line['cpu_s'] / 60:.1f} |",
            )
