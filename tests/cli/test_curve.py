"""Curves as a person asks for them: one figure for two commands, pictures, and what cannot be drawn."""

from __future__ import annotations

import struct
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.cli.test_commands import answer, ask, figures
from weigh.cli.screens.curve import depths, even, short, ticks
from weigh.store import Store

ON = ("--on", "RTX 3090")


def test_a_point_is_what_fit_says(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    (found,) = answer(capsys, "curve", "llama-3.1-8b", *ON, "--context", "16k")["curves"]
    for point in (found["ttft"][2], found["ttft"][-1]):
        asked = ("--prompt", str(point["prompt_tokens"]))
        said = answer(capsys, "fit", "llama-3.1-8b", *ON, "--context", "16k", *asked)
        assert point["ttft_s"] == said["speed"]["ttft_s"]
    for point in (found["decode"][0], found["decode"][5]):
        asked = ("--depth", str(point["depth_tokens"]))
        said = answer(capsys, "fit", "llama-3.1-8b", *ON, "--context", "16k", *asked)
        assert point["decode_tokens_per_s"] == said["speed"]["decode_tokens_per_s"]
    assert len(figures(found)) == len(found["ttft"]) + len(found["decode"])


def test_the_context_grows_with_what_is_asked(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    asked = ("curve", "llama-3.1-8b", *ON, "--prompt-up-to", "64k", "--depth-up-to", "512")
    (found,) = answer(capsys, *asked)["curves"]
    assert found["ttft"][-1]["prompt_tokens"] == 65_536
    assert found["context_tokens"] >= 65_536 + 128
    assert [p["depth_tokens"] for p in found["decode"]] == [0, 64, 128, 256, 512]


def test_models_devices_and_kv_types_go_into_one_picture(
    capsys: pytest.CaptureFixture[str], store: Store
) -> None:
    asked = ("curve", "llama-3.1-8b", "qwen2.5-7b", *ON, "--on", "RTX 4090", "--context", "4k")
    found = answer(capsys, *asked, "--kv-type", "f16", "--kv-type", "q8_0")["curves"]
    assert len({one["label"] for one in found}) == 8
    code, out, err = ask(capsys, *asked, *(["--kv-type", "f16", "--kv-type", "q8_0", "--kv-type", "q4_0"]))
    assert (code, out) == (2, "")
    assert "12 curves are too many" in err


def test_the_picture_in_characters_is_plain_and_narrow(
    capsys: pytest.CaptureFixture[str], store: Store
) -> None:
    code, out, _ = ask(capsys, "curve", "llama-3.1-8b", *ON, "--on", "RTX 4090", "--context", "8k")
    assert code == 0
    assert "\x1b" not in out
    picture = [line for line in out.splitlines() if "│" in line or "─" in line]
    assert len(picture) > 20
    assert max(map(len, picture)) <= 80
    assert "oo NVIDIA GeForce RTX 4090" in out  # told apart without colour
    assert "prompt, tokens" in out
    assert "basis" in out
    assert "80 %" in out


def test_a_png_and_an_svg(capsys: pytest.CaptureFixture[str], store: Store, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    for path in (png, svg):
        code, out, _ = ask(capsys, "curve", "llama-3.1-8b", *ON, "--context", "8k", "--plot", str(path))
        assert code == 0
        assert str(path) in out
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    assert width > 1000 < 3 * height
    assert ET.parse(svg).getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("name", "said"), [("a.pdf", ".png or .svg"), ("a", ".png or .svg"), ("none/a.png", "does not exist")]
)
def test_pictures_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], store: Store, tmp_path: Path, name: str, said: str
) -> None:
    code, out, err = ask(capsys, "curve", "llama-3.1-8b", *ON, "--plot", str(tmp_path / name))
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_without_matplotlib_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = ask(capsys, "curve", "llama-3.1-8b", *ON, "--plot", str(tmp_path / "a.png"))
    assert code == 2
    assert "pip install 'weigh[plot]'" in err


def test_what_does_not_fit_is_not_drawn(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    asked = ("curve", "llama-3.3-70b:Q8_0", "--on", "Raspberry Pi 5 8GB")
    code, out, _ = ask(capsys, *asked)
    assert code == 1
    assert "does not fit" in out
    assert answer(capsys, *asked, code=1)["curves"][0]["ttft"] == []


def test_axes_have_round_numbers() -> None:
    assert ticks(0.02, 3.0, most=6) == pytest.approx([0.03, 0.1, 0.3, 1.0, 3.0])
    assert ticks(1.2, 1.4, most=6) == [1.2, 1.4]
    assert even(168, most=5) == [0, 50, 100, 150]
    assert depths(32_640)[:3] == [0, 4096, 8192]
    assert len(depths(1_000_000)) <= 9
    assert depths(3) == [0, 1, 2, 3]
    assert [short(n) for n in (64, 1024, 1536, 131_072)] == ["64", "1k", "1.5k", "128k"]


def test_a_model_that_writes_nothing_has_no_curve(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    code, out, _ = ask(capsys, "curve", "BAAI/bge-m3", *ON)
    assert code == 1
    assert "writes no tokens" in out
