"""The example of two agents: no step disturbs another, nor the base model beside them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from hyperplug_vllm.process import launch

from examples import agents
from hyperplug.config import load_settings

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """The official client of a server with an empty registry and fewer slots than tasks."""
    home = tmp_path_factory.mktemp("agents")
    arguments = ["--max-model-len", "512", "--dtype", "float32", "--max-loras", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")
        patch.setenv("HF_HUB_OFFLINE", "1")
        settings = load_settings(home=Path(home))
        with launch(None, arguments, settings=settings, log=home / "server.log") as server:
            yield openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0)


def test_each_step_answers_as_if_it_were_alone(client: openai.OpenAI) -> None:
    agents.register(client)
    agents.register(client)  # the second time there is nothing to do
    every = [step for steps in agents.AGENTS.values() for step in steps]
    alone = {step: agents.run_step(client, step) for step in every}
    for _ in range(3):
        together = agents.run_together(client)
        for name, steps in agents.AGENTS.items():
            assert together[name] == [alone[step] for step in steps]
    adapters = {done.step.task: done.adapter for done in alone.values()}
    assert set(adapters) == set(agents.TASKS)
    assert len(set(adapters.values())) == len(agents.TASKS)  # each step's own
    answers = {step.task: done.answer for step, done in alone.items()}
    assert len(set(answers.values())) > 1


def test_the_base_model_answers_as_if_it_were_alone(client: openai.OpenAI) -> None:
    """Every slot holds an adapter, and vLLM on a CPU lets the last one into the base's rows."""
    agents.register(client)
    base = next(iter(client.models.list()))
    asked = [
        agents.Step(task=base.id, text=step.text)
        for steps in agents.AGENTS.values()
        for step in steps
    ]
    alone = [agents.run_step(client, step) for step in asked]
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(agents.run_together, client) for _ in range(2)]
        beside = [agents.run_step(client, step) for step in asked]
        for future in running:
            future.result()
    assert beside == alone
