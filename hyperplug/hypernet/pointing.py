"""Pointing at words: what a task's texts say is written into its adapter as such.

    slot, rank row ── query ──┐
    words, their context ── key ── attention ── mean of words ── turned, scaled ── B column

The idea is that of pointer networks (Vinyals et al., 2015) and of copying in summarisers
(See et al., 2017), with the columns of LoRA's B in place of an output distribution: a
column along a word's output embedding makes the base model say that word.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hyperplug.hypernet.words import KINDS

_KEY = 64


class WordPointer(nn.Module):
    """Maps slots' states and a task's words to directions for the columns of B.

    Args:
        state: length of a slot's state.
        embedding: length of the text encoder's vectors.
        words: length of the base model's.
        rank: columns a slot.
    """

    def __init__(self, *, state: int, embedding: int, words: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.from_words = nn.Linear(words, state)
        self.from_context = nn.Linear(embedding, state)
        self.kinds = nn.Parameter(torch.zeros(KINDS, state))
        self.norm = nn.RMSNorm(state)
        self.key = nn.Linear(state, _KEY)
        self.query = nn.Linear(state, rank * _KEY)
        self.size = nn.Linear(state, rank)
        self.turn = nn.Parameter(torch.zeros(words, words))

    def reset_parameters(self) -> None:
        """Initialises so that nothing is written at first; sizes have live gradients.

        | weight                   | start                        | why                            |
        |--------------------------|------------------------------|--------------------------------|
        | from_words, from_context | normal, output as the input  | words must differ from the ... |
        | kinds                    | normal                       | ... start, and so must kinds   |
        | key, query               | as PyTorch does              | a little of every word         |
        | size                     | 0                            | nothing is written yet         |
        | turn                     | 0, added to the identity     | a word's own direction first   |
        """
        for linear in (self.from_words, self.from_context):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(linear.in_features))
        nn.init.normal_(self.kinds)
        for free in (self.size.weight, self.size.bias, self.turn):
            nn.init.zeros_(free)

    def forward(
        self, hidden: Tensor, words: Tensor, context: Tensor, kinds: Tensor, mask: Tensor
    ) -> Tensor:
        """Returns directions, (T, slots, rank, words).

        Args:
            hidden: the slots' states, (T, slots, state).
            words: unit vectors, (T, I, words).
            context: the text encoder's vectors of the same words, (T, I, embedding).
            kinds: of each word, (T, I).
            mask: True where a word is, (T, I).
        """
        tasks, slots, _ = hidden.shape
        told = self.from_words(words * math.sqrt(words.shape[-1])) + self.from_context(context)
        keys = self.key(self.norm(told + self.kinds[kinds]))  # (T, I, key)
        queries = self.query(hidden).view(tasks, slots * self.rank, _KEY)
        scores = queries @ keys.transpose(1, 2) / math.sqrt(_KEY)  # (T, slots * r, I)
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
        nothing = torch.zeros_like(scores[..., :1])
        shares = torch.cat([scores, nothing], dim=-1).softmax(dim=-1)[..., :-1]
        found = shares @ words  # (T, slots * r, words)
        found = (found + found @ self.turn).view(tasks, slots, self.rank, -1)
        directions: Tensor = found * self.size(hidden)[..., None]
        return directions
