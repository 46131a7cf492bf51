"""Runs the command line as a user would, each test in a home of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hyperplug.cli.main import run
from tests.miniature import base_folder, toy_corpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command left behind."""

    status: int
    out: str
    err: str


Hyperplug = Callable[..., Ran]


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyModels:
    """A random base model of three layers, and a hypernetwork that fits it."""

    base: Path
    hypernet: Path
    corpus: Path

    @property
    def options(self) -> tuple[str, ...]:
        """What to add to a command so that it uses them."""
        return ("--base", str(self.base), "--hypernet", str(self.hypernet))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, in force for the test; no other setting of the user is."""
    for name in [name for name in os.environ if name.startswith("HYPERPLUG_")]:
        if name != "HYPERPLUG_CACHE":
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("HYPERPLUG_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


@pytest.fixture
def hyperplug(
    home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Hyperplug:
    """Runs a command in this process; `stdin` is what it reads."""

    def hyperplug_(*arguments: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capfd.readouterr()
        status = run(arguments)
        captured = capfd.readouterr()
        return Ran(status=status, out=captured.out, err=captured.err)

    return hyperplug_


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Tiny models; the hypernetwork is trained by the command that users have for it."""
    folder = tmp_path_factory.mktemp("tiny")
    models = TinyModels(
        base=base_folder(folder / "llama"),
        hypernet=folder / "hypernet.safetensors",
        corpus=toy_corpus(folder / "tasks.jsonl"),
    )
    command = [sys.executable, "-m", "hyperplug", "train-hypernet", "--base", str(models.base)]
    command += ["--tasks", str(models.corpus), "--out", str(models.hypernet), "--steps", "3"]
    command += ["--top-layers", "2", "--static-rank", "2", "--generated-rank", "2", "--atoms", "4"]
    command += ["--device", "cpu", "--seed", "1"]
    environment = {**os.environ, "HYPERPLUG_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{models.hypernet}\n"
    return models


def only_line(text: str, *, start: str) -> str:
    """Returns the one line that begins so, and sees to it that nothing looks like a crash."""
    assert "Traceback" not in text
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return line
