"""A run that is killed goes on from its last save and ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyperplug.hypernet.checkpoint import load_checkpoint
from tests.miniature import base_folder, toy_corpus

SCRIPT = """
import sys, time, torch
from pathlib import Path
from hyperplug.config import load_settings
from hyperplug.hypernet.options import TrainingOptions
from hyperplug.hypernet.recipe import TrainingProgress, train_hypernet
from tests.miniature import WordHashEmbedder

torch.set_num_threads(1)
folder = Path(sys.argv[1])

class Steps(TrainingProgress):
    def stepped(self, report):
        print(report.step, flush=True)
        time.sleep(float(sys.argv[3]))

train_hypernet(
    TrainingOptions(
        tasks=folder / "tasks.jsonl", out=folder / sys.argv[2], steps=12, top_layers=2, composed=0,
        rewordings=0, tasks_per_step=2, sequences_per_task=2, atoms=4, max_tokens=128,
        save_every=0.0, cache_dir=folder / "states", device="cpu", dtype="float32",
    ),
    settings=load_settings(base=str(folder / "base")),
    embedder=WordHashEmbedder(),
    progress=Steps(),
)
"""
ROOT = Path(__file__).parents[2]


def start(folder: Path, out: str, *, pause_seconds: float = 0.0) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), out, str(pause_seconds)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def steps(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [int(line) for line in process.stdout if line.strip().isdigit()]


@pytest.mark.slow
def test_a_killed_run_loses_at_most_one_step(tmp_path: Path) -> None:
    base_folder(tmp_path / "base")
    toy_corpus(tmp_path / "tasks.jsonl")
    assert steps(start(tmp_path, "whole.safetensors")) == list(range(1, 13))
    killed = start(tmp_path, "parts.safetensors", pause_seconds=0.1)
    assert killed.stdout is not None
    while int(killed.stdout.readline().strip() or 0) < 5:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    last = max([5, *steps(killed)])
    resumed = steps(start(tmp_path, "parts.safetensors"))
    assert last <= resumed[0] <= last + 1 and resumed[-1] == 12
    whole, parts = (
        load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("whole", "parts")
    )
    assert whole.fingerprint == parts.fingerprint
