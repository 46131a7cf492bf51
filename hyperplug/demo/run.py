"""The demo: register, serve, ask, compare, clean up."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperplug.config import Settings, load_settings
from hyperplug.demo.client import Answer, ask
from hyperplug.demo.script import FROZEN_CHECK, REQUESTS, TASKS
from hyperplug.demo.show import Exchange, next_steps, side_by_side, table
from hyperplug.errors import ConfigError, ServerError

if TYPE_CHECKING:
    from hyperplug_vllm.process import ServerProcess

_MARK = ".hyperplug-demo"
_SECONDS_BETWEEN_LINES = 15.0
# Short prompts, few at a time: what makes a server start and answer soon on two cores.
_FLAGS = ("--max-model-len", "2048", "--max-num-seqs", "8", "--enforce-eager")


def run_demo(*, home: Path) -> None:
    """Shows everything at work, in a home of its own that is emptied first.

    Raises:
        ServerError: if the server fails, or does not do what the demo is there to show.
        HyperplugError: if something it needs is not installed.
    """
    started = time.monotonic()
    _forget_other_work()
    settings = load_settings(home=home)
    _empty(settings.home)
    _register(settings)
    before, exchanges, after = _serve_and_ask(settings)
    _print_results(exchanges, before=before, after=after)
    _say(f"Server stopped. All of it took {time.monotonic() - started:.0f} s.\n")
    for line in next_steps(home):
        _print(line)
    _check(exchanges, before=before, after=after)


def _forget_other_work() -> None:
    """Clears this process's environment of what a user has set for other registries."""
    for name in [*os.environ]:
        ours = name.startswith("HYPERPLUG_") and name != "HYPERPLUG_CACHE"
        if ours or name == "VLLM_API_KEY":
            del os.environ[name]
    os.environ.update(no_proxy="127.0.0.1", NO_PROXY="127.0.0.1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")


def _empty(home: Path) -> None:
    """Removes what an earlier demo left; a folder that is not a demo's is refused."""
    if home.exists() and not (home / _MARK).is_file() and any(home.iterdir()):
        raise ConfigError(
            f"{home} holds something else than a demo", hint="choose another folder with --home"
        )
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    (home / _MARK).touch()


def _register(settings: Settings) -> None:
    from hyperplug.basemodel import resolve_base
    from hyperplug.registry import open_registry

    _say(f"[1/4] Base model {settings.base}")
    resolve_base(settings.base, cache=settings.cache, progress=lambda line: _say(f"      {line}"))
    _say("[2/4] Registering tasks; a hypernetwork makes an adapter of each description")
    with open_registry(settings=settings) as registry:
        registry.warm_up()
        for draft in TASKS:
            begun = time.perf_counter()
            _, adapter = registry.register_task(
                draft.name,
                draft.description,
                examples=draft.examples,
                tags=draft.tags,
                check=False,  # the time shown is the hypernetwork's
            )
            milliseconds = (time.perf_counter() - begun) * 1000
            name = adapter.name if adapter is not None else "(none)"
            _say(f"      {name:<22} {milliseconds:4.0f} ms  {draft.description}")


def _serve_and_ask(settings: Settings) -> tuple[Answer, list[Exchange], Answer]:
    """Returns the base model's answers before and after, and what came in between."""
    from hyperplug_vllm.process import ServerProcess
    from hyperplug_vllm.serve import plan

    _say("[3/4] Starting a real vLLM server (about a minute)")
    launch = plan(None, _FLAGS, settings=settings, progress=lambda line: _say(f"      {line}"))
    log = settings.home / "server.log"
    with ServerProcess(launch, log=log, progress=_Ticker()) as server:
        _say(f"\n[4/4] Asking {server.base_url}")
        before = ask(server.base_url, model=server.base_name, text=FROZEN_CHECK)
        exchanges = _ask_all(server)
        after = ask(server.base_url, model=server.base_name, text=FROZEN_CHECK)
        _say("      Stopping the server")
    return before, exchanges, after


def _ask_all(server: ServerProcess) -> list[Exchange]:
    exchanges = []
    for request in REQUESTS:
        _say(f"      {request.title}")
        answer = ask(server.base_url, model=request.model, text=request.text)
        base = ask(server.base_url, model=server.base_name, text=request.text)
        exchanges.append(Exchange(request=request, answer=answer, base=base))
    return exchanges


def _print_results(exchanges: Sequence[Exchange], *, before: Answer, after: Answer) -> None:
    _print("\nHow each request was served (times in milliseconds)\n")
    for line in table(exchanges):
        _print(line)
    _print("\nThe same text, without and with the adapter\n")
    for line in side_by_side(exchanges):
        _print(line)
    same = "identical" if before.text == after.text else "DIFFERENT"
    _print(f"The base model before and after all of this: {same}")
    _print(f"  before  {' '.join(before.text.split())}")
    _print(f"  after   {' '.join(after.text.split())}\n")


def _check(exchanges: Sequence[Exchange], *, before: Answer, after: Answer) -> None:
    """Raises ServerError if something did not go as it should."""
    wrong = [
        f"{exchange.request.title!r} was served as {exchange.answer.decision.upper() or 'nothing'}"
        f", not {exchange.request.expected.value.upper()}"
        for exchange in exchanges
        if exchange.answer.decision != exchange.request.expected
    ]
    if before.text != after.text:
        wrong.append("the base model's answer has changed")
    if wrong:
        raise ServerError("; ".join(wrong), hint="please report this with the table above")


class _Ticker:
    """Shows that the server is starting: in place on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, line: str) -> None:
        now = time.monotonic()
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K      {line}")
            sys.stderr.flush()
        elif now >= self._next:
            self._next = now + _SECONDS_BETWEEN_LINES
            _say(f"      {line}")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
