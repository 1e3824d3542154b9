"""Drafts, a cached prompt and KV types, asked of `fit`."""

from __future__ import annotations

import pytest

from tests.cli.test_commands import answer, ask, figures
from weigh.store import Store

ASKED = ("fit", "llama-3.1-8b:Q4_K_M", "--on", "RTX 3090", "--context", "8k")


def test_a_draft_at_an_acceptance_rate(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    found = answer(capsys, *ASKED, "--draft", "llama-3.2-1b", "--acceptance", "0.8", "--draft-tokens", "4")
    drafts = found["speculative"]
    (one,) = drafts["rounds"]
    assert drafts["draft"]["model"] == "meta-llama/Llama-3.2-1B-Instruct"
    assert one["tokens"]["value"] == pytest.approx(1 + 0.8 + 0.64 + 0.512 + 0.4096)
    round_s = one["draft_s"]["value"] + one["verify_s"]["value"]
    assert one["decode_tokens_per_s"]["value"] == pytest.approx(one["tokens"]["value"] / round_s)
    plain = found["speed"]["decode_tokens_per_s"]["value"]
    assert one["speedup"]["value"] == pytest.approx(one["decode_tokens_per_s"]["value"] / plain)
    assert "--spec-draft-n-max 4" in " ".join(drafts["arguments"])
    assert figures(drafts)


def test_without_a_rate_a_grid_is_shown(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    _, out, _ = ask(capsys, *ASKED, "--draft", "ngram")
    for rate in ("50%", "70%", "90%"):
        assert rate in out
    assert "measure it" in out
    assert "--spec-type ngram-simple" in out


def test_the_exit_code_is_of_both_models(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    asked = ("fit", "llama-3.1-8b:Q4_K_M", "--on", "CPU only, 8GB")
    assert ask(capsys, *asked)[0] == 0
    code, out, _ = ask(capsys, *asked, "--draft", "llama-3.2-3b:Q8_0")
    assert code == 1
    assert "does not fit" in out


def test_a_cached_prompt(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    found = answer(capsys, *ASKED, "--prompt", "4000", "--cached-prompt", "3000")
    cached = found["prompt_cache"]
    rest = answer(capsys, *ASKED, "--prompt", "1000", "--depth", "3000")["speed"]["ttft_s"]
    assert cached["ttft_s"] == rest
    assert cached["uncached_ttft_s"] == found["speed"]["ttft_s"]
    assert cached["kept_bytes"]["value"] == 4000 * 32 * 2 * 8 * 128 * 2


def test_kv_types_side_by_side(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    found = answer(capsys, *ASKED, "--compare-kv")
    plain, q8, *_ = found["kv_types"]
    assert (plain["kv_type"], q8["kv_type"]) == ("F16", "Q8_0")
    assert q8["saved_bytes"]["value"] == plain["kv_cache_bytes"]["value"] * 30 // 64
    _, out, _ = ask(capsys, *ASKED, "--compare-kv")
    assert "speeds behind 7,552 tokens" in out


def test_a_quantized_cache_says_what_it_saves(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    _, out, _ = ask(capsys, *ASKED, "--kv-type", "q8_0")
    assert "Q8_0 saves 0.47 GiB of cache against F16" in out
    assert "KV quantization" not in ask(capsys, *ASKED)[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--acceptance", "0.8"), "add --draft"),
        (("--draft", "mtp"), "no layers that predict further tokens"),
        (("--draft", "qwen2.5-0.5b"), "vocabularies of"),
        (("--draft", "no-such-model"), "no-such-model"),
        (("--draft", "ngram", "--acceptance", "2"), "no probability"),
        (("--cached-prompt", "512"), "leave nothing"),
        (("--draft", "ngram", "--on", "RTX 4090"), "one device"),
        (("--compare-kv", "--on", "RTX 4090"), "one device"),
        (("--draft", "ngram", "--engine", "ollama"), "llama.cpp"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], store: Store, more: tuple[str, ...], said: str
) -> None:
    code, out, err = ask(capsys, *ASKED, *more)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
