"""A training of seconds: it learns, and a kill costs it nothing but time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
TRAIN = """
import json, os, signal, sys, traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
from ladder.heldout import HeldOut
from ladder.run import Run
from ladder.shapes import Rung
from ladder.train import train

folder, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
rung = Rung("tiny", hidden=32, layers=1, feed_forward=64, heads=1, kv_heads=1, head_dim=32)
run = Run("tiny", rung, learning_rate=0.01, ends=(48, 96))
# counting in steps drawn at random: each token follows from the two before it
chance = np.random.default_rng(0)
starts, steps = chance.integers(0, 256, (2, 96 * 8 + 8, 1))
windows = ((starts + steps * np.arange(33)) % 256).astype(np.uint16)
held_out = HeldOut(windows[-8:], np.ones(2048, dtype=np.int64))

for name in ("states", "models"):
    (folder / name).mkdir(exist_ok=True)

def go_on(kill_at, signal_name):
    def say(line):
        if kill_at in line:
            os.kill(os.getpid(), getattr(signal, signal_name))

    train(run, windows[:-8], held_out, states=folder / "states", models=folder / "models",
          log=folder / "log.jsonl", about={"text": "counting"}, beside=lambda folder: None, say=say)

# each in a process of its own; torch is imported once, and begins no thread before it computes
for kill_at, signal_name in runs:
    pid = os.fork()
    if pid == 0:
        try:
            go_on(kill_at, signal_name)
        except BaseException as error:
            traceback.print_exception(error)
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def trained(folder: Path, *kills: tuple[str, str]) -> tuple[list[int], str]:
    """Train, each time as far as the line at which a signal comes, and at last to the end: exit codes, and errors."""
    runs = json.dumps([*kills, ("never", "SIGKILL")])
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(folder), runs],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [int(code) for code in done.stdout.split()], done.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    codes, said = trained(folder)
    assert codes == [0], said
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
    codes, said = trained(
        tmp_path,
        ("step 16 of", "SIGKILL"),
        ("196,608 tokens", "SIGKILL"),
        ("step 64 of", "SIGTERM"),
        ("step 96 of", "SIGKILL"),
    )
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 1, -signal.SIGKILL, 0], said
    assert "Stopped: tiny: stopped after 64 steps" in said
    assert weights(tmp_path) == weights(undisturbed)
    assert log(tmp_path) == log(undisturbed)
