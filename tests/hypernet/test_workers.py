"""Two processes give what one gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hyperplug.errors import ConfigError
from hyperplug.hypernet.workers import Workers, join_workers, own_device
from tests.miniature import base_folder, toy_corpus

SCRIPT = """
import json, sys, torch
from pathlib import Path
from hyperplug.config import load_settings
from hyperplug.hypernet.options import TrainingOptions
from hyperplug.hypernet.recipe import TrainingProgress, train_hypernet
from tests.miniature import WordHashEmbedder
import os

torch.set_num_threads(1)
folder = Path(sys.argv[1])
losses = []

class Losses(TrainingProgress):
    def stepped(self, report):
        losses.append(report.loss)

options = TrainingOptions(
    tasks=folder / "tasks.jsonl", out=folder / sys.argv[2], steps=8, top_layers=2, composed=0,
    rewordings=0, tasks_per_step=2, sequences_per_task=2, atoms=4, max_tokens=128,
    device="cpu", dtype="float32",
)
train_hypernet(
    options,
    settings=load_settings(base=str(folder / "base")),
    embedder=WordHashEmbedder(),
    progress=Losses(),
)
if os.environ.get("RANK", "0") == "0":
    print("LOSSES", json.dumps(losses))
"""


def _losses(folder: Path, *, out: str, processes: int) -> list[float]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *(launch if processes > 1 else []), str(script), str(folder), out],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "HOME": "/tmp"},
    )
    lines = [line for line in done.stdout.splitlines() if "LOSSES" in line]
    assert len(lines) == 1, done.stderr
    found: list[float] = json.loads(lines[0].split("LOSSES", 1)[1])
    return found


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    base_folder(tmp_path / "base")
    toy_corpus(tmp_path / "tasks.jsonl")
    alone = _losses(tmp_path, out="one.safetensors", processes=1)
    both = _losses(tmp_path, out="two.safetensors", processes=2)
    assert len(alone) == 8
    assert both == pytest.approx(alone, rel=1e-4)
    assert (tmp_path / "two.safetensors").is_file()


def test_each_worker_has_its_share() -> None:
    assert [Workers(rank=rank, count=2).share(6) for rank in (0, 1)] == [slice(0, 3), slice(3, 6)]


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert own_device(cuda) == cuda
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device(cuda) == torch.device("cuda:3")
    assert own_device(torch.device("cuda:1")) == torch.device("cuda:1")
    assert own_device(cpu) == cpu


def test_tasks_that_cannot_be_shared_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="shared among 3"):
        join_workers(torch.device("cpu"), tasks=16)
