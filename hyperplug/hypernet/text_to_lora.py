"""Text-to-LoRA, re-implemented as a generator to compare with.

    embedding of the description, root mean square 1 ── linear, norm ── task code z
    [z; layer embedding; type embedding] ── mixer ── two residual blocks ── MLP ── head
    adapter of a projection = the numbers of its type's head, cut into A and B

Charakorn, Cetin, Tang and Lange, "Text-to-LoRA: Instant Transformer Adaption", ICML 2025
(arXiv 2506.06105), written anew from what its authors' implementation does. Parameter
counts, and A and B on equal weights, agree with that one. What the shared base and corpus
set differently is in the configuration: text encoder, projections, rank and scale.

Three sizes of the same network differ in what one pass through the head gives:

| variant | one pass gives        | told apart by                      | head's outputs     |
|---------|-----------------------|------------------------------------|--------------------|
| L       | A and B               | -                                  | r (in + out)       |
| M       | A or B                | embedding of the side              | r max(in, out)     |
| S       | one row of A or of B' | embedding of the side, row's place | max(in, out)       |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperplug.hypernet.model import AdapterNetwork, LoraBatch, TaskInput
from hyperplug.hypernet.text_to_lora_shape import (
    WIDENING,
    Kind,
    TextToLoraConfig,
    depths_of,
    kind_of_slots,
    kinds_of,
)

_ROTARY_BASE = 10_000.0


class TextToLora(AdapterNetwork):
    """Maps sentence embeddings to the LoRA factors of every slot; nothing is static."""

    config: TextToLoraConfig

    def __init__(self, config: TextToLoraConfig) -> None:
        super().__init__()
        self.config = config
        latent, kinds, depths = config.latent_size, kinds_of(config), depths_of(config)
        self._kinds, self._depths = kinds, list(depths)
        self._kind_of_slot = list(kind_of_slots(kinds))
        self.task = nn.Sequential(
            nn.Linear(config.embedding_size, latent // 2), nn.LayerNorm(latent // 2)
        )
        self.depth = _embedding(max(depths) + 1, latent // 4)
        self.kind = _embedding(len(kinds), latent // 4)
        drop = config.dropout
        self.mixer = nn.Sequential(
            nn.Dropout(drop), *_layers(latent, latent, drop), nn.Dropout(drop)
        )
        self.block1 = _Residual(latent, drop)
        self.block2 = _Residual(latent, drop)
        self.to_head = nn.Sequential(nn.LayerNorm(latent), *_layers(latent, config.head_size, drop))
        if config.variant != "L":
            self.sides = nn.Parameter(torch.zeros(len(kinds), 2, latent))
            self.side_norm = nn.LayerNorm(latent)
        if config.variant == "S" and config.rank_places == "learned":
            self.rows = _embedding(config.rank, latent)
        outputs = [kind.outputs(rank=config.rank, variant=config.variant) for kind in kinds]
        self.heads = nn.ModuleList(nn.Linear(config.head_size, size) for size in outputs)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialises all weights as the paper does ("Bias-HyperInit").

        At the start every head gives its bias, the same for all tasks and layers.

        | weight          | start                         | why                                |
        |-----------------|-------------------------------|------------------------------------|
        | heads, weight   | 0                             | what is generated starts constant  |
        | heads, bias, L  | A as a LoRA's, B 0            | the adapter starts at zero         |
        | heads, bias, M  | as a LoRA's A / sqrt 2        | A and B share it: not at zero      |
        | heads, bias, S  | as a LoRA's A / sqrt 2r       | its r rows share it too            |
        | all embeddings  | normal                        | they must differ                   |
        | the others      | those of torch                | -                                  |
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm | nn.Embedding):
                module.reset_parameters()
        if self.config.variant != "L":
            nn.init.normal_(self.sides)
        for kind, head in zip(self._kinds, self.heads, strict=True):
            self._reset_head(kind, head)

    def _reset_head(self, kind: Kind, head: nn.Module) -> None:
        config = self.config
        weight, bias = head.parameters()
        nn.init.zeros_(weight)
        shared = {"L": 1, "M": 2, "S": 2 * config.rank}[config.variant]
        limit = 1 / math.sqrt(kind.in_features * shared)
        nn.init.uniform_(bias, -limit, limit)
        if config.variant == "L":
            bias[config.rank * kind.in_features :] = 0

    def encode(self, task: TaskInput) -> Tensor:
        """Returns task codes, (T, latent / 2); without a description that of a zero embedding."""
        pooled = task.pooled * task.has_description[:, None]  # (T, embedding)
        pooled = functional.normalize(pooled) * math.sqrt(pooled.shape[1])
        code: Tensor = self.task(pooled)
        return code

    def decode(
        self, code: Tensor, *, task: TaskInput | None = None, keep: Tensor | None = None
    ) -> list[LoraBatch]:
        """Returns the adapter of each code; where `keep` is 0, one with a B of zero."""
        scale = torch.full_like(code[:, 0], self.config.scale)  # (T,)
        if keep is not None:
            scale = scale * keep
        hidden = self._hidden(code)
        loras: dict[int, LoraBatch] = {}
        for kind, head in zip(self._kinds, self.heads, strict=True):
            a, b = self._factors(kind, head(hidden[:, list(kind.slots)]))
            b = b.transpose(-1, -2) * scale[:, None, None, None]  # (T, kind's, out, r)
            for place, slot in enumerate(kind.slots):
                loras[slot] = LoraBatch(a=a[:, place], b=b[:, place])
        return [loras[slot] for slot in range(len(loras))]

    def is_factor(self, name: str) -> bool:
        """Returns True: the paper trains all parameters at one rate."""
        return True

    def _hidden(self, code: Tensor) -> Tensor:
        """Returns the heads' input: (T, slots, head), for M (..., 2, head), S (..., 2, r, head)."""
        device, (tasks, slots) = code.device, (len(code), len(self._depths))
        depth = self.depth(torch.tensor(self._depths, device=device))  # (slots, latent / 4)
        kind = self.kind(torch.tensor(self._kind_of_slot, device=device))  # (slots, latent / 4)
        place = torch.cat([depth, kind], dim=-1).expand(tasks, -1, -1)
        joined = torch.cat([code[:, None].expand(-1, slots, -1), place], dim=-1)
        state = self.block1(self.mixer(joined))  # (T, slots, latent)
        if self.config.variant != "L":
            sides = self.side_norm(self.sides)[self._kind_of_slot]  # (slots, 2, latent)
            state = state[:, :, None] + sides  # (T, slots, 2, latent)
        state = self.block2(state)
        if self.config.variant == "S":
            state = self._rows(state[..., None, :])  # (T, slots, 2, r, latent)
        hidden: Tensor = self.to_head(state)
        return hidden

    def _rows(self, state: Tensor) -> Tensor:
        """Returns a state for every row of a factor: (..., 1, latent) to (..., r, latent)."""
        places = torch.arange(self.config.rank, device=state.device)
        if self.config.rank_places == "learned":
            learned: Tensor = state + self.block2(self.rows(places))
            return learned
        turned: Tensor = self.block2(_turn(state, places))
        return turned

    def _factors(self, kind: Kind, out: Tensor) -> tuple[Tensor, Tensor]:
        """Returns A and the transpose of B from a head's output, (T, kind's, r, in or out)."""
        rank, inputs, outputs = self.config.rank, kind.in_features, kind.out_features
        if self.config.variant == "L":
            a, b = torch.split(out, [rank * inputs, rank * outputs], dim=-1)
            return _rows_of(a, rank), _rows_of(b, rank)
        if self.config.variant == "M":
            out = _rows_of(out, rank)  # (T, kind's, 2, r, widest)
        return out[:, :, 0, :, :inputs], out[:, :, 1, :, :outputs]


class _Residual(nn.Module):
    """Adds an MLP of the normed state to the state."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(size), *_layers(size, size, dropout), nn.Dropout(dropout)
        )

    def forward(self, state: Tensor) -> Tensor:
        """Returns a state of the same shape."""
        changed: Tensor = state + self.layers(state)
        return changed


def _layers(size: int, out: int, dropout: float) -> list[nn.Module]:
    wide = WIDENING * size
    return [nn.Linear(size, wide), nn.SiLU(), nn.Dropout(dropout), nn.Linear(wide, out), nn.SiLU()]


def _embedding(count: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Embedding(count, size), nn.LayerNorm(size))


def _turn(state: Tensor, places: Tensor) -> Tensor:
    """Returns rotary position embedding: (..., 1, latent) to (..., places, latent)."""
    half = state.shape[-1] // 2
    rates = _ROTARY_BASE ** -(torch.arange(half, device=state.device) / half)  # (half,)
    angles = places[:, None] * rates  # (places, half)
    cos, sin = angles.cos().to(state.dtype), angles.sin().to(state.dtype)
    first, second = state[..., :half], state[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _rows_of(values: Tensor, rank: int) -> Tensor:
    return values.reshape(*values.shape[:-1], rank, -1)  # (..., r, features)
