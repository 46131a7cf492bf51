"""Pointing at words: what a task's texts say is written into its adapter as such.

    slot, rank row ── query ──┐
    words, their context ── key ── attention ─┬ mean of words ── turned, scaled ── B column
                                              └ mean of states ── trigger ── A row

The idea is that of pointer networks (Vinyals et al., 2015) and of copying in summarisers
(See et al., 2017), with the columns of LoRA's B in place of an output distribution: a
column along a word's output embedding makes the base model say that word. What the word
means, by the text encoder, has a part in when: it shapes the row of A that sets the column
off, so that a label that no training task had is said where the input speaks for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hyperplug.hypernet.words import KINDS

_KEY = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointed:
    """What rows point at: directions for columns of B (T, slots, rank, words), and shares
    of the atoms that rows of A take up besides (T, slots, rank, atoms), if they do."""

    directions: Tensor
    triggers: Tensor | None


class WordPointer(nn.Module):
    """Maps slots' states and a task's words to parts of the columns of B and rows of A.

    Args:
        state: length of a slot's state.
        embedding: length of the text encoder's vectors.
        words: length of the base model's.
        rank: columns a slot.
        atoms: size of a slot's dictionary for A; 0 to leave A alone.
    """

    def __init__(self, *, state: int, embedding: int, words: int, rank: int, atoms: int) -> None:
        super().__init__()
        self.rank = rank
        self.from_words = nn.Linear(words, state)
        self.from_context = nn.Linear(embedding, state)
        self.kinds = nn.Parameter(torch.zeros(KINDS, state))
        self.norm = nn.RMSNorm(state)
        self.key = nn.Linear(state, _KEY)
        self.query = nn.Linear(state, rank * _KEY)
        self.size = nn.Linear(state, rank)
        self.trigger = (
            nn.Sequential(nn.Linear(2 * state, state), nn.GELU(), nn.Linear(state, atoms))
            if atoms
            else None
        )
        self.turn = nn.Parameter(torch.zeros(words, words))

    def reset_parameters(self) -> None:
        """Initialises so that nothing is written at first; sizes have live gradients."""
        for linear in (self.from_words, self.from_context):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(linear.in_features))
        nn.init.normal_(self.kinds)
        for free in (self.size.weight, self.size.bias, self.turn):
            nn.init.zeros_(free)
        if self.trigger is not None:
            for parameter in self.trigger[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, hidden: Tensor, words: Tensor, context: Tensor, kinds: Tensor, mask: Tensor
    ) -> Pointed:
        """Returns what each row points at.

        Args:
            hidden: the slots' states, (T, slots, state).
            words: unit vectors, (T, I, words).
            context: the text encoder's vectors of the same words, (T, I, embedding).
            kinds: of each word, (T, I).
            mask: True where a word is, (T, I).
        """
        tasks, slots, _ = hidden.shape
        told = self.from_words(words * math.sqrt(words.shape[-1])) + self.from_context(context)
        states = self.norm(told + self.kinds[kinds])  # (T, I, state)
        keys = self.key(states)  # (T, I, key)
        queries = self.query(hidden).view(tasks, slots * self.rank, _KEY)
        scores = queries @ keys.transpose(1, 2) / math.sqrt(_KEY)  # (T, slots * r, I)
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
        nothing = torch.zeros_like(scores[..., :1])
        shares = torch.cat([scores, nothing], dim=-1).softmax(dim=-1)[..., :-1]
        found = shares @ words  # (T, slots * r, words)
        found = (found + found @ self.turn).view(tasks, slots, self.rank, -1)
        directions = found * self.size(hidden)[..., None]
        if self.trigger is None:
            return Pointed(directions=directions, triggers=None)
        meant = (shares @ states).view(tasks, slots, self.rank, -1)
        where = hidden[:, :, None].expand(-1, -1, self.rank, -1)
        triggers = self.trigger(torch.cat([meant, where], dim=-1))
        return Pointed(directions=directions, triggers=triggers)
