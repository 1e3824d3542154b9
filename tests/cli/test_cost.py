"""Money and energy as a person asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_commands import answer, ask, figures
from weigh.store import Store

ASKED = ("cost", "llama-3.1-8b:Q4_K_M", "--on", "RTX 3090", "--price", "1800", "--currency", "EUR")


def test_money_per_million_tokens(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    found = answer(capsys, *ASKED, "--lifetime", "18m", "--electricity", "0.30", "--watts", "400")
    speed = answer(capsys, "fit", "llama-3.1-8b:Q4_K_M", "--on", "RTX 3090")["speed"]
    per_s = speed["decode_tokens_per_s"]["value"]
    written = found["cost"]["written"]
    assert written["hardware"]["value"] == pytest.approx(1800 / (1.5 * 365.25 * 86_400) / per_s * 1e6)
    assert written["electricity"]["value"] == pytest.approx(0.4 / 3600 * 0.30 / per_s * 1e6)
    assert written["total"]["unit"] == "EUR per million tokens"
    assert found["energy"]["decode_joules_per_token"]["value"] == pytest.approx(400 / per_s)
    assert len(figures(found)) >= 10


def test_an_api_the_user_names(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    found = answer(
        capsys, *ASKED, "--electricity", "0.3", "--api", "theirs=1/2", "--prompt", "300", "--output", "100"
    )
    (api,) = found["apis"]
    assert api["per_million_mixed"] == pytest.approx(1.25)
    assert api["break_even_tokens_per_day"] > 0
    code, out, _ = ask(capsys, *ASKED, "--electricity", "0.3", "--api", "theirs=1/2")
    assert code == 0
    assert "tokens a day on" in out
    assert "rule-of-thumb" in out  # power by share of TDP is marked as such


def test_prices_kept_by_the_user(
    capsys: pytest.CaptureFixture[str], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('[theirs]\ninput = 1\noutput = 2\nsource = "its site"\ndate = "2026-11-01"\n')
    monkeypatch.setenv("WEIGH_PRICES", str(path))
    _, out, _ = ask(capsys, *ASKED, "--api", "theirs")
    assert "(its site 2026-11-01)" in out


def test_what_is_not_said_is_not_counted(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    found = answer(capsys, *ASKED)
    assert found["cost"]["written"]["electricity"] is None
    _, out, _ = ask(capsys, *ASKED)
    assert "Electricity  not counted: its price was not said" in out
    used = answer(capsys, "cost", "llama-3.1-8b:Q4_K_M", "--on", "RTX 3090", "--electricity", "0.3")
    assert used["cost"]["written"]["hardware"]["value"] == 0
    assert used["cost"]["written"]["electricity"]["value"] > 0


def test_unknown_power_asks_for_watts(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    asked = ("cost", "llama-3.1-8b", "--on", "M4 Max 64GB", "--price", "4000", "--electricity", "0.3")
    code, out, _ = ask(capsys, *asked)
    assert code == 0
    assert "say --watts" in out
    assert answer(capsys, *asked)["energy"]["decode_joules_per_token"] is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--lifetime", "soon"), "not a lifetime"),
        (("--lifetime", "0y"), "not a lifetime"),
        (("--hours-per-day", "30"), "at most 24"),
        (("--api", "theirs=cheap"), "NAME=IN/OUT"),
        (("--api", "nobody"), "unknown API `nobody`"),
        (("--price", "-1"), "0"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str],
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setenv("WEIGH_PRICES", str(tmp_path / "none.toml"))
    code, out, err = ask(capsys, *ASKED, *wrong)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_what_does_not_fit_has_no_price(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    asked = ("cost", "llama-3.3-70b:Q8_0", "--on", "Raspberry Pi 5 8GB", "--price", "90")
    code, out, _ = ask(capsys, *asked)
    assert code == 1
    assert "does not fit" in out
    assert answer(capsys, *asked, code=1)["cost"] is None
