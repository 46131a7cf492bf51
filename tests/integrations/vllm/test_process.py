"""A server as a child process, with a small real server in vLLM's place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hyperplug_vllm.process import ServerProcess
from hyperplug_vllm.serve import Launch

from hyperplug.errors import ServerError

# Answers /health, and has a child of its own as vLLM has its engine.
_SERVER = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def _launch(code: str) -> Launch:
    return Launch(command=(sys.executable, "-c", code), environment=dict(os.environ), base_name="b")


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not _is_running(pid)


def test_nothing_is_left_running(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "server.log"
    told: list[str] = []
    with ServerProcess(_launch(_SERVER), log=log, progress=told.append) as server:
        child = int(log.read_text().split()[1])
        parent = server.pid
        assert _is_running(child) and _is_running(parent)
    assert _gone(child) and _gone(parent)
    assert told


def test_nothing_is_left_running_when_the_block_fails(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with pytest.raises(KeyboardInterrupt), ServerProcess(_launch(_SERVER), log=log):
        raise KeyboardInterrupt
    assert _gone(int(log.read_text().split()[1]))


def test_a_server_that_ignores_the_request_to_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperplug_vllm.process._GRACE_SECONDS", 0.2)
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + _SERVER
    with ServerProcess(_launch(stubborn), log=tmp_path / "log") as server:
        parent = server.pid
    assert _gone(parent)


def test_a_server_that_dies_tells_why() -> None:
    code = "print('the last words'); raise SystemExit(3)"
    server = ServerProcess(_launch(code))
    with pytest.raises(ServerError, match="status 3") as caught:
        server.__enter__()
    assert "the last words" in caught.value.message
    assert server.log is not None
    assert not server.log.exists()  # it was the server's own


def test_a_refusal_of_our_own_is_told_without_the_log() -> None:
    code = "print('x\\nERROR hyperplug cannot start: no LoRA (add --it)\\ny'); raise SystemExit(2)"
    with pytest.raises(ServerError) as caught:
        ServerProcess(_launch(code)).__enter__()
    assert str(caught.value) == "the server did not start: no LoRA (add --it)"


def test_a_server_that_never_answers_is_given_up() -> None:
    server = ServerProcess(_launch("import time; time.sleep(600)"), timeout_seconds=1.0)
    with pytest.raises(ServerError, match="did not answer within 1 seconds"):
        server.__enter__()
    with pytest.raises(ServerError, match="not started"):
        _ = server.pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of that")
def test_a_killed_parent_takes_the_server_along(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.integrations.vllm.parent", str(log), _SERVER],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        assert _is_running(server)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert _gone(server)
    os.kill(int(log.read_text().split()[1]), signal.SIGKILL)  # this one does not listen


def test_a_temporary_log_goes_with_the_server() -> None:
    with ServerProcess(_launch(_SERVER)) as server:
        log = server.log
        assert log is not None and log.exists()
    assert not log.exists()
