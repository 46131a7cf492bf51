"""A vLLM server as a child process: started, waited for, and gone when the block ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from hyperplug.config import Settings
from hyperplug.errors import ServerError
from hyperplug_vllm.flags import value_of
from hyperplug_vllm.lifetime import signal_on_parent_death
from hyperplug_vllm.serve import Launch, plan, with_port

Progress = Callable[[str], None]

_LOG_LINES = 25
# How the plugin begins the one line with which it ends a server.
_REFUSAL = "hyperplug cannot start: "
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 20.0


class ServerProcess:
    """A context manager around one server.

    The server, its engine and its workers form a process group that is ended as a whole,
    and that ends by itself if this process is killed.

    Attributes:
        base_url: "http://127.0.0.1:PORT", without "/v1".
        log: the file that takes all that the server prints.
    """

    def __init__(
        self,
        launch: Launch,
        *,
        log: Path | None = None,
        progress: Progress | None = None,
        timeout_seconds: float = 600.0,
    ) -> None:
        port = value_of("--port", launch.command)
        self._launch = launch if port else with_port(launch, free_port())
        self.base_url = f"http://127.0.0.1:{port or value_of('--port', self._launch.command)}"
        self.base_name = launch.base_name
        self.log = log
        self._progress = progress or (lambda _: None)
        self._timeout_seconds = timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._own_log = False

    def __enter__(self) -> Self:
        """Starts the server and returns when it answers.

        Raises:
            ServerError: if it ends or does not answer in time; with its last log lines.
        """
        with self._open_log() as output:
            self._process = subprocess.Popen(
                self._launch.command,
                env=dict(self._launch.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            self._discard_log()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._discard_log()

    @property
    def pid(self) -> int:
        """The server's process id, which is also that of its group."""
        if self._process is None:
            raise ServerError("the server was not started", hint="use it in a with block")
        return self._process.pid

    def stop(self) -> None:
        """Ends the whole process group: asks, waits, and kills what is left."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            _signal_group(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()

    def tail(self, lines: int = _LOG_LINES) -> str:
        """Returns the last lines of the log."""
        if self.log is None or not self.log.is_file():
            return ""
        return "\n".join(self.log.read_text("utf-8", errors="replace").splitlines()[-lines:])

    def _open_log(self) -> IO[bytes]:
        if self.log is None:
            descriptor, name = tempfile.mkstemp(prefix="hyperplug-vllm-", suffix=".log")
            self.log, self._own_log = Path(name), True
            return os.fdopen(descriptor, "wb")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        return self.log.open("wb")

    def _discard_log(self) -> None:
        if self._own_log and self.log is not None:
            self.log.unlink(missing_ok=True)

    def _wait(self) -> None:
        started = time.monotonic()
        while not self._answers():
            seconds = time.monotonic() - started
            code = self._process.poll() if self._process is not None else -1
            if code is not None:
                raise self._ended(code)
            if seconds > self._timeout_seconds:
                raise ServerError(
                    f"vLLM did not answer within {self._timeout_seconds:.0f} seconds; its last "
                    f"lines:\n{self.tail()}",
                    hint="give it more time, or free some memory and cores",
                )
            self._progress(f"Starting vLLM ({seconds:.0f} s)")
            time.sleep(_POLL_SECONDS)

    def _ended(self, code: int) -> ServerError:
        """Returns why the server ended: our own words for it, or else its last lines."""
        for line in self.tail(400).splitlines():
            if _REFUSAL in line:
                return ServerError(f"the server did not start: {line.partition(_REFUSAL)[2]}")
        return ServerError(
            f"vLLM ended with status {code} while starting; its last lines:\n{self.tail()}",
            hint="the lines above name the cause",
        )

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.base_url}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (OSError, urllib.error.URLError):
            return False


def launch(
    base: str | None,
    vllm_args: Sequence[str] = (),
    *,
    settings: Settings,
    log: Path | None = None,
    progress: Progress | None = None,
) -> ServerProcess:
    """Returns a server for `base`, to be started by a with block.

    Raises:
        HyperplugError: as `hyperplug_vllm.serve.plan` does, before anything is started.
    """
    planned = plan(base, vllm_args, settings=settings, progress=progress)
    return ServerProcess(planned, log=log, progress=progress)


def free_port() -> int:
    """Returns a TCP port that is free on the loopback address just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _die_with_parent() -> None:
    signal_on_parent_death(signal.SIGTERM)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
