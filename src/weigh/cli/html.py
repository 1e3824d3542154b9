"""Pages of HTML that need nothing else: no network, no script; what they are told is escaped."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #57606a; --rule: #d0d7de;
  --c0: #0550ae; --c1: #b35900; --c2: #116329; --c3: #8250df; --c4: #a40e26; --c5: #0b7285; --c6: #6f4e37;
  --c7: #57606a; --pale: #a5c8f0; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --faint: #9da7b1;
  --rule: #3d444d; --c0: #79c0ff; --c1: #ffa657; --c2: #7ee787; --c3: #d2a8ff; --c4: #ff9492; --c5: #76e3ea;
  --c6: #d6b48c; --c7: #b1bac4; --pale: #2f5580; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 70rem; padding: 1rem 1.5rem 4rem; }
h1, h2, h3 { line-height: 1.25; } h2 { border-top: 1px solid var(--rule); margin-top: 3rem; padding-top: 1rem; }
a { color: var(--c0); } .faint { color: var(--faint); }
.doubt { border-left: 4px solid var(--c4); padding-left: .7rem; }
.whole { white-space: nowrap; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .5rem 0; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
td.n, th.n { text-align: right; white-space: nowrap; } code { overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; } figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { display: block; max-width: 44rem; width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 11px; }
svg .mid { text-anchor: middle; } svg .end { text-anchor: end; } svg .grid { stroke: var(--rule); }
svg .line { fill: none; stroke: currentColor; stroke-width: 2; } svg .dot { fill: currentColor; stroke: currentColor; }
svg .open { fill: var(--paper); stroke-width: 2; } svg .bar, svg .tokens { fill: var(--c0); }
svg .wait { fill: var(--pale); } svg .failed { fill: none; stroke: var(--c4); stroke-dasharray: 3 2; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.c4 { color: var(--c4); } .c5 { color: var(--c5); } .c6 { color: var(--c6); } .c7 { color: var(--c7); }
@media print { section { break-inside: avoid-page; } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, parts: Iterable[str]) -> str:
    """The whole page; `parts` are HTML already."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Container[int] = ()
) -> str:
    """Cells are HTML already; `numbers` are the places of columns that hold them."""
    kinds = [' class="n"' if place in numbers else "" for place in range(len(heads))]
    head = "".join(
        f'<th scope="col"{kind}>{text(name)}</th>' for name, kind in zip(heads, kinds, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    said_above = f"<caption>{text(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{said_above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Names on the left; what stands beside them is HTML already."""
    cells = "".join(f'<tr><th scope="row">{text(name)}</th><td>{cell}</td></tr>' for name, cell in rows)
    return f'<div class="wide"><table><tbody>{cells}</tbody></table></div>'


def text(words: str) -> str:
    """Anything as what it says."""
    return escape(words, quote=True)
