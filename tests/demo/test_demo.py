"""The demo: what it prints, what it refuses, and the whole of it on a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyperplug.demo.client import Answer, ask, parse_timing
from hyperplug.demo.run import run_demo
from hyperplug.demo.script import REQUESTS, TASKS
from hyperplug.demo.show import Exchange, side_by_side, table
from hyperplug.drafts import check_draft
from hyperplug.entities import Decision
from hyperplug.errors import ConfigError, ServerError


def answer(text: str, *, adapter: str = "", steps: str = "") -> Answer:
    """Returns an answer as the client would."""
    return Answer(
        text=text,
        model=adapter or "base",
        decision="exact" if adapter else "",
        score=1.0 if adapter else None,
        adapter=adapter,
        answer_ms=123.4,
        step_ms=parse_timing(steps),
    )


def test_script_shows_every_decision_on_legal_tasks() -> None:
    assert len(TASKS) >= 6
    for draft in TASKS:
        check_draft(draft, namespace="default")
    assert {request.expected for request in REQUESTS} == set(Decision)
    names = {draft.name for draft in TASKS}
    assert all(r.model in names or r.model.startswith("hyperplug:") for r in REQUESTS)


def test_timing_header_is_read() -> None:
    assert parse_timing("embed;dur=12.5, load;dur=0.0") == {"embed": 12.5, "load": 0.0}
    assert parse_timing("") == {}


def test_table_has_a_row_for_each_request_and_cuts_long_names_in_the_middle() -> None:
    name = f"{'a-very-long-task-name-' * 3}@12345678"
    exchange = Exchange(
        request=REQUESTS[0],
        answer=answer("negative", adapter=name, steps="embed;dur=7.26, load;dur=31.2"),
        base=answer("Well"),
    )
    heading, _, row = table([exchange])
    assert "decision" in heading and "EXACT" in row
    assert "@12345678" in row and name not in row
    assert "7.3" in row and " 31 " in row and row.endswith("123")


def test_answers_stand_side_by_side_once() -> None:
    exchange = Exchange(
        request=REQUESTS[0], answer=answer("negative", adapter="t@12345678"), base=answer("Well")
    )
    lines = list(side_by_side([exchange, exchange]))
    assert sum(REQUESTS[0].text in line for line in lines) == 1
    assert any("Well" in line and "| " in line and "negative" in line for line in lines)


def test_a_folder_that_is_not_a_demos_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # it clears what is set for other work
    precious = tmp_path / "thesis.txt"
    precious.write_text("years of work")
    with pytest.raises(ConfigError, match="something else"):
        run_demo(home=tmp_path)
    assert precious.read_text() == "years of work"


def test_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ServerError):
        ask("http://127.0.0.1:1", model="m", text="t")


@pytest.mark.vllm
@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    home = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "hyperplug", "demo", "--home", str(home)],
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            # What a user may have set for other work.
            "HYPERPLUG_NAMESPACE": "elsewhere",
            "HYPERPLUG_REGISTRY": "postgresql://127.0.0.1:1/none",
            "VLLM_API_KEY": "secret",
            "http_proxy": "http://127.0.0.1:1",
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for decision in Decision:
        assert decision.value.upper() in done.stdout
    assert "before and after all of this: identical" in done.stdout
    assert "Try next" in done.stdout
    assert not _processes_with(str(home))


def _processes_with(text: str) -> list[str]:
    """Returns the command lines of running processes that hold a text or have it in reach."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environment = (folder / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text in command or text in environment:
            found.append(command)
    return found
