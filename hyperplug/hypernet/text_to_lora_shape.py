"""Shapes of Text-to-LoRA networks: their configuration, its reading, and their sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from hyperplug.errors import ConfigError

WIDENING = 4  # of every hidden layer against the latent state

Variant = Literal["L", "M", "S"]

_LAYER_NUMBER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextToLoraConfig:
    """Shape of a Text-to-LoRA network; stored in its checkpoint.

    Attributes:
        target_modules: full paths of the adapted projections, in model order.
        in_features: their input sizes, in the same order; likewise `out_features`.
        rank: rank of the adapters; the paper's is 8.
        scale: multiplier of the adapters; the paper's is `paper_scale`.
        variant: what the head gives at once, see the table in `text_to_lora`.
        latent_size: width of the residual blocks; half of it is the task code, a quarter
            each the embeddings of layer and type.
        head_size: width of the heads' input.
        dropout: within mixer, blocks and MLP, in training.
        rank_places: how S tells rows apart: "rotary" turns the state by an angle for each
            row, the authors' default; "learned" adds an embedding.

    Raises:
        ConfigError: if the variant is unknown or the latent size no multiple of 4.
    """

    base_fingerprint: str
    embedder_id: str
    embedding_size: int
    target_modules: tuple[str, ...]
    in_features: tuple[int, ...]
    out_features: tuple[int, ...]
    rank: int
    scale: float
    variant: Variant = "L"
    latent_size: int = 128
    head_size: int = 512
    dropout: float = 0.05
    rank_places: Literal["rotary", "learned"] = "rotary"

    def __post_init__(self) -> None:
        if self.variant not in ("L", "M", "S"):
            raise ConfigError(
                f"Text-to-LoRA has no variant {self.variant!r}", hint="take L, M or S"
            )
        if self.latent_size < 4 or self.latent_size % 4:
            raise ConfigError(
                f"latent size {self.latent_size} cannot be divided into quarters",
                hint="take a multiple of 4",
            )

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TextToLoraConfig:
        """Returns the configuration of `as_dict`'s content."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in content.items()
        }
        return cls(**values)


def paper_scale(rank: int) -> float:
    """Returns the paper's scale: rank-stabilised LoRA with an alpha of twice the rank."""
    return 2 * rank / math.sqrt(rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Projections that share a head: the same place in every layer.

    Attributes:
        slots: which of the configuration's modules they are.
    """

    in_features: int
    out_features: int
    slots: tuple[int, ...]

    def outputs(self, *, rank: int, variant: Variant) -> int:
        """Returns the size of their head's output."""
        if variant == "L":
            return rank * (self.in_features + self.out_features)
        widest = max(self.in_features, self.out_features)
        return rank * widest if variant == "M" else widest


def kinds_of(config: TextToLoraConfig) -> tuple[Kind, ...]:
    """Returns the types of projections, in order of their first appearance."""
    slots: dict[tuple[str, int, int], list[int]] = {}
    modules = zip(config.target_modules, config.in_features, config.out_features, strict=True)
    for slot, (path, inputs, outputs) in enumerate(modules):
        place = _LAYER_NUMBER.sub(".*.", path, count=1)
        slots.setdefault((place, inputs, outputs), []).append(slot)
    return tuple(
        Kind(in_features=inputs, out_features=outputs, slots=tuple(members))
        for (_, inputs, outputs), members in slots.items()
    )


def depths_of(config: TextToLoraConfig) -> tuple[int, ...]:
    """Returns for every module the place of its layer among the adapted layers."""
    matches = [_LAYER_NUMBER.search(path) for path in config.target_modules]
    layers = [int(match[1]) if match else 0 for match in matches]
    places = {layer: place for place, layer in enumerate(sorted(set(layers)))}
    return tuple(places[layer] for layer in layers)


def kind_of_slots(kinds: tuple[Kind, ...]) -> tuple[int, ...]:
    """Returns for every module the number of its type."""
    members = {slot: number for number, kind in enumerate(kinds) for slot in kind.slots}
    return tuple(members[slot] for slot in range(len(members)))


def text_to_lora_parameters(config: TextToLoraConfig) -> int:
    """Returns how many parameters a network of that shape has, without making one."""
    size, head, variant = config.latent_size, config.head_size, config.variant
    wide, kinds = WIDENING * size, kinds_of(config)
    depths = max(depths_of(config)) + 1
    task = (config.embedding_size + 1) * (size // 2) + size
    places = (depths + len(kinds)) * (size // 4) + size
    mixer = (size + 1) * wide + (wide + 1) * size
    blocks = 2 * (mixer + 2 * size)
    to_head = 2 * size + (size + 1) * wide + (wide + 1) * head
    sides = 0 if variant == "L" else (2 * len(kinds) + 2) * size
    learned = variant == "S" and config.rank_places == "learned"
    rows = (config.rank + 2) * size if learned else 0
    outputs = sum(kind.outputs(rank=config.rank, variant=variant) for kind in kinds)
    return task + places + mixer + blocks + to_head + sides + rows + (head + 1) * outputs


def matched_size(config: TextToLoraConfig, *, parameters: int) -> TextToLoraConfig:
    """Returns the configuration with widths for about so many parameters, else the same.

    The latent size stays, or grows as far as the heads' input can keep the configuration's
    ratio to it; the heads' input then takes up what is left. The count is off by at most
    half of what one unit of it costs.

    Raises:
        ConfigError: if the latent size alone needs more parameters.
    """
    ratio = config.head_size / config.latent_size
    fitted = _fit_head(config, parameters)
    if fitted.head_size < 1:
        raise ConfigError(
            f"Text-to-LoRA {config.variant} with a latent size of {config.latent_size} "
            f"has more than {parameters:,} parameters",
            hint="ask for more parameters, or take variant S or a smaller latent size",
        )
    while True:
        wider = _fit_head(replace(config, latent_size=fitted.latent_size + 4), parameters)
        if wider.head_size < ratio * wider.latent_size:
            return fitted
        fitted = wider


def _fit_head(config: TextToLoraConfig, parameters: int) -> TextToLoraConfig:
    fixed = text_to_lora_parameters(replace(config, head_size=0))
    cost = text_to_lora_parameters(replace(config, head_size=1)) - fixed
    return replace(config, head_size=round((parameters - fixed) / cost))
