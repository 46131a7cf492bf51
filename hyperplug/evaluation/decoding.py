"""Greedy generation for many prompts at once, each with an adapter of its own.

A batch is read in parts of similar length and then answered as one. What the layers below
the first adapted one make of the prompts is the same under every adapter: it is computed
once and kept. Rows that are done leave the batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperplug.evaluation.kvcache import RoomyLayer, joined, new_cache
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.model import LoraBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Token ids of a prompt, and how many tokens its answer may have."""

    ids: tuple[int, ...]
    max_new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """Prompts of similar length, padded on the left.

    Attributes:
        rows: their numbers in the batch, (n,).
        token_ids: (n, length).
        mask: 1 where a token is, (n, length).
        states: the input of the first adapted layer, (n, length, hidden), if it is kept.
        lower: keys and values of the layers below.
    """

    rows: Tensor
    token_ids: Tensor
    mask: Tensor
    states: Tensor | None
    lower: tuple[RoomyLayer, ...]

    @property
    def positions(self) -> Tensor:
        """Position of each token among those of its prompt, (n, length)."""
        return (self.mask.cumsum(dim=1) - 1).clamp(min=0)

    def only(self, chosen: Tensor) -> _Part | None:
        """Returns the rows that are chosen; None if there is none."""
        kept = torch.isin(self.rows, chosen).nonzero()[:, 0]
        if len(kept) == len(self.rows):
            return self
        if len(kept) == 0:
            return None
        return _Part(
            rows=self.rows[kept],
            token_ids=self.token_ids[kept],
            mask=self.mask[kept],
            states=None if self.states is None else self.states[kept],
            lower=tuple(layer.rows(kept) for layer in self.lower),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """Prompts as they were read, ready to be answered under any adapter."""

    prompts: tuple[Prompt, ...]
    parts: tuple[_Part, ...]


class GreedyDecoder:
    """Reads batches of prompts and answers them."""

    def __init__(self, base: FrozenBase, *, end_ids: Sequence[int], part_rows: int) -> None:
        """Takes the base model.

        Args:
            end_ids: each ends an answer.
            part_rows: how many prompts are read at once.
        """
        self._base = base
        self._end_ids = frozenset(end_ids)
        self._part_rows = part_rows

    @torch.inference_mode()
    def read(self, prompts: Sequence[Prompt]) -> Reading:
        """Returns the prompts, read as far as no adapter matters."""
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row].ids))
        parts = [
            self._part(prompts, order[start : start + self._part_rows])
            for start in range(0, len(order), self._part_rows)
        ]
        return Reading(prompts=tuple(prompts), parts=tuple(parts))

    @torch.inference_mode()
    def answer(
        self,
        reading: Reading,
        loras: Sequence[LoraBatch] | None,
        *,
        rows: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Returns the greedy answer to each prompt, without the token that ends it.

        Args:
            loras: an adapter for each of the answered prompts, in their order, or one for
                all; None for the base model alone.
            rows: answer only these prompts, in rising order.
        """
        rows = list(range(len(reading.prompts))) if rows is None else list(rows)
        if not rows:
            return []
        wanted = torch.tensor(rows, device=self._base.device)
        parts = [part for part in (p.only(wanted) for p in reading.parts) if part is not None]
        # Adapters follow the prompts into the order of the parts.
        places = torch.searchsorted(wanted, torch.cat([part.rows for part in parts]))
        batch = _Batch(
            numbers=places,
            budgets=[reading.prompts[row].max_new_tokens for row in rows],
            loras=_of_rows(loras, places, dtype=self._base.dtype),
        )
        self._prefill(batch, parts)
        while batch.take(self._base.logits(batch.hidden), self._end_ids):
            batch.hidden = self._step(batch)
        return batch.answers

    def _part(self, prompts: Sequence[Prompt], rows: list[int]) -> _Part:
        device = self._base.device
        length = max(1, *(len(prompts[row].ids) for row in rows))
        token_ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for place, row in enumerate(rows):
            ids = prompts[row].ids
            token_ids[place, length - len(ids) :] = torch.tensor(ids, dtype=torch.long)
            mask[place, length - len(ids) :] = 1
        part = _Part(
            rows=torch.tensor(rows, device=device),
            token_ids=token_ids.to(device),
            mask=mask.to(device),
            states=None,
            lower=(),
        )
        return self._lowered(part) if self._base.can_split else part

    def _lowered(self, part: _Part) -> _Part:
        cache: Any = new_cache()
        states = self._base.cached_hidden(
            cache=cache,
            mask=part.mask,
            positions=part.positions,
            lower=True,
            token_ids=part.token_ids,
        )
        return _Part(
            rows=part.rows,
            token_ids=part.token_ids,
            mask=part.mask,
            states=states,
            lower=tuple(cache.layers[: self._base.split]),
        )

    def _prefill(self, batch: _Batch, parts: Sequence[_Part]) -> None:
        """Reads the prompts under the batch's adapters, and fills its cache."""
        caches: list[Any] = []
        hidden: list[Tensor] = []
        start = 0
        for part in parts:
            cache: Any = new_cache()
            own = slice(start, start + len(part.rows))
            with self._adapted(batch.loras_of(own)):
                hidden.append(self._read_part(part, cache)[:, -1])
            cache.layers[: len(part.lower)] = part.lower
            caches.append(cache)
            start = own.stop
        length = max(part.mask.shape[1] for part in parts)
        batch.hidden = torch.cat(hidden)  # (rows, hidden)
        batch.mask = torch.cat(
            [torch.nn.functional.pad(p.mask, (length - p.mask.shape[1], 0)) for p in parts]
        )
        batch.cache = new_cache()
        batch.cache.layers = [
            joined([cache.layers[number] for cache in caches])
            for number in range(len(caches[0].layers))
        ]

    def _read_part(self, part: _Part, cache: Any) -> Tensor:
        return self._base.cached_hidden(
            cache=cache,
            mask=part.mask,
            positions=part.positions,
            token_ids=part.token_ids,
            states=part.states,
        )

    def _step(self, batch: _Batch) -> Tensor:
        """Returns the hidden states of the tokens taken last, (rows, hidden)."""
        with self._adapted(batch.loras):
            hidden = self._base.cached_hidden(
                cache=batch.cache,
                mask=batch.mask,
                positions=batch.mask.sum(dim=1, keepdim=True) - 1,
                token_ids=batch.last[:, None],
            )
        return hidden[:, -1]

    def _adapted(self, loras: list[LoraBatch] | None) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if loras is None else self._base.adapted(loras)


class _Batch:
    """Rows that are not done yet.

    Attributes:
        hidden: last hidden state of each row, (rows, hidden).
        mask: 1 where the cache holds a token, and for `last`, (rows, length).
        last: the token each row took last, (rows,).
        answers: the tokens taken, by the number of the prompt.
    """

    hidden: Tensor
    mask: Tensor
    last: Tensor
    cache: Any

    def __init__(
        self, *, numbers: Tensor, budgets: Sequence[int], loras: list[LoraBatch] | None
    ) -> None:
        self._numbers = numbers.tolist()
        self._budgets = budgets
        self.loras = loras
        self.answers: list[list[int]] = [[] for _ in budgets]

    def loras_of(self, rows: slice) -> list[LoraBatch] | None:
        """Returns the adapters of some rows."""
        if self.loras is None or _one_for_all(self.loras):
            return self.loras
        return [LoraBatch(a=lora.a[rows], b=lora.b[rows]) for lora in self.loras]

    def take(self, logits: Tensor, end_ids: frozenset[int]) -> bool:
        """Takes each row's likeliest token; returns whether a row goes on.

        Args:
            logits: (rows, vocabulary).
        """
        tokens = logits.argmax(dim=-1)  # (rows,)
        going: list[int] = []
        for row, token in enumerate(tokens.tolist()):
            number = self._numbers[row]
            if token in end_ids:
                continue
            self.answers[number].append(token)
            if len(self.answers[number]) < self._budgets[number]:
                going.append(row)
        if going and len(going) < len(self._numbers):
            self._keep(torch.tensor(going, device=logits.device))
            tokens = tokens[going]
        self.last = tokens
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        return bool(going)

    def _keep(self, rows: Tensor) -> None:
        self._numbers = [self._numbers[row] for row in rows.tolist()]
        self.mask = self.mask[rows]
        self.cache.layers = [layer.rows(rows) for layer in self.cache.layers]
        if self.loras is not None and not _one_for_all(self.loras):
            self.loras = [LoraBatch(a=lora.a[rows], b=lora.b[rows]) for lora in self.loras]


def _of_rows(
    loras: Sequence[LoraBatch] | None, places: Tensor, *, dtype: torch.dtype
) -> list[LoraBatch] | None:
    """Returns the adapters in the order of the rows; one for all stays one."""
    if loras is None:
        return None
    rows = torch.zeros_like(places[:1]) if _one_for_all(loras) else places
    return [
        LoraBatch(
            a=lora.a[rows.to(lora.a.device)].to(places.device, dtype),
            b=lora.b[rows.to(lora.b.device)].to(places.device, dtype),
        )
        for lora in loras
    ]


def _one_for_all(loras: Sequence[LoraBatch]) -> bool:
    return loras[0].a.shape[0] == 1
