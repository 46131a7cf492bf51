"""One line a resolution in the log, and what may never stand in it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hyperplug_vllm.answers import BusyError
from hyperplug_vllm.compat import LOGGER_NAME
from hyperplug_vllm.logline import Ended, line
from hyperplug_vllm.lookups import Found
from hyperplug_vllm.metrics import Degraded, Outcome
from hyperplug_vllm.observation import Observation

from hyperplug.entities import Decision, Resolution, Timings
from hyperplug.errors import HyperplugError, InvalidDescriptionError
from hyperplug.registry import Registry
from tests.integrations.vllm.conftest import FOREIGN, PARAPHRASE, SENTIMENT
from tests.integrations.vllm.engine import BASE
from tests.integrations.vllm.front import CHAT, Server
from tests.integrations.vllm.test_live import adapter

pytest.importorskip("vllm")

SECRET = "swordfish-4711"
RESOLUTION = Resolution(
    text=f"{SECRET} in a description",
    decision=Decision.NEAREST,
    score=0.97312,
    support=None,
    task=None,
    adapter=replace(adapter(7), name=f"{SECRET}@00000007", task_name=SECRET),
    timings=Timings(embed_ms=9.06, lookup_ms=0.8),
    reason=f"{SECRET} in a reason",
)


class _Lines(logging.Handler):
    """Keeps all that is logged, formatted."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(self.format(record))

    @property
    def resolutions(self) -> list[dict[str, str]]:
        """The fields of our lines; every one of them must be of the promised form."""
        lines = [each for each in self.all if each.startswith("resolution")]
        assert all(re.fullmatch(r"resolution( [a-z_]+=[\w.:,-]+)+", each) for each in lines), lines
        return [dict(part.split("=") for part in each.split()[1:]) for each in lines]


@pytest.fixture
def lines() -> Iterator[_Lines]:
    """What our logger says; vLLM's own does not propagate to pytest's."""
    kept, log = _Lines(), logging.getLogger(LOGGER_NAME)
    level = log.level
    log.addHandler(kept)
    log.setLevel(logging.DEBUG)
    yield kept
    log.removeHandler(kept)
    log.setLevel(level)


def test_a_line_in_full() -> None:
    ended = Ended(
        outcome=Outcome.SERVED,
        found=Found(resolution=RESOLUTION, stale=True),
        load_ms=12.5,
        total_ms=25.04,
        request_id="abc",
        namespace="tenant-b",
        trace_id="f" * 32,
    )
    assert line(ended) == (
        "resolution outcome=served decision=nearest score=0.9731 adapter=1048583 digest=00000000 "
        "degraded=stale,withheld embed_ms=9.1 find_ms=0.8 generate_ms=0.0 publish_ms=0.0 "
        f"load_ms=12.5 total_ms=25.0 namespace=tenant-b request=abc trace={'f' * 32}"
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BusyError(SECRET), "status=429 error=BusyError"),
        (InvalidDescriptionError(SECRET), "status=400 error=InvalidDescriptionError"),
        (HyperplugError(SECRET), "status=500 error=HyperplugError"),
        (ValueError(SECRET), "status=500 error=unexpected"),
    ],
)
def test_a_refusal_tells_status_and_class_only(error: Exception, told: str) -> None:
    shown = line(Ended(outcome=Outcome.REFUSED, error=error))
    assert told in shown
    assert SECRET not in shown


def test_only_what_was_served_is_degraded() -> None:
    found = Found(resolution=RESOLUTION, stale=True)
    assert Ended(outcome=Outcome.SERVED, found=found).degraded == tuple(Degraded)
    assert Ended(outcome=Outcome.TOLD, found=found).degraded == ()


def test_one_line_a_resolution(serve: Any, lines: _Lines, warm_registry: Registry) -> None:
    async def check(server: Server) -> None:
        for model in (SENTIMENT, f"hyperplug:{FOREIGN}", BASE, "nosuch-task", "hyperplug: "):
            await server.ask(model)
        await server.http.post("/v1/hyperplug/resolve", json={"text": SENTIMENT})

    serve(check)
    named, foreign, passed, refused, told = lines.resolutions
    own = warm_registry.get_adapter(SENTIMENT)
    assert (named["outcome"], named["decision"], named["named_by"]) == ("served", "exact", "task")
    assert (named["adapter"], named["digest"]) == (str(own.id), own.digest[:8])
    assert float(named["load_ms"]) > 0
    assert float(named["total_ms"]) >= float(named["load_ms"])
    assert (foreign["decision"], foreign["named_by"]) == ("base", "text")
    assert float(foreign["embed_ms"]) > 0
    assert "adapter" not in foreign
    assert passed["outcome"] == "passed"
    assert (refused["outcome"], refused["status"]) == ("refused", "400")
    assert told["outcome"] == "told"


def test_a_client_that_leaves(lines: _Lines) -> None:
    with pytest.raises(asyncio.CancelledError), Observation({"headers": []}):
        raise asyncio.CancelledError
    assert [each["outcome"] for each in lines.resolutions] == ["left"]


def test_the_line_has_the_id_by_which_vllm_knows_the_request(serve: Any, lines: _Lines) -> None:
    async def check(server: Server) -> None:
        for given in ({"X-Request-Id": "of-the-client.1"}, {}):
            answered = await server.ask(SENTIMENT, headers=given)
            seen.append(answered.json()["headers"]["x-request-id"])
        base = await server.ask(BASE)
        assert "x-request-id" not in base.json()["headers"]

    seen: list[str] = []
    serve(check)
    assert [each["request"] for each in lines.resolutions] == seen
    assert seen[0] == "of-the-client.1"
    assert re.fullmatch("[0-9a-f]{32}", seen[1])


@pytest.mark.parametrize("value", [f"{SECRET} with spaces", f'{SECRET}"x=1', SECRET + "x" * 64, ""])
def test_an_id_that_could_hold_anything_is_not_logged(
    serve: Any, lines: _Lines, value: str
) -> None:
    async def check(server: Server) -> None:
        answered = await server.ask(SENTIMENT, headers={"X-Request-Id": value})
        assert answered.json()["headers"]["x-request-id"] == value

    serve(check)
    assert "request" not in lines.resolutions[0]
    assert SECRET not in "\n".join(lines.all)


def test_nothing_of_a_request_reaches_the_log(serve: Any, lines: _Lines) -> None:
    """Neither texts nor keys, nor the names that are made of a description's first words."""
    described = f"{SECRET} is what to answer when a bank asks for the word. Answer with one word."

    async def check(server: Server) -> None:
        key = {"Authorization": f"Bearer {SECRET}"}
        for model in (f"hyperplug:{described}", SECRET, f"{SECRET}@00000000"):
            await server.ask(model, headers=key)
            await server.ask(BASE, headers={**key, "X-Hyperplug-Task": model})
        await server.ask(f"hyperplug:{SECRET}\x00", headers=key)
        example = {"input": SECRET, "output": SECRET}
        body = {
            "model": f"hyperplug:{PARAPHRASE}",
            "messages": [{"role": "user", "content": SECRET}],
            "hyperplug": {"examples": [example]},
        }
        assert (await server.http.post(CHAT, json=body)).status_code == 200
        wrong = {"model": SENTIMENT, "hyperplug": {SECRET: 1}}
        assert (await server.http.post(CHAT, json=wrong)).status_code == 400

    serve(check)
    assert len(lines.resolutions) == 9
    assert {each["outcome"] for each in lines.resolutions} == {"served", "passed", "refused"}
    assert SECRET not in "\n".join(lines.all)
