"""Devices that are only named, other engines, and what lies on the machine, as a person asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_commands import answer, ask, figures
from weigh.bench import probes
from weigh.bench.here import Here
from weigh.model.ggml_types import GgmlType
from weigh.store import Store
from weigh.synth import write_gguf


def test_a_named_device_needs_no_measuring(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    found = answer(capsys, "fit", "llama-3.1-8b:Q4_K_M", "--on", "RTX 4090", "--context", "8k")
    assert found["on"] == "NVIDIA GeForce RTX 4090"
    assert found["split"]["gpu_layers"] == [32]
    assert found["memory"]["kv_cache_bytes"]["value"] == 8192 * 32 * 2 * 8 * 128 * 2
    assert found["speed"]["decode_tokens_per_s"]["basis"] in ("spec-sheet", "published")
    assert "-ngl 33" in " ".join(found["arguments"])  # the output counts as one
    assert any("RAM" in said for said in found["assumed"])
    total = found["memory"]["total_bytes"]["value"]
    assert total == sum(device["total_bytes"]["value"] for device in found["split"]["devices"])


def test_experts_stay_in_ram_where_the_card_is_small(
    capsys: pytest.CaptureFixture[str], store: Store
) -> None:
    found = answer(capsys, "fit", "gpt-oss-120b", "--on", "RTX 4090, 96GB")
    split = found["split"]
    assert split["gpu_layers"] == [36]
    assert 0 < split["experts_in_ram_layers"] < 36
    ram, card = (device["total_bytes"]["value"] for device in split["devices"])
    assert card <= split["devices"][1]["available_bytes"]["value"]
    assert ram > 30 << 30
    assert "--n-cpu-moe" in found["arguments"]


def test_devices_are_compared(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    found = answer(capsys, "fit", "llama-3.1-8b", "--on", "RTX 4090", "--on", "Raspberry Pi 5 8GB")
    fast, slow = found["compared"]
    assert fast["speed"]["decode_tokens_per_s"]["low"] > 10 * slow["speed"]["decode_tokens_per_s"]["high"]
    code, out, _ = ask(capsys, "fit", "llama-3.1-8b", "--on", "RTX 4090", "--on", "Raspberry Pi 5 8GB")
    assert code == 0
    assert "NVIDIA GeForce RTX 4090" in out
    assert "\nAssumed\n" in out


def test_a_device_of_ones_own_figures(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    asked = ("fit", "llama-3.1-8b", "--vram", "24G", "--bandwidth", "936", "--ram", "64G")
    found = answer(capsys, *asked)
    assert found["split"]["gpu_layers"] == [32]
    assert found["split"]["devices"][0]["available_bytes"]["value"] == 62 << 30  # 2 GiB stay free


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fit", "llama-3.1-8b", "--on", "RTX 4900"), "did you mean `RTX 4090`"),
        (("fit", "llama-3.1-8b", "--vram", "24G"), "add --bandwidth"),
        (("fit", "llama-3.1-8b", "--bandwidth", "900"), "add --vram or --ram"),
        (("fit", "llama-3.1-8b", "--on", "A100", "--ram", "4G"), "either named or described"),
        (("fit", "llama-3.1-8b", "--on", "RTX 4090", "--ask-engine"), "on this machine only"),
        (("fit", "llama-3.1-8b:Q4_K_M", "--on", "RTX 4090", "--engine", "vllm"), "does not run Q4_K_M"),
        (("fit", "llama-3.1-8b:AWQ", "--on", "RTX 4090"), "does not read AWQ-INT4"),
        (("recommend", "--on", ""), "names no device"),
        (("machine", "--on", "RTX 3090 and more"), "unknown device"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], store: Store, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = ask(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_vllm_reserves_its_share_and_says_how_many_fit(
    capsys: pytest.CaptureFixture[str], store: Store
) -> None:
    asked = ("fit", "qwen2.5-7b", "--engine", "vllm", "--on", "A100 80GB", "--context", "32k")
    found = answer(capsys, *asked)
    assert found["quantization"] == "BF16"
    assert found["fits"] is True
    reserved = found["memory_of_one_device"]["reserved_bytes"]["value"]
    assert reserved == pytest.approx(0.92 * (80 << 30), rel=0.01)
    assert found["max_concurrency"] == pytest.approx(found["kv_capacity_tokens"] / 32768, rel=0.01)
    code, out, _ = ask(capsys, *asked)
    assert code == 0
    assert "--gpu-memory-utilization" in out


def test_vllm_that_would_not_start_is_an_answer(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    asked = ("fit", "llama-3.1-8b", "--engine", "vllm", "--on", "RTX 4090", "--context", "128k")
    code, out, _ = ask(capsys, *asked)
    assert code == 1
    assert "does not start with a context of 131,072 tokens" in out


def test_transformers_takes_as_many_cards_as_it_needs(
    capsys: pytest.CaptureFixture[str], store: Store
) -> None:
    asked = ("fit", "llama-3.1-8b", "--engine", "transformers", "--on", "4x RTX 3060 12GB")
    found = answer(capsys, *asked)
    assert found["fits"] is True
    assert found["devices"] == 2  # 16 GB of weights


def test_ollama_is_llama_cpp_with_its_own_settings(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    asked = ("fit", "qwen3-8b", "--engine", "ollama", "--on", "RTX 4060")
    found = answer(capsys, *asked)
    assert found["settings"]["context_tokens"] == 4096
    assert any("one sequence" in note for note in found["notes"])


def test_a_device_gets_recommendations(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    found = answer(capsys, "recommend", "--on", "RTX 4090", "--limit", "3")
    assert found["machine"]["name"] == "NVIDIA GeForce RTX 4090"
    assert len(found["recommendations"]) == 3
    first = found["recommendations"][0]
    alone = answer(capsys, "fit", first["name"], "--on", "RTX 4090", "--context", "8k")
    assert alone["speed"]["decode_tokens_per_s"] == first["speed"]["decode_tokens_per_s"]
    assert alone["split"]["gpu_layers"] == first["split"]["gpu_layers"]


def test_buy_finds_the_least(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    found = answer(capsys, "buy", "qwen2.5-coder-7b", "--min-speed", "20", "--context", "8k")
    assert found["options"]
    for option in found["options"]:
        assert option["fits"] is True
        assert option["speed"]["decode_tokens_per_s"]["value"] >= 20
    cards = [o for o in found["options"] if o["kind"] == "one card"]
    assert cards[0]["split"]["devices"][1]["available_bytes"]["value"] < 8 << 30  # a 5 GB model


def test_buy_says_when_nothing_does(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    found = answer(capsys, "buy", "llama-3.1-405b", "--min-speed", "500", code=1)
    assert found["options"] == []
    assert found["nearest"]["speed"]["decode_tokens_per_s"]["value"] < 500


def test_the_table_holds_rules_beside_figures(capsys: pytest.CaptureFixture[str], calibrated: Here) -> None:
    found = answer(capsys, "table")
    of_7b = next(size for size in found["classes"] if size["name"] == "7B")
    assert of_7b["weights_gb"]["FP16"]["low"] < 14 < of_7b["weights_gb"]["FP16"]["high"]
    assert of_7b["weights_gb"]["INT4"]["low"] > 0.55 * 6.7  # half a GB per billion is the rule
    assert len(found["misleading"]) == 7
    code, out, _ = ask(capsys, "table")
    assert code == 0
    assert '"a 7B needs 14-16 GB of RAM"' in out


def test_models_lists_what_lies_here(
    capsys: pytest.CaptureFixture[str], calibrated: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("OLLAMA_MODELS", "HF_HOME", "HF_HUB_CACHE", "LLAMA_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    folder = tmp_path / "models"
    folder.mkdir()
    spec = probes.dense(
        "small", GgmlType.Q8_0, layers=2, hidden=256, feed_forward=512, heads=4, kv_heads=2, head_dim=64
    )
    write_gguf(spec, folder / "small.gguf")
    (folder / "broken.gguf").write_bytes(b"GGUF")
    found = answer(capsys, "models", str(folder))["models"]
    by_name = {Path(one["path"]).name: one for one in found}
    assert by_name["small.gguf"]["fits"] is True
    assert by_name["small.gguf"]["parameters"] == spec.parameters
    assert "cut short" in by_name["broken.gguf"]["problem"]
    code, out, _ = ask(capsys, "models", str(folder))
    assert code == 0
    assert "small.gguf" in out


def test_devices_are_listed_by_words(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "devices", "4090")["devices"]
    assert {"NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090 Mobile"} <= {one["name"] for one in found}
    code, out, _ = ask(capsys, "devices", "nothing-such")
    assert code == 1
    assert "no device" in out


def test_a_device_is_shown_with_what_was_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ask(capsys, "machine", "--on", "M4 Max 64GB")
    assert code == 0
    assert "Assumed" in out
    found = answer(capsys, "machine", "--on", "2x RTX 3090, 64GB")
    assert len(found["gpus"]) == 2
    assert figures(found) == []


def test_embedding_models_have_memory_but_no_speed(
    capsys: pytest.CaptureFixture[str], calibrated: Here
) -> None:
    found = answer(capsys, "fit", "bge-m3")
    assert found["speed"] is None
    assert found["memory"]["kv_cache_bytes"]["value"] == 0
    code, _, err = ask(capsys, "try", "bge-m3")
    assert code == 2
    assert "writes no tokens" in err.splitlines()[-1]


def test_the_doctor_says_what_each_probe_saw(capsys: pytest.CaptureFixture[str], store: Store) -> None:
    found = answer(capsys, "machine", "--doctor")["findings"]
    assert {"system", "cpu", "memory", "disk", "engine"} <= {one["probe"] for one in found}
    code, out, _ = ask(capsys, "machine", "--doctor")
    assert code == 0
    assert str(Path.home() / ".cache") not in out
