"""Two agents over one frozen base model, each of their steps under an adapter of its own.

    hyperplug serve                # in one terminal, until it says that it serves
    python examples/agents.py      # in another

A support agent triages a request, reasons about a refund or a fault, and sums up as JSON; a
film agent works at the same time on other tasks. Every step names its task as the model: no
description in the prompt, no weights swapped by hand, and no step can disturb another.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import openai

TASKS: Mapping[str, str] = {
    "support-triage": (
        "Say what the customer's message is about. Answer with one word: refund or fault."
    ),
    "support-refund": (
        "The customer asks for money back within 30 days. Answer yes if a refund is due, else no."
    ),
    "support-fault": "Name the part of the device that the customer says is broken.",
    "support-summary": 'Sum the message up as JSON: {"product": ..., "problem": ...}.',
    "film-sentiment": "Say whether the review of a film is positive or negative.",
    "film-genre": "Name the genre of the film: comedy, horror, romance or action.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of an agent: the task whose adapter answers, and what it reads."""

    task: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A step with its answer, and the adapter that gave it."""

    step: Step
    answer: str
    adapter: str


AGENTS: Mapping[str, Sequence[Step]] = {
    "support": (
        Step(task="support-triage", text="The kettle I bought last week leaks at the lid."),
        Step(task="support-refund", text="I bought the kettle nine days ago and want money back."),
        Step(task="support-fault", text="The kettle I bought last week leaks at the lid."),
        Step(task="support-summary", text="The kettle I bought last week leaks at the lid."),
    ),
    "film": (
        Step(task="film-sentiment", text="A warm, funny film; I have seen it twice already."),
        Step(task="film-genre", text="Two strangers miss the last train and fall in love."),
        Step(task="film-sentiment", text="Two hours of my life that I will never get back."),
        Step(task="film-genre", text="A quiet house, a cellar door, and something behind it."),
    ),
}


def register(client: openai.OpenAI) -> None:
    """Registers the tasks that the server does not know yet; their adapters are generated."""
    known = {task["id"] for task in client.get("/hyperplug/tasks", cast_to=dict[str, Any])["data"]}
    for name, description in TASKS.items():
        if name not in known:
            body = {"name": name, "description": description}
            client.post("/hyperplug/tasks", body=body, cast_to=dict[str, Any])


def run_step(client: openai.OpenAI, step: Step) -> Done:
    """Returns a step's answer."""
    answer = client.chat.completions.create(
        model=step.task,
        messages=[{"role": "user", "content": step.text}],
        temperature=0,
        max_tokens=32,
    )
    text = answer.choices[0].message.content or ""
    return Done(step=step, answer=text.strip(), adapter=answer.model)


def run_agent(client: openai.OpenAI, steps: Sequence[Step]) -> list[Done]:
    """Returns an agent's steps, done one after the other."""
    return [run_step(client, step) for step in steps]


def run_together(client: openai.OpenAI) -> dict[str, list[Done]]:
    """Returns the steps of all agents, which run at the same time."""
    with ThreadPoolExecutor(len(AGENTS)) as pool:
        running = {name: pool.submit(run_agent, client, steps) for name, steps in AGENTS.items()}
        return {name: future.result() for name, future in running.items()}


def main() -> None:
    """Registers the tasks, runs both agents at once, and prints what they did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://localhost:8000/v1")
    parser.add_argument("--api-key", default="none")
    arguments = parser.parse_args()
    client = openai.OpenAI(base_url=arguments.url, api_key=arguments.api_key)
    register(client)
    for name, steps in run_together(client).items():
        for done in steps:
            print(f"{name:8} {done.adapter:24} {done.step.text}\n{'':34}-> {done.answer}")


if __name__ == "__main__":
    main()
