"""How long one adapter takes, from the description's text to the bytes of a PEFT file.

    python benchmarks/generation.py [--descriptions 50] [--hypernet FILE] [--json OUT]

The median over descriptions that are all different, embedding included, nothing cached; and
the part of it that the text encoder takes.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

from hyperplug.basemodel import resolve_base
from hyperplug.config import load_settings
from hyperplug.embedding import load_embedder
from hyperplug.entities import Example
from hyperplug.evaluation.machine import hardware, versions
from hyperplug.hypernet.encoding import encode_descriptions
from hyperplug.hypernet.generate import load_generator

SUBJECTS = ("hotel review", "support ticket", "news headline", "recipe", "court ruling")
ASKS = (
    "Say whether the {} number {} is positive or negative. Answer with one word.",
    "Summarise the {} number {} in one plain sentence.",
    'Reply with JSON {{"label": ...}}: is the {} number {} about money, people or places?',
)


@click.command()
@click.option("--descriptions", default=50, show_default=True)
@click.option("--hypernet", type=click.Path(path_type=Path))
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(descriptions: int, hypernet: Path | None, out: Path | None) -> None:
    """Prints the times as JSON."""
    settings = load_settings(hypernet=hypernet)
    base = resolve_base(settings.base, cache=settings.cache)
    embedder = load_embedder(settings.embedder)
    generator = load_generator(settings.hypernet, embedder=embedder, base=base)
    texts = [
        ASKS[n % len(ASKS)].format(SUBJECTS[n % len(SUBJECTS)], n) for n in range(descriptions)
    ]
    shown = tuple(Example(input=f"case {n}", output="positive") for n in range(8))
    for text in texts[:3]:
        generator.generate(f"{text} Warm.", shown)
    result = {
        "adapter_ms": median_ms(texts, generator.generate),
        "adapter_with_8_examples_ms": median_ms(texts, lambda t: generator.generate(t, shown)),
        "text_encoder_ms": median_ms(texts, lambda t: encode_descriptions(embedder, [t])),
        "descriptions": descriptions,
        "threads": torch.get_num_threads(),
        "hypernet": generator.spec.fingerprint,
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }
    text = json.dumps(result, indent=2)
    click.echo(text)
    if out is not None:
        out.write_text(f"{text}\n")


def median_ms(texts: list[str], work: Callable[[str], object]) -> float:
    """Returns the median time of `work` over the texts."""
    seconds: list[float] = []
    for text in texts:
        started = time.perf_counter()
        work(text)
        seconds.append(time.perf_counter() - started)
    return round(1000 * statistics.median(seconds), 1)


if __name__ == "__main__":
    main()
