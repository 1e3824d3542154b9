"""A training of seconds: it learns, and a kill costs it nothing but time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
TRAIN = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from ladder.heldout import HeldOut
from ladder.run import Run
from ladder.shapes import Rung
from ladder.train import train

folder, kill_at, signal_name = Path(sys.argv[1]), *sys.argv[2:]
rung = Rung("tiny", hidden=32, layers=1, feed_forward=64, heads=1, kv_heads=1, head_dim=32)
run = Run("tiny", rung, learning_rate=0.01, ends=(48, 96))
# counting in steps drawn at random: each token follows from the two before it
chance = np.random.default_rng(0)
starts, steps = chance.integers(0, 256, (2, 96 * 8 + 8, 1))
windows = ((starts + steps * np.arange(33)) % 256).astype(np.uint16)
held_out = HeldOut(windows[-8:], np.ones(2048, dtype=np.int64))

def say(line):
    print(line)
    if kill_at in line:
        os.kill(os.getpid(), getattr(signal, signal_name))

for name in ("states", "models"):
    (folder / name).mkdir(exist_ok=True)
train(run, windows[:-8], held_out, states=folder / "states", models=folder / "models",
      log=folder / "log.jsonl", about={"text": "counting"}, beside=lambda folder: None, say=say)
"""


def trained(folder: Path, *, kill_at: str = "never", by: str = "SIGKILL") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", TRAIN, str(folder), kill_at, by],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = trained(folder)
    assert done.returncode == 0, done.stderr
    return folder


def weights(folder: Path) -> dict[str, bytes]:
    return {
        path.parent.name: path.read_bytes() for path in sorted((folder / "models").rglob("model.safetensors"))
    }


def log(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith("_s")} for line in lines]


def test_it_learns_and_more_tokens_help(undisturbed: Path) -> None:
    first = next(line for line in log(undisturbed) if "loss" in line)
    results = [line["nats_per_token"] for line in log(undisturbed) if "end" in line]
    assert results[1] < results[0] < first["loss"]


def test_ended_four_times_on_the_way_it_gives_the_same_weights(undisturbed: Path, tmp_path: Path) -> None:
    # before the first checkpoint, before a branch's model is written, in the trunk after it, and at the very end
    assert trained(tmp_path, kill_at="step 16 of").returncode == -signal.SIGKILL
    assert trained(tmp_path, kill_at="196,608 tokens").returncode == -signal.SIGKILL
    stopped = trained(tmp_path, kill_at="step 64 of", by="SIGTERM")
    assert "Stopped: tiny: stopped after 64 steps" in stopped.stderr
    assert trained(tmp_path, kill_at="step 96 of").returncode == -signal.SIGKILL
    assert trained(tmp_path).returncode == 0
    assert weights(tmp_path) == weights(undisturbed)
    assert log(tmp_path) == log(undisturbed)
