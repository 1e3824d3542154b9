"""A page that stands alone: well formed, without script or network, whatever models are called."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.store.quality import DIVERGED, ON_CODE, ON_TASKS, later
from tests.store.samples import bench, faster
from weigh.cli import main
from weigh.machine import probe
from weigh.store import Store
from weigh.store.exchange import take_in
from weigh.store.measurement import Measured, save
from weigh.store.quality_result import save as save_quality

FOREIGN = Path(__file__).parents[1] / "store" / "foreign"
VOID = {"meta"}


class Page(HTMLParser):
    """Every element that opens closes; what it is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def at_depths(fingerprint: str, **changes: object) -> object:
    decode = tuple(
        Measured("decode_tokens_per_s", "tokens/s", (s, s + 0.1, s + 0.2, s + 0.3), {"depth_tokens": depth})
        for depth, s in ((0, 10.0), (1024, 9.0), (4096, 7.0))
    )
    gaps = Measured("itl_s", "s", tuple(0.1 + 0.001 * n for n in range(100)), {})
    memory = Measured("peak_memory_bytes", "bytes", (2.0**32,), {})
    turns = [{"began_s": 1.0, "requests": [{"token_times_s": [0.1, 0.2, 0.35]}]}]
    return bench(measured=(*decode, gaps, memory), fingerprint=fingerprint, raw={"turns": turns}, **changes)


def written(tmp_path: Path, *arguments: str) -> str:
    path = tmp_path / "report.html"
    assert main(["report", str(path), *arguments]) == 0
    return path.read_text(encoding="utf-8")


def test_the_page_is_whole_and_needs_nothing_else(store: Store, tmp_path: Path) -> None:
    here = probe().fingerprint
    save(store, at_depths(here))  # type: ignore[arg-type]
    save(store, faster(1.5, 9, fingerprint=here))
    take_in(store, FOREIGN / "guidellm.json", "Ada")
    text = written(tmp_path, "--all-origins")
    page = Page(text)
    assert page.tags.count("section") == 3
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "onload", "onclick", "style")]
    links = {value for name, value in page.attributes if name == "href"}
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {f"#{name}" for name in ids} >= links
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert "from the file guidellm.json" in text


def test_charts_are_drawings_with_words_for_those_who_do_not_see_them(store: Store, tmp_path: Path) -> None:
    save(store, at_depths(probe().fingerprint))  # type: ignore[arg-type]
    take_in(store, FOREIGN / "guidellm.json", "Ada")
    charts = re.findall(r"<svg.*?</svg>", written(tmp_path, "--all-origins"), re.DOTALL)
    titles = []
    for chart in charts:
        root = ElementTree.fromstring(chart)  # well formed
        title, description = root[0], root[1]
        assert (title.tag, description.tag, root.attrib["role"]) == ("title", "desc", "img")
        assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], description.attrib["id"]]
        assert description.text
        titles.append(title.text)
        assert "nan" not in chart
    assert titles == [
        "Requests over time",
        "Decode speed over depth",
        "Memory",
        "Gaps between tokens over time",
    ]
    line = next(c for c in charts if "Decode speed" in c)
    assert line.count("<circle") == 3


def test_names_are_words_and_never_markup(store: Store, tmp_path: Path) -> None:
    evil = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
    odd = Measured(evil, evil, (1.0, 2.0, 3.0), {evil: evil, "depth_tokens": "x" * 200})
    raw = {"levels": [{"name": evil, "requests": [{"sent_s": 0, "ended_s": 1, "failure": evil}]}]}
    save(
        store,
        bench(
            kind="load",
            fingerprint="",
            model=evil,
            engine=evil,
            cpu=evil,
            problems=(evil,),
            settings={evil: evil},
            command=(evil,),
            measured=(odd,),
            raw=raw,
        ),
    )
    text = written(tmp_path)
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert evil in "".join(page.words)
    for chart in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(chart)


ODD_RAW = [
    {"levels": 7},
    {"levels": [7, {}, {"requests": 7}, {"requests": [7, {}, {"sent_s": "x"}, {"sent_s": 2, "ended_s": 1}]}]},
    {"requests": [{"sent_unix_s": 1e14, "ended_unix_s": 1e14, "first_token_unix_s": 0}]},
    {"turns": 7},
    {"turns": [7, {"began_s": -1, "requests": [{"token_times_s": [3, 2, None, "x"]}]}]},
    {"turns": [{"began_s": 0, "requests": [{"token_times_s": [0, 0, 0]}]}]},
]


@pytest.mark.parametrize("number", range(len(ODD_RAW)))
def test_odd_raw_events_are_left_out(store: Store, tmp_path: Path, number: int) -> None:
    save(store, bench(fingerprint="", raw=ODD_RAW[number]))
    Page(written(tmp_path))


def test_only_this_machine_s_are_reported_unless_named(
    capsys: pytest.CaptureFixture[str], store: Store, tmp_path: Path
) -> None:
    elsewhere = bench(fingerprint="another")
    save(store, elsewhere)
    assert main(["report", str(tmp_path / "r.html")]) == 1
    assert "nothing was measured yet" in capsys.readouterr().out
    assert not (tmp_path / "r.html").exists()
    assert "Model-1B" in written(tmp_path, elsewhere.id[:8])


@pytest.mark.parametrize(
    ("file", "says"), [("r.pdf", "end the name in .html"), ("no/such/r.html", "cannot be written")]
)
def test_bad_files_get_one_clear_line(
    capsys: pytest.CaptureFixture[str],
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save(store, bench(fingerprint=""))
    assert main(["report", file]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_measured_quality_has_a_table_and_is_a_report_alone(store: Store, tmp_path: Path) -> None:
    hostile = replace(ON_CODE.model, name="<script>alert(1)</script>")
    save_quality(store, [DIVERGED, ON_TASKS, later(ON_CODE, 5, model=hostile)])
    page = Page(written(tmp_path))
    assert "script" not in page.tags
    words = " ".join(page.words)
    assert "text prose, against Model-1B:F16" in words
    assert "pass@1 debugging" in words
    assert "50 (30–70) %" in words
    assert words.count("perplexity 2026-09-21 14:13 9.5") == 1  # without an interval
    assert page.tags.count("tr") == 1 + sum(len(one.measures) for one in (DIVERGED, ON_TASKS, ON_CODE))
