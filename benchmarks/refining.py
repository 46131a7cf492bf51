"""Score against training steps: from a generated adapter, and from scratch, on a few examples.

    python benchmarks/refining.py --tasks CORPUS [--examples 8] [--json OUT] [--plot OUT.png]
    python benchmarks/refining.py --tasks CORPUS/validation.jsonl.gz --generated-rate 1e-3 ...

For one task of each family: an adapter is generated from the description and the examples and
refined on them, and an ordinary LoRA is trained on the same examples. Both are looked at on the
way: score and answer loss on other examples of the task. "best" is the step that a quarter of
the examples, held back, would choose: what `refine-adapter` and `train-adapter` store. The
learning rates are for validation tasks to choose.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from hyperplug.adapters.peft_format import unpack
from hyperplug.basemodel import resolve_base
from hyperplug.config import load_settings
from hyperplug.embedding import load_embedder
from hyperplug.entities import AdapterWeights, Example
from hyperplug.evaluation.adapters import Conditions
from hyperplug.evaluation.answers import Answerer
from hyperplug.evaluation.comparisons import TaskScores, interval
from hyperplug.evaluation.machine import hardware, versions
from hyperplug.evaluation.metrics import score
from hyperplug.evaluation.prompts import PromptMaker, Regime
from hyperplug.evaluation.selection import select_examples, select_tasks, shown_examples
from hyperplug.hypernet.data import CorpusTask, family_groups, read_corpus, tokenise
from hyperplug.hypernet.generate import load_generator
from hyperplug.hypernet.loading import load_frozen, load_tokenizer, pick_device, pick_dtype
from hyperplug.hypernet.losses import AnswerLoss
from hyperplug.hypernet.model import LoraBatch
from hyperplug.hypernet.refine import Refined, RefineProgress, Refiner, RefineRecipe
from hyperplug.hypernet.splits import split_file

LOOKS = (1, 2, 5, 10, 20, 40, 80)
NEVER = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where training begins, and how it goes."""

    steps: int
    learning_rate: float


STARTS = {
    "generated": Start(steps=20, learning_rate=5e-4),
    "scratch": Start(steps=80, learning_rate=2e-3),
}


class Bench:
    """The models, and what is found with them."""

    def __init__(self, *, seed: int, dtype: str) -> None:
        settings = load_settings()
        base = resolve_base(settings.base, cache=settings.cache)
        self.embedder = load_embedder(settings.embedder)
        self.generator = load_generator(settings.hypernet, embedder=self.embedder, base=base)
        self._modules = self.generator.spec.target_modules
        device = pick_device("auto")
        frozen = load_frozen(base, self._modules, device=device, dtype=pick_dtype(dtype, device))
        self.device, self.dtype = frozen.device, frozen.dtype
        self._tokenizer = load_tokenizer(base)
        self._answerer = Answerer(frozen, self._tokenizer)
        self._losses = AnswerLoss(frozen, states=None)
        shapes = {path: base.spec.module_shapes[path] for path in self._modules}
        self._refiner = Refiner(frozen, self._tokenizer, shapes)
        self._seed = seed

    def follow(
        self, name: str, start: Start, task: CorpusTask, shown: Sequence[Example]
    ) -> dict[str, AdapterWeights | None]:
        """Returns the adapter at each look, and the best one; None where it is the start."""
        looks: dict[str, AdapterWeights | None] = {}

        def keep(progress: RefineProgress) -> None:
            if progress.step in LOOKS:
                looks[str(progress.step)] = progress.weights()

        recipe = RefineRecipe(
            steps=start.steps,
            learning_rate=start.learning_rate,
            seed=self._seed,
            patience=NEVER,
        )
        refined: Refined
        if name == "generated":
            weights = self.generator.generate(task.descriptions[0], shown)
            looks["0"] = weights
            refined = self._refiner.refine(weights, shown, recipe=recipe, on_step=keep)
            looks["best"] = refined.weights or weights
        else:
            looks["0"] = None
            refined = self._refiner.train(16, shown, recipe=recipe, on_step=keep)
            looks["best"] = refined.weights
        return looks

    def measure(
        self, task: CorpusTask, looks: Mapping[str, AdapterWeights | None]
    ) -> dict[str, dict[str, float]]:
        """Returns score and loss on the task's questions at each look."""
        nothing = Conditions(seed=self._seed, shown={}, partners={}, partners_shown={})
        prompts = PromptMaker(self._answerer, self._tokenizer, conditions=nothing)
        reading = self._answerer.read(prompts.prompts(task, wanted=Regime()))
        sequences = tokenise(self._tokenizer, task, max_tokens=4_096, max_answer_tokens=1_024)
        found: dict[str, dict[str, float]] = {}
        for look, weights in looks.items():
            loras = None if weights is None else self._loras(weights)
            answers = self._answerer.answer(reading, loras)
            scores = [
                score(task.metric, answer=answer, expected=example.output)
                for answer, example in zip(answers, task.examples, strict=True)
            ]
            with torch.no_grad():
                loss = float(self._losses(loras, sequences).mean())
            found[look] = {"score": statistics.fmean(scores), "loss": loss}
        return found

    def _loras(self, weights: AdapterWeights) -> list[LoraBatch]:
        factors = unpack(weights.data)
        scale = weights.alpha / weights.rank
        return [
            LoraBatch(
                a=torch.from_numpy(factors[path][0])[None].to(self.device),
                b=torch.from_numpy(factors[path][1] * scale)[None].to(self.device),
            )
            for path in self._modules
        ]


@click.command()
@click.option("--tasks", type=click.Path(path_type=Path), required=True)
@click.option("--limit-tasks", type=int, help="[default: one of each family]")
@click.option("--examples", default=8, show_default=True, help="To train on, of each task.")
@click.option("--limit-examples", default=10, show_default=True, help="To be asked.")
@click.option("--generated-rate", default=STARTS["generated"].learning_rate, show_default=True)
@click.option("--scratch-rate", default=STARTS["scratch"].learning_rate, show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
@click.option("--plot", type=click.Path(path_type=Path))
def main(
    tasks: Path,
    limit_tasks: int | None,
    examples: int,
    limit_examples: int,
    generated_rate: float,
    scratch_rate: float,
    dtype: str,
    seed: int,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Prints the curves as JSON. An interrupted run with --json goes on."""
    every = read_corpus(split_file(tasks, "test") or tasks).tasks
    limit = limit_tasks or len(family_groups(every))
    rates = {"generated": generated_rate, "scratch": scratch_rate}
    starts = {name: replace(start, learning_rate=rates[name]) for name, start in STARTS.items()}
    bench = Bench(seed=seed, dtype=dtype)
    kept = out.with_name(f".{out.name}.partial") if out is not None else None
    done: dict[str, Any] = json.loads(kept.read_text()) if kept and kept.is_file() else {}
    for number, task in enumerate(select_tasks(every, limit=limit, seed=seed), start=1):
        if task.id in done:
            continue
        asked = select_examples(task, limit=limit_examples, seed=seed)
        shown = shown_examples(task, asked, seed=seed, limit=examples)
        done[task.id] = {
            name: bench.measure(asked, bench.follow(name, start, task, shown))
            for name, start in starts.items()
        }
        click.echo(f"{number} of {limit}: {task.id}", err=True)
        if kept is not None:
            kept.write_text(json.dumps(done))
    result = {
        "curves": {name: curve([found[name] for found in done.values()]) for name in STARTS},
        "fewer_steps": fewer_steps(done),
        "ahead": {
            look: ahead(done, ("generated", "20"), ("scratch", look), seed=seed)
            for look in ("20", "80", "best")
        },
        "tasks": len(done),
        "examples": examples,
        "asked": limit_examples,
        "learning_rates": rates,
        "by_task": done,
        "seed": seed,
        "dtype": str(bench.dtype).removeprefix("torch."),
        "hypernet": bench.generator.spec.fingerprint,
        "hardware": hardware(bench.device),
        "versions": versions(),
    }
    text = json.dumps(result, indent=1)
    click.echo(text)
    if out is not None:
        out.write_text(f"{text}\n", encoding="utf-8")
    if kept is not None:
        kept.unlink(missing_ok=True)
    if plot is not None:
        draw(result["curves"], plot, examples=examples)


def curve(found: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Returns the mean over tasks of score and loss at each look."""
    return {
        look: {
            figure: round(statistics.fmean(each[look][figure] for each in found), 3)
            for figure in ("score", "loss")
        }
        for look in found[0]
    }


def fewer_steps(done: Mapping[str, Any]) -> dict[str, Any]:
    """Returns for each look at the generated start when training from scratch is as good."""
    curves = {name: curve([found[name] for found in done.values()]) for name in STARTS}
    steps = [look for look in curves["scratch"] if look != "best"]
    return {
        look: next(
            (int(step) for step in steps if curves["scratch"][step]["score"] >= at["score"]), None
        )
        for look, at in curves["generated"].items()
    }


def ahead(
    done: Mapping[str, Any], first: tuple[str, str], second: tuple[str, str], *, seed: int
) -> dict[str, float]:
    """Returns by how many points one start's look is ahead of another's, with its interval."""
    scores = {
        task: found[first[0]][first[1]]["score"] - found[second[0]][second[1]]["score"]
        for task, found in done.items()
    }
    tasks = [
        TaskScores(id=task, family=task, metric="", examples=1, scores={"ahead": points})
        for task, points in scores.items()
    ]
    estimate = interval(tasks, "ahead", seed=seed)
    if estimate is None:
        return {}
    return {key: round(getattr(estimate, key), 1) for key in ("mean", "low", "high")}


def draw(curves: Mapping[str, Any], path: Path, *, examples: int) -> None:
    """Writes the plot."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    labels = {"generated": "from a generated adapter", "scratch": "from scratch"}
    colours = {"generated": "#1f77b4", "scratch": "#7f7f7f"}
    for axis, (figure_name, title) in zip(
        axes, (("score", "score (0 to 100)"), ("loss", "answer loss (nats a token)")), strict=True
    ):
        for name, found in curves.items():
            steps = sorted(int(look) for look in found if look != "best")
            values = [found[str(step)][figure_name] for step in steps]
            axis.plot(steps, values, marker="o", label=labels[name], color=colours[name])
            axis.axhline(
                found["best"][figure_name], color=colours[name], linestyle=":", linewidth=1
            )
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(-0.2, 1.1 * max(LOOKS))
        axis.set_xticks([0, *LOOKS], [str(step) for step in (0, *LOOKS)])
        axis.set_xlabel(f"steps on {examples} examples")
        axis.set_title(title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False, loc="upper right")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
