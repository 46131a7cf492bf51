"""How fast a hypernetwork is trained, against the floor that the hardware sets.

    python benchmarks/training.py --tasks tasks.prepared [--steps 20] [--json OUT]

The floor is 4 operations a base parameter and token (forward, and backward to the adapters)
at the measured rate of a large matrix product. Two ratios come out: while the lower layers'
output is computed for the first time, and once it is kept.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from hyperplug.basemodel import resolve_base
from hyperplug.config import load_settings
from hyperplug.evaluation.machine import hardware, versions
from hyperplug.hypernet.forecast import floor_tokens_per_second, matrix_rate
from hyperplug.hypernet.loading import load_frozen, pick_device, pick_dtype, weights_bytes
from hyperplug.hypernet.options import TrainingOptions
from hyperplug.hypernet.prepare import choose_modules
from hyperplug.hypernet.prepared import load_prepared
from hyperplug.hypernet.recipe import network_config
from hyperplug.hypernet.states import LowerStates
from hyperplug.hypernet.train import TrainConfig, Trainer

_WARM_STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Tokens a second, and their ratio to the floor's."""

    tokens_per_second: float
    ratio_to_floor: float


@click.command()
@click.option("--tasks", type=click.Path(path_type=Path), required=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--compiled/--plain", default=True, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(tasks: Path, steps: int, compiled: bool, device: str, out: Path | None) -> None:
    """Prints the speeds as JSON."""
    where = pick_device(device)
    dtype = pick_dtype("auto", where)
    settings = load_settings()
    base = resolve_base(settings.base, cache=settings.cache)
    options = TrainingOptions(tasks=tasks, out=tasks.with_suffix(".safetensors"))
    modules = choose_modules(base.spec, top_layers=options.top_layers)
    frozen = load_frozen(base, modules, device=where, dtype=dtype)
    corpus = load_prepared(tasks)
    keeps = frozen.can_split and where.type == "cpu"
    rates = [matrix_rate(where, dtype)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            config=TrainConfig(steps=10**6, compiled=compiled),
            network=network_config(options, base.spec, corpus, modules),
            base=frozen,
            train=corpus.train,
            validation=(),
            out=Path(folder) / "network.safetensors",
            states=LowerStates(frozen, budget_bytes=2**33) if keeps else None,
        )
        _warm(trainer, steps)
        first = _tokens_per_second(trainer, start=_WARM_STEPS, steps=steps)
        again = _tokens_per_second(trainer, start=_WARM_STEPS, steps=steps)
    rates.append(matrix_rate(where, dtype))
    parameters = weights_bytes(base.folder, dtype) // dtype.itemsize
    floor = floor_tokens_per_second(parameters, max(rates))
    result = {
        "matrix_teraflops": [round(rate / 1e12, 3) for rate in rates],
        "floor_tokens_per_second": round(floor),
        "first_visit": asdict(_speed(first, floor)),
        "kept": asdict(_speed(again, floor)),
        "hardware": hardware(where),
        "versions": versions(),
    }
    text = json.dumps(result, indent=2)
    click.echo(text)
    if out is not None:
        out.write_text(f"{text}\n")


def _warm(trainer: Trainer, steps: int) -> None:
    """Runs steps whose shapes are those that will be measured, on other sequences."""
    seen: set[int] = set()
    for number in range(_WARM_STEPS + steps):
        length = trainer.sampler.step(number).length
        if number < _WARM_STEPS or length not in seen:
            trainer.run_step(10**5 + number if length in seen else number)
        seen.add(length)


def _tokens_per_second(trainer: Trainer, *, start: int, steps: int) -> float:
    before, started = trainer.tokens, time.perf_counter()
    for number in range(start, start + steps):
        trainer.run_step(number)
    return (trainer.tokens - before) / (time.perf_counter() - started)


def _speed(tokens_per_second: float, floor: float) -> Speed:
    return Speed(
        tokens_per_second=round(tokens_per_second),
        ratio_to_floor=round(tokens_per_second / floor, 3),
    )


if __name__ == "__main__":
    main()
