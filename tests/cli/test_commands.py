"""The command line as a person meets it: answers, exit codes, one line for what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weigh.bench import probes
from weigh.bench.here import Here
from weigh.cli import main
from weigh.model.catalog import catalog
from weigh.model.ggml_types import GgmlType
from weigh.model.quantization import quantize
from weigh.store import Store
from weigh.store.ledger import runs
from weigh.synth import write_gguf

FIGURE = {"value", "low", "high", "unit", "basis"}


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.gguf"
    spec = probes.dense(
        "small", GgmlType.Q8_0, layers=2, hidden=256, feed_forward=512, heads=4, kv_heads=2, head_dim=64
    )
    write_gguf(spec, path)
    return path


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict:  # type: ignore[type-arg]
    found, out, err = ask(capsys, *arguments, "--json")
    assert found == code, err
    return json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def figures(document: object) -> list[dict]:  # type: ignore[type-arg]
    """Everything in a document that is a figure."""
    if isinstance(document, dict):
        if "value" in document:
            assert set(document) == FIGURE
            assert document["low"] <= document["value"] <= document["high"]
            return [document]
        return [f for value in document.values() for f in figures(value)]
    return [f for value in document for f in figures(value)] if isinstance(document, list) else []


def test_model_adds_up(capsys: pytest.CaptureFixture[str], small_file: Path) -> None:
    found = answer(capsys, "model", str(small_file))
    assert found["file_bytes"]["value"] == small_file.stat().st_size
    assert found["layers"] == 2
    assert found["parameters"]["total"]["value"] == sum(part["parameters"] for part in found["parts"])
    assert found["tensor_bytes"]["value"] == sum(part["bytes"] for part in found["parts"])
    assert found["kv_bytes_per_token"]["value"] == 2 * 2 * 2 * 64 * 2  # layers, K and V, heads, width, F16


def test_fit_answers_in_the_documented_keys(capsys: pytest.CaptureFixture[str], calibrated: Here) -> None:
    found = answer(capsys, "fit", "llama-3.2-1b:Q4_K_M", "--context", "8k")
    assert found["fits"] is True
    memory, speed = found["memory"], found["speed"]
    for key in ("weights_bytes", "kv_cache_bytes", "compute_bytes", "total_bytes", "max_context_tokens"):
        assert set(memory[key]) == FIGURE
    for key in ("prefill_tokens_per_s", "decode_tokens_per_s", "ttft_s", "load_s"):
        assert set(speed[key]) == FIGURE
        assert speed[key]["basis"] == "calibrated"
    assert memory["kv_cache_bytes"]["value"] == 8192 * 16 * 2 * 8 * 64 * 2
    assert figures(found)


def test_fit_and_recommend_agree(capsys: pytest.CaptureFixture[str], calibrated: Here) -> None:
    ranked = answer(capsys, "recommend", "--min-speed", "0.01", "--max-ttft", "1e9", "--reserve", "1G")
    first = ranked["recommendations"][0]
    name = f"{first['model']}:{first['quantization']}"
    fit = answer(capsys, "fit", name, "--context", "8192", "--reserve", "1G")
    assert fit["speed"] == first["speed"]
    assert fit["memory"]["total_bytes"] == first["memory"]["total_bytes"]
    assert {"model", "quantization", "fits", "memory", "speed", "quality", "reasons"} <= set(first)
    assert first["reasons"]


def test_try_runs_the_engine_and_remembers(
    capsys: pytest.CaptureFixture[str], calibrated: Here, store: Store, small_file: Path
) -> None:
    arguments = ["--prompt", "32", "--output", "8", "--context", "512", "--repetitions", "1"]
    found = answer(capsys, "try", str(small_file), *arguments)
    assert found["engine"]["name"] == "llama.cpp"
    for side in ("estimated", "measured"):
        for key in ("load_s", "prefill_tokens_per_s", "decode_tokens_per_s", "peak_memory_bytes"):
            assert found[side][key]["value"] > 0
    assert found["measured"]["decode_tokens_per_s"]["basis"] == "measured"
    assert len(runs(store)) == 1
    code, out, _ = ask(capsys, "try", str(small_file), *arguments)
    assert code == 0
    assert "decode tokens/s" in out


def test_values_between_commas_are_tried_one_after_another(
    capsys: pytest.CaptureFixture[str], calibrated: Here, store: Store, small_file: Path
) -> None:
    arguments = ["--output", "4", "--prompt", "16,32", "--threads", "1,2", "--kv-type", "q8_0"]
    found = answer(capsys, "try", str(small_file), *arguments)["trials"]
    assert [(one["workload"]["prompt_tokens"], one["settings"]["threads"]) for one in found] == [
        (16, 1),
        (16, 2),
        (32, 1),
        (32, 2),
    ]
    assert len(runs(store)) == 4
    code, out, _ = ask(capsys, "try", str(small_file), *arguments)
    assert code == 0
    assert "threads" in out
    assert "sequences" not in out  # it is the same in all
    code, _, err = ask(capsys, "try", str(small_file), "--threads", ",".join(map(str, range(1, 66))))
    assert code == 2
    assert "65 combinations" in err
    code, _, err = ask(capsys, "try", str(small_file), "--prompt", "16,x")
    assert code == 2


def test_a_model_that_does_not_fit_is_told_from_short_ones(
    capsys: pytest.CaptureFixture[str], calibrated: Here, store: Store
) -> None:
    code, out, _ = ask(capsys, "try", "qwen3-235b-a22b:IQ2_XS", "--prompt", "32", "--output", "4")
    assert code == 1
    assert "does not fit here" in out
    assert "of its 94 layers" in out


def test_the_engine_can_be_asked(
    capsys: pytest.CaptureFixture[str], calibrated: Here, small_file: Path
) -> None:
    found = answer(capsys, "fit", str(small_file), "--ask-engine")
    ours = sum(found["memory"][key]["value"] for key in ("weights_bytes", "kv_cache_bytes", "compute_bytes"))
    assert ours == pytest.approx(found["engine_layout"]["total_bytes"], abs=4 << 20)  # whole MiB a line


def test_what_does_not_fit_ends_in_one(capsys: pytest.CaptureFixture[str], calibrated: Here) -> None:
    code, out, _ = ask(capsys, "fit", "deepseek-v3:Q8_0")
    assert code == 1
    assert "does not fit" in out


def test_nothing_meeting_the_need_ends_in_one_with_misses(
    capsys: pytest.CaptureFixture[str], calibrated: Here
) -> None:
    code, out, _ = ask(capsys, "recommend", "--min-speed", "99999")
    assert code == 1
    assert "nearest misses" in out
    found = answer(capsys, "recommend", "--min-speed", "99999", code=1)
    assert found["recommendations"] == []
    assert found["nearest_misses"]


def test_the_bare_command_recommends_for_coding(capsys: pytest.CaptureFixture[str], calibrated: Here) -> None:
    code, out, _ = ask(capsys)
    assert "a coding assistant" in out
    assert code in (0, 1)
    assert answer(capsys, code=code)["need"]["task"] == "coding"


def test_every_task_has_an_answer(capsys: pytest.CaptureFixture[str], calibrated: Here) -> None:
    code, out, _ = ask(capsys, "recommend", "--task", "list")
    assert code == 0
    assert "unit-tests" in out


def test_machine_names_what_was_measured(capsys: pytest.CaptureFixture[str], calibrated: Here) -> None:
    code, out, _ = ask(capsys, "machine")
    assert code == 0
    assert "Memory read" in out
    assert "Q4_K" in out
    found = answer(capsys, "machine")
    assert found["calibration"]["memory_read"] == [[1, 8e9, 7e9, 9e9], [2, 14e9, 13e9, 15e9]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model", "lama-3.1-8b"], "did you mean `Llama-3.1-8B-Instruct`"),
        (["model", "./none.gguf"], "does not exist"),
        (["model", "llama-3.1-8b:Q9_X"], "unknown quantization `Q9_X`"),
        (["fit", "llama-3.2-1b", "--kv-type", "Q3"], "unknown KV cache type `Q3`"),
        (["fit", "llama-3.2-1b", "--context", "100"], "do not fit into a context of 100"),
        (["recommend", "--task", "poetry"], "unknown task `poetry`"),
        (["recommend", "--context", "600", "--prompt", "900"], "a context of 600 tokens cannot hold"),
        (["recomend"], "unknown command `recomend`; did you mean `recommend`?"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], calibrated: Here, arguments: list[str], said: str
) -> None:
    code, out, err = ask(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["fit", "x", "--context", "many"],
            "weigh fit: invalid value for '--context': `many` is not a number",
        ),
        (["fit"], "weigh fit: missing argument 'MODEL'; see `weigh fit --help`"),
        (["quality", "--card", "x"], "weigh quality: name a MODEL, before any --card or --tasks"),
        (["--nonsense"], "weigh: no such option"),
        (["fit", "x", "--parallel", "0"], "0 is not in the range"),
    ],
)
def test_wrong_usage_is_one_line_too(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, _, err = ask(capsys, *arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_a_truncated_file_says_how_much_is_missing(
    capsys: pytest.CaptureFixture[str], small_file: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(small_file.read_bytes()[:-1000])
    for command in ("model", "fit", "try"):
        code, _, err = ask(capsys, command, str(cut))
        assert code == 2
        assert "1000 of" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    code, out, _ = ask(capsys, "completion", shell)
    assert code == 0
    assert "_WEIGH_COMPLETE" in out


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("machine", "model", "fit", "recommend", "try", "completion"):
        code, out, _ = ask(capsys, command, "--help")
        assert code == 0
        assert f"Usage: weigh {command}" in out


def _weigh(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "weigh", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_a_pipe_gets_plain_text_and_may_close_early(calibrated: Here) -> None:
    run = _weigh("recommend", "--min-speed", "0.1", "--max-ttft", "1e9")
    out, _ = run.communicate(timeout=60)
    assert "\x1b" not in out
    assert not any(line.endswith(" ") for line in out.splitlines())
    with _weigh("recommend", "--task", "list") as early:
        assert early.stdout is not None
        assert early.stderr is not None
        early.stdout.close()
        assert early.stderr.read() == ""


def test_ctrl_c_during_a_test_drive_leaves_nothing_behind(
    calibrated: Here, small_file: Path, tmp_path: Path
) -> None:
    cache = Path(os.environ["XDG_CACHE_HOME"])
    run = _weigh(
        "try", "llama-3.2-1b:Q4_K_M", "--full", "--output", "2000", "--prompt", "2000", "--context", "8k"
    )
    deadline = time.monotonic() + 60
    while not list(cache.rglob("*.gguf")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(cache.rglob("*.gguf"))
    time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert list(cache.rglob("*.gguf")) == []


def test_no_colour_is_honoured(calibrated: Here) -> None:
    run = _weigh("model", "llama-3.2-1b", NO_COLOR="1", FORCE_COLOR="1")
    out, _ = run.communicate(timeout=60)
    assert "\x1b[3" not in out  # no colours; bold and dim are no colours


def test_a_full_disk_is_said_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], calibrated: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    monkeypatch.setattr(os, "statvfs", _nearly_full(os.statvfs))
    code, _, err = ask(capsys, "try", "llama-3.2-1b:Q4_K_M", "--output", "8", "--prompt", "8")
    assert code == 3
    assert err.splitlines()[-1].startswith("weigh: ")
    assert "GiB" in err


def _nearly_full(real):  # type: ignore[no-untyped-def]
    def statvfs(path):  # type: ignore[no-untyped-def]
        found = real(path)
        return os.statvfs_result((*found[:3], 16, 16, *found[5:]))

    return statvfs


def test_the_catalog_reads_as_its_own_gguf(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec = quantize(catalog().by_id["Qwen/Qwen3-30B-A3B"].spec(), "Q4_K_M")
    path = tmp_path / "moe.gguf"
    write_gguf(spec, path, weights=False)
    file, name = answer(capsys, "model", str(path)), answer(capsys, "model", "qwen3-30b-a3b:Q4_K_M")
    for key in ("parameters", "tensor_bytes", "bits_per_weight", "kv_bytes_per_token", "layers"):
        assert file[key] == name[key]
