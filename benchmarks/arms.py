"""Trains every arm of the comparison with one budget, tunes each on validation, and measures.

    python benchmarks/arms.py --tasks CORPUS --out DIR [--steps 600] [--sweep-steps 60]

CORPUS is a folder with train, validation and test tasks. The stages are processes of the
`hyperplug` command; a stage whose file is there is not run again, and one that was
interrupted goes on, so that the same command finishes what a kill cut off. On a GPU it
needs nothing but the GPU; `--seeds 0,1,2` trains the networks three times.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hyperplug.evaluation.stages import run
from hyperplug.hypernet.train import best_file

PLAIN = ("--composed", "0", "--rewordings", "0", "--in-prompt", "0")
TOLD = ("--composed", "0", "--in-prompt", "1", "--max-tokens", "288")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """An arm that is trained.

    Attributes:
        corpus: how its tasks are prepared, a key of `CORPORA`.
        shape: options that choose the network.
        rates: learning rates to try; likewise `scales` of the adapters.
        like: the network whose tuned settings it takes, in place of trials of its own.
    """

    corpus: str
    shape: tuple[str, ...] = ()
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    scales: tuple[float, ...] = (1.0, 2.0, 4.0)
    like: str | None = None


CORPORA: dict[str, tuple[str, ...]] = {"full": (), "plain": PLAIN, "told": TOLD}
STATIC = ("--static-rank", "16", "--generated-rank", "0")
PAPER_RATES, PAPER_SCALES = (2e-4, 5e-4, 1e-3), (2.0, 4.0, 8.0)
NETWORKS = {
    "hypernet": Network(corpus="full"),
    "static": Network(corpus="plain", shape=STATIC),
    "static-prompt": Network(corpus="told", shape=STATIC, like="static"),
    "t2l": Network(
        corpus="full",
        shape=("--network", "text-to-lora-l"),
        rates=PAPER_RATES,
        scales=PAPER_SCALES,
    ),
    "t2l-matched": Network(
        corpus="full",
        shape=("--network", "text-to-lora-matched"),
        like="t2l",
    ),
}


@click.command()
@click.option("--tasks", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--steps", default=600, show_default=True, help="Of every network.")
@click.option("--sweep-steps", default=60, show_default=True, help="Of every trial; 0 for none.")
@click.option("--trials", default=9, show_default=True, help="At most so many an arm.")
@click.option("--networks", default=",".join(NETWORKS), show_default=True)
@click.option("--seeds", default="0", show_default=True)
@click.option("--hypernet", type=click.Path(path_type=Path), help="Measure this one as ours.")
@click.option("--neighbours", default=3, show_default=True, help="LoRAs near a test task; 0: none.")
@click.option("--only-train", is_flag=True)
@click.option("--limit-examples", default=6, show_default=True, help="Asked of a test task.")
def main(
    tasks: Path,
    out: Path,
    steps: int,
    sweep_steps: int,
    trials: int,
    networks: str,
    seeds: str,
    hypernet: Path | None,
    neighbours: int,
    only_train: bool,
    limit_examples: int,
) -> None:
    """Trains, tunes and measures the arms."""
    splits = {name: split(tasks, name) for name in ("train", "validation", "test")}
    chosen = networks.split(",")
    likes = [NETWORKS[name].like or name for name in chosen]
    for corpus in dict.fromkeys(NETWORKS[name].corpus for name in [*chosen, *likes]):
        prepared = out / f"{corpus}.prepared"
        if not prepared.is_file():
            run("prepare-tasks", "--tasks", tasks, "--out", prepared, *CORPORA[corpus])
    for name, seed in itertools.product(chosen, seeds.split(",")):
        setting = best(name, out, sweep_steps=sweep_steps, trials=trials)
        train(name, out / f"{name}-{steps}-{seed}", out, setting=setting, steps=steps, seed=seed)
    if only_train:
        return
    banks = single_loras(splits, out, limit_examples=limit_examples, neighbours=neighbours)
    for seed in seeds.split(","):
        trained = {
            name: better(name, out / f"{name}-{steps}-{seed}.safetensors", splits)
            for name in chosen
        }
        if hypernet is not None:
            trained["hypernet"] = hypernet
        for t2l in [name for name in chosen if name.startswith("t2l")] or [""]:
            files = {**trained, "t2l": trained.get(t2l)}
            measure(
                splits,
                out,
                files=files | banks,
                name=f"test-{t2l or 'ours'}-{seed}",
                limit_examples=limit_examples,
            )


def split(tasks: Path, name: str) -> Path:
    """Returns the corpus's file of that split; ends with an error if there is none."""
    found = [path for path in sorted(tasks.iterdir()) if path.name.startswith(f"{name}.")]
    if not found:
        raise click.UsageError(f"{tasks} has no {name} split")
    return found[0]


def best(name: str, out: Path, *, sweep_steps: int, trials: int) -> tuple[float, float]:
    """Returns the learning rate and scale with the lowest loss on validation tasks."""
    name = NETWORKS[name].like or name
    settings = list(grid(NETWORKS[name]))[:trials]
    if not sweep_steps or len(settings) == 1:
        return settings[0]
    found: dict[tuple[float, float], float] = {}
    for rate, scale in settings:
        trial = out / "sweep" / f"{name}-{rate:g}-{scale:g}"
        train(name, trial, out, setting=(rate, scale), steps=sweep_steps, seed="0")
        found[rate, scale] = validation_loss(trial)
    table = [{"rate": r, "scale": s, "loss": loss} for (r, s), loss in found.items()]
    (out / "sweep" / f"{name}.json").write_text(json.dumps(table, indent=1))
    return min(found, key=lambda setting: found[setting])


def grid(network: Network) -> Iterator[tuple[float, float]]:
    """Yields learning rate and scale: the middle of both, other rates, other scales, the rest."""
    rates, scales = network.rates, network.scales
    middle = (rates[1], scales[1])
    pairs = itertools.product(rates, scales)
    yield from sorted(pairs, key=lambda pair: 2 * (pair[1] != middle[1]) + (pair[0] != middle[0]))


def train(
    name: str, trial: Path, out: Path, *, setting: tuple[float, float], steps: int, seed: str
) -> None:
    """Trains a network unless its checkpoint is there."""
    network, file = NETWORKS[name], trial.with_name(f"{trial.name}.safetensors")
    if file.is_file():
        return
    rate, scale = setting
    run(
        *("train-hypernet", "--tasks", out / f"{network.corpus}.prepared", "--out", file),
        *("--steps", steps, "--evaluate-every", max(20, steps // 8), "--seed", seed),
        *("--compiled", "on"),
        *("--learning-rate", rate, "--scale", scale, *network.shape),
        *("--cache-dir", out / "states", "--cache-gib", 14),
    )
    file.with_suffix(".state.pt").unlink(missing_ok=True)


def better(name: str, last: Path, splits: Mapping[str, Path]) -> Path:
    """Returns of a network's last weights and those of its lowest loss on validation tasks
    the ones that score higher on them."""
    files = [last, best_file(last)]
    if not files[1].is_file():
        return last
    arm = name.removesuffix("-matched")
    scores = []
    for file in files:
        result = file.with_suffix(".json")
        if not result.is_file():
            limits = ("--limit-examples", 3, "--dtype", "auto", "--seed", 0, "--json", result)
            tasks = ("--tasks", splits["validation"], "--train-tasks", splits["train"])
            run("evaluate", *tasks, "--arms", arm, f"--{arm}", file, *limits)
        scores.append(score(json.loads(result.read_text()), arm))
    return files[scores.index(max(scores))]


def score(result: Mapping[str, Any], arm: str) -> float:
    """Returns an arm's mean over families."""
    return float(result["arms"][arm]["family_mean"])


def validation_loss(trial: Path) -> float:
    """Returns the lowest loss on validation tasks that a trained network's log holds."""
    with trial.with_name(f"{trial.name}.csv").open() as file:
        return min(float(row["matched"]) for row in csv.DictReader(file))


def single_loras(
    splits: Mapping[str, Path], out: Path, *, limit_examples: int, neighbours: int
) -> dict[str, Path | None]:
    """Returns the LoRAs of single tasks, trained unless they are there: the test tasks' own,
    and those of the training tasks nearest to them."""
    oracle, bank = out / f"oracle-{limit_examples}.safetensors", out / "loras.safetensors"
    if not oracle.is_file():
        limits = ("--include-noncommercial", "--hold-out", limit_examples)
        run("train-loras", "--tasks", splits["test"], "--out", oracle, *limits)
    if neighbours and not bank.is_file():
        like = ("--like", splits["test"], "--neighbours", neighbours)
        run("train-loras", "--tasks", splits["train"], "--out", bank, *like)
    return {"oracle": oracle, "loras": bank if neighbours else None}


def measure(
    splits: Mapping[str, Path],
    out: Path,
    *,
    files: Mapping[str, Path | None],
    name: str,
    limit_examples: int,
) -> None:
    """Evaluates all arms that have what they need on the test split."""
    given: list[object] = ["--train-tasks", splits["train"]]
    for option in ("hypernet", "static", "static-prompt", "t2l", "oracle", "loras"):
        if files.get(option) is not None:
            given += [f"--{option}", files[option]]
    limits = ("--limit-examples", limit_examples, "--dtype", "auto", "--seed", 0, "--unrelated")
    result = ("--json", out / f"{name}.json", "--answers", out / f"{name}.jsonl")
    report = ("--report", out / "report")
    run("evaluate", "--tasks", splits["test"], "--arms", "all", *given, *limits, *result, *report)


if __name__ == "__main__":
    main()
