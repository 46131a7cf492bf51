"""What a stream of tasks leaves behind: learning one task after another, and forgetting.

    python benchmarks/streams.py --tasks CORPUS/validation.jsonl.gz --known CORPUS/train.jsonl.gz \\
        --out DIR [--tasks-count 15] [--orders 3] [--chunk 3] [--json OUT] [--plot OUT.png]

A stage brings `--chunk` classification tasks, of as many families as there are. After each,
every learner is measured on the tasks that it has seen and on those of the next stage, by
the loss of the expected answers and by the score of its own. Every learner has the same
steps and rows. The model that does all tasks itself (one LoRA, all weights) has the
description in its prompts; adapters of tasks have it nowhere else. Tasks of --known, which
the hypernetwork was trained on, are measured before and after, and so are simple questions that
are no task's ("own"): with the adapter where there is only one, else without any. The same
command goes on where it was interrupted; `--quick` shows that everything works.
"""

from __future__ import annotations

import json
import random
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from hyperplug.basemodel import BaseModel, resolve_base
from hyperplug.config import Settings, load_settings
from hyperplug.embedding import Embedder, load_embedder
from hyperplug.errors import ConfigError
from hyperplug.evaluation.continual import stream_figures
from hyperplug.evaluation.machine import hardware, versions
from hyperplug.evaluation.stream_learners import (
    Budget,
    GrowingGenerator,
    Learner,
    LoraTrainer,
    Memory,
    RetrievedLoras,
    SequentialLora,
    WholeModel,
)
from hyperplug.evaluation.stream_marks import Examiner, Mark
from hyperplug.evaluation.stream_tasks import StreamLimits, StreamReader, StreamTask
from hyperplug.hypernet.checkpoint import shipped_checkpoint, write_atomically
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.generate import load_fitting, vocabulary_for
from hyperplug.hypernet.loading import load_frozen, load_tokenizer, pick_device, pick_dtype
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.model import LoraBatch
from hyperplug.hypernet.options import DEFAULT_KEEP_STRENGTH, EXTENDING_RATE
from hyperplug.hypernet.states import LowerStates, keep_states

ARMS = {
    "lora": "one LoRA, trained on",
    "model": "all weights, trained on",
    "generator": "the hypernetwork, trained on without care",
    "keeping": "the hypernetwork with the penalty",
    "replaying": "the hypernetwork with the penalty and replay",
    "retrieval": "a LoRA a task, that of the nearest description served",
    "joint-lora": "one LoRA, trained on all tasks at once",
    "joint-generator": "the hypernetwork, trained on all tasks at once",
}
_KEPT = 200  # wordings of --known that the hypernetwork is held to


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """The options of the command."""

    tasks: Path
    known: Path
    out: Path
    arms: tuple[str, ...] = tuple(ARMS)
    tasks_count: int = 15
    known_count: int = 5
    orders: int = 3
    chunk: int = 3
    steps: int = 8
    rows: int = 8
    trained: int = 24
    asked: int = 4
    max_tokens: int = 72
    keep_strength: float = DEFAULT_KEEP_STRENGTH
    replay: int = 4
    rank: int = 16
    scale: float = 2.0
    lora_rate: float = 2e-3
    model_rate: float = 2e-5
    generator_rate: float = EXTENDING_RATE
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        unknown = [name for name in self.arms if name not in ARMS]
        if unknown:
            raise ConfigError(f"unknown arm {unknown[0]!r}", hint=f"choose among {', '.join(ARMS)}")


QUICK: dict[str, Any] = {
    "tasks_count": 3,
    "known_count": 1,
    "orders": 1,
    "chunk": 1,
    "steps": 2,
    "rows": 2,
    "asked": 2,
}


class Stream:
    """Runs the arms of a benchmark; what is done lies in files."""

    def __init__(
        self, options: StreamOptions, *, settings: Settings, embedder: Embedder | None = None
    ) -> None:
        self.options = options
        self._start = settings.hypernet or shipped_checkpoint()
        self._model: BaseModel = resolve_base(settings.base, cache=settings.cache)
        embedder = embedder or load_embedder(settings.embedder)
        checkpoint = load_fitting(self._start, embedder=embedder, base=self._model.spec)
        self._fingerprint = checkpoint.fingerprint
        self._modules = checkpoint.spec.target_modules
        self._tokenizer = load_tokenizer(self._model)
        reader = StreamReader(
            self._tokenizer, embedder=embedder, vocabulary=vocabulary_for(checkpoint, self._model)
        )
        limits = StreamLimits(
            tasks=options.tasks_count,
            trained=options.trained,
            asked=options.asked,
            max_tokens=options.max_tokens,
            seed=options.seed,
        )
        self.tasks = reader.read(options.tasks, limits)
        self.known = reader.read(options.known, replace(limits, tasks=options.known_count))
        self._kept = reader.descriptions(options.known, limit=_KEPT, seed=options.seed)
        self._base = self._loaded()
        self._states: LowerStates | None = keep_states(self._base, gib=2.0)
        self._losses = AnswerLoss(self._base, states=self._states)
        self._bank: dict[str, list[LoraBatch]] = {}
        self._examiner = Examiner(self._base, self._tokenizer, losses=self._losses)

    def run(self) -> dict[str, Any]:
        """Returns the figures of all arms."""
        self._check_folder()
        found: dict[str, Any] = {}
        for arm in self.options.arms:
            orders = 1 if arm.startswith("joint") else self.options.orders
            runs = [self._arm(arm, order) for order in range(orders)]
            found[arm] = {"meaning": ARMS[arm], "mean": _means(runs), "orders": runs}
        return {
            "settings": self._settings(),
            "tasks": [task.id for task in self.tasks],
            "known": [task.id for task in self.known],
            "arms": found,
            "hardware": hardware(self._base.device),
            "versions": versions(),
        }

    def stages(self, arm: str, order: int) -> list[list[StreamTask]]:
        """Returns the tasks of each stage of an order."""
        rng = random.Random(f"{self.options.seed}/order/{order}")
        tasks = rng.sample(self.tasks, len(self.tasks))
        size = len(tasks) if arm.startswith("joint") else self.options.chunk
        return [tasks[start : start + size] for start in range(0, len(tasks), size)]

    def _arm(self, arm: str, order: int) -> dict[str, Any]:
        """Returns an arm's figures in an order of the tasks."""
        stages = self.stages(arm, order)
        folder = self.options.out / arm / f"order-{order}"
        done = [json.loads(file.read_text()) for file in _finished(folder)]
        if len(done) <= len(stages):
            done += self._stages(arm, stages, folder, first=len(done))
        return {
            "stages": [[task.id for task in tasks] for tasks in stages],
            "loss": _figures(stages, done, "loss", sign=-1.0),
            "score": _figures(stages, done, "score", sign=1.0),
            "known": {
                when: {
                    kind: _mean([row["known"][task.id][kind] for task in self.known])
                    for kind in ("loss", "score")
                }
                for when, row in (("before", done[0]), ("after", done[-1]))
            },
            "own": {"before": done[0]["own"], "after": done[-1]["own"]},
            "seconds": round(sum(row["seconds"] for row in done)),
            "marks": [row["marks"] for row in done],
        }

    def _stages(
        self, arm: str, stages: Sequence[Sequence[StreamTask]], folder: Path, *, first: int
    ) -> list[dict[str, Any]]:
        """Returns the marks of the stages that are not done yet, 0 being that before them."""
        learner, examiner = self._learner(arm)
        file = {
            stage: folder / f"learner-{stage}{learner.suffix}"
            for stage in range(1, len(stages) + 1)
        }
        for stage in range(1, first):
            if stage == first - 1 or not learner.whole:
                learner.load(stages[stage - 1], file[stage])
        rows: list[dict[str, Any]] = []
        for stage in range(first, len(stages) + 1):
            started = time.monotonic()
            if stage:
                click.echo(f"{arm}, {folder.name}: stage {stage} of {len(stages)}", err=True)
                learner.learn(stages[stage - 1], file[stage])
            ends = stage in (0, len(stages))
            asked = [task for tasks in (stages if ends else stages[: stage + 1]) for task in tasks]
            marks = {task.id: examiner.mark(learner, task) for task in asked}
            known = {task.id: examiner.mark(learner, task) for task in self.known if ends}
            row: dict[str, Any] = {"marks": _plain(marks), "known": _plain(known)}
            row["own"] = round(examiner.own(learner), 2) if ends else None
            row["seconds"] = round(time.monotonic() - started, 1)
            rows.append(row)
            _write(folder / f"stage-{stage}.json", row)
            if stage > 1 and learner.whole:
                file[stage - 1].unlink(missing_ok=True)
        return rows

    def _learner(self, arm: str) -> tuple[Learner, Examiner]:
        options = self.options
        if arm == "model":
            own = self._loaded()
            budget = self._budget(options.model_rate)
            losses = AnswerLoss(own, states=None)
            examiner = Examiner(own, self._tokenizer, losses=losses, changing=True)
            return WholeModel(own, budget), examiner
        if arm in ("lora", "joint-lora", "retrieval"):
            trainer = LoraTrainer(
                self._budget(options.lora_rate),
                rank=options.rank,
                scale=options.scale,
                shapes=[self._model.spec.module_shapes[path] for path in self._modules],
                losses=self._losses,
            )
            if arm == "retrieval":
                return RetrievedLoras(trainer, trained=self._bank), self._examiner
            return SequentialLora(trainer), self._examiner
        memory = {
            "keeping": Memory(strength=options.keep_strength, kept=self._kept),
            "replaying": Memory(
                strength=options.keep_strength, replay=options.replay, kept=self._kept
            ),
        }.get(arm, Memory())
        learner = GrowingGenerator(
            self._start,
            self._budget(options.generator_rate),
            memory,
            base=self._base,
            states=self._states,
        )
        return learner, self._examiner

    def _budget(self, rate: float) -> Budget:
        options = self.options
        return Budget(steps=options.steps, rows=options.rows, learning_rate=rate, seed=options.seed)

    def _loaded(self) -> FrozenBase:
        device = pick_device(self.options.device)
        return load_frozen(
            self._model, self._modules, device=device, dtype=pick_dtype("auto", device)
        )

    def _settings(self) -> dict[str, Any]:
        chosen = {
            name: value
            for name, value in asdict(self.options).items()
            if name not in ("tasks", "known", "out", "arms", "orders", "device")
        }
        return chosen | {"base": self._model.spec.fingerprint, "hypernet": self._fingerprint}

    def _check_folder(self) -> None:
        """Raises ConfigError if the folder holds another run."""
        names = [task.id for task in (*self.tasks, *self.known)]
        facts = json.loads(json.dumps(self._settings() | {"names": names}))
        file = self.options.out / "settings.json"
        if file.is_file() and json.loads(file.read_text()) != facts:
            raise ConfigError(
                f"{self.options.out} holds a run with other settings",
                hint="give another --out, or delete that folder",
            )
        _write(file, facts)


def _figures(
    stages: Sequence[Sequence[StreamTask]],
    rows: Sequence[Mapping[str, Any]],
    kind: str,
    *,
    sign: float,
) -> dict[str, float | None]:
    """Returns a stream's figures, of losses too so that a gain is positive but for ACC."""
    tasks = [(task.id, number) for number, stage in enumerate(stages, 1) for task in stage]
    marks = np.array(
        [[row["marks"].get(id_, {}).get(kind, np.nan) for id_, _ in tasks] for row in rows]
    )
    found = asdict(stream_figures(sign * marks, stages=[stage for _, stage in tasks]))
    for name in ("acc", "learned"):
        found[name] *= sign
    return {name: None if value is None else round(value, 4) for name, value in found.items()}


def _means(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the mean of each figure over the orders."""
    return {
        kind: {
            name: None if value is None else _mean([run[kind][name] for run in runs])
            for name, value in runs[0][kind].items()
        }
        for kind in ("loss", "score")
    }


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def _plain(marks: Mapping[str, Mark]) -> dict[str, dict[str, float]]:
    return {
        id_: {"loss": round(mark.loss, 4), "score": round(mark.score, 2)}
        for id_, mark in marks.items()
    }


def _finished(folder: Path) -> list[Path]:
    """Returns the files of the stages that are done, up to the first that is not."""
    files: list[Path] = []
    while (file := folder / f"stage-{len(files)}.json").is_file():
        files.append(file)
    return files


def _write(file: Path, content: Any) -> None:
    write_atomically(file, f"{json.dumps(content, indent=1)}\n".encode())


_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--tasks", type=_PATH, required=True, help="Where the stream's tasks come from.")
@click.option("--known", type=_PATH, required=True, help="What the hypernetwork was trained on.")
@click.option("--out", type=_PATH, required=True, help="Folder of what is done.")
@click.option("--arms", help=f"Of {', '.join(ARMS)}.")
@click.option("--tasks-count", type=int)
@click.option("--known-count", type=int)
@click.option("--orders", type=int)
@click.option("--chunk", type=int, help="Tasks a stage.")
@click.option("--steps", type=int, help="Steps a task.")
@click.option("--rows", type=int, help="Examples a step.")
@click.option("--trained", type=int, help="Examples of a task to train on.")
@click.option("--asked", type=int, help="Examples of a task to measure on.")
@click.option("--max-tokens", type=int, help="Leave out longer examples.")
@click.option("--keep-strength", type=float)
@click.option("--replay", type=int, help="Examples of an earlier task to train on again.")
@click.option("--rank", type=int, help="Of the LoRAs; likewise --scale.")
@click.option("--scale", type=float)
@click.option("--lora-rate", type=float, help="Learning rate; likewise of the others.")
@click.option("--model-rate", type=float)
@click.option("--generator-rate", type=float)
@click.option("--seed", type=int)
@click.option("--device")
@click.option("--quick", is_flag=True, help="Three tasks, two steps each: does it work?")
@click.option("--json", "result", type=_PATH, help="Write the figures there too.")
@click.option("--plot", type=_PATH)
def main(quick: bool, result: Path | None, plot: Path | None, **given: Any) -> None:
    """Prints the figures as JSON."""
    chosen = (QUICK if quick else {}) | {k: v for k, v in given.items() if v is not None}
    if "arms" in chosen:
        chosen["arms"] = tuple(name.strip() for name in chosen["arms"].split(","))
    found = Stream(StreamOptions(**chosen), settings=load_settings()).run()
    click.echo(json.dumps(found, indent=1))
    if result is not None:
        _write(result, found)
    if plot is not None:
        draw(found, plot)


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draws what each arm scores right after learning, at the end, and of its own knowledge."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    arms = found["arms"]
    places = np.arange(len(arms))
    series = {
        "right after learning each task": [a["mean"]["score"]["learned"] for a in arms.values()],
        "the same tasks, when all are learned": [a["mean"]["score"]["acc"] for a in arms.values()],
        "simple questions that are no task, then": [
            _mean([order["own"]["after"] for order in a["orders"]]) for a in arms.values()
        ],
    }
    own = _mean([order["own"]["before"] for a in arms.values() for order in a["orders"]])
    figure, axis = plt.subplots(figsize=(9, 6), layout="constrained")
    height = 0.26
    for number, (name, values) in enumerate(series.items()):
        bars = axis.barh(
            places + (number - 1) * height,
            values,
            height,
            label=name,
            color=("#9ecae1", "#1f77b4", "#bbbbbb")[number],
        )
        axis.bar_label(bars, fmt=" %.0f", fontsize=8)
    axis.axvline(own, color="#888888", linewidth=0.8, linestyle=":")
    axis.text(own, -0.75, "before", fontsize=8, color="#888888", ha="center")
    axis.set_yticks(places, [textwrap.fill(arm["meaning"], 34) for arm in arms.values()])
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("score, 0 to 100")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
