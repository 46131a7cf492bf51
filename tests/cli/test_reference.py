"""What is written about the commands is what they are."""

from __future__ import annotations

import re
from pathlib import Path

from hyperplug.cli.main import cli
from hyperplug.cli.reference import reference

ROOT = Path(__file__).parents[2]


def test_reference_is_up_to_date() -> None:
    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    # Words only: releases of click break lines in their own ways.
    assert written.split() == reference().split(), "run: make docs"


def test_documents_name_no_command_that_is_not_there() -> None:
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = file.read_text(encoding="utf-8")
        blocks = re.findall(r"^```(?:bash|console|sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        for block in blocks:
            for name in re.findall(r"^(?:\$ )?hyperplug ([a-z][a-z-]+)", block, re.MULTILINE):
                assert name in cli.commands, f"{file.name} names `hyperplug {name}`"
