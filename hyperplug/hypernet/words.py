"""The words of a text in the base model's own vocabulary.

A text encoder knows what "Answer accepted or rejected" means, but not how the base model
spells the two answers. These rows of its output embedding do: a hypernetwork that points
at them can put words into an adapter that no training task had as an answer.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperplug.basemodel import BaseModel

KINDS = 6  # the three below, of a description and of an example's output
FIRST, CONTINUED, SPACED = range(3)
OF_EXAMPLES = 3
_MAX_WORDS = 80
_MAX_TOKENS_A_WORD = 4
_WORD = re.compile(r"[^\s/,:;|=()\[\]{}<>\"“”«»]+")
_MARKS = "'`.!?*‘’"
_BLANK = " ▁Ġ"
_OUTPUT = re.compile(r"(^|\.)(lm_head|embed_out)\.weight\Z")
_INPUT = re.compile(r"(^|\.)(embed_tokens|embed_in|wte|word_embeddings)\.weight\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedWords:
    """Tokens that words are written with, I of them.

    Attributes:
        table: unit rows of the base model's output embedding, (n, hidden); shared.
        rows: the row of each token, (I,).
        kinds: whether a token begins an answer (`FIRST`), goes on with a word
            (`CONTINUED`) or begins a word after a space (`SPACED`), (I,).
        places: the text encoder's token that each belongs to, (I,).
    """

    table: NDArray[np.float16]
    rows: NDArray[np.int32]
    kinds: NDArray[np.int8]
    places: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The tokens' unit rows, (I, hidden)."""
        return self.table[self.rows].astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """Token ids of a text's words, with kinds and places as in `EncodedWords`."""

    ids: tuple[int, ...]
    kinds: tuple[int, ...]
    places: tuple[int, ...]


class Vocabulary:
    """Spells words as a base model does.

    Attributes:
        size: length of a row.
    """

    def __init__(self, tokenizer: Any, table: Tensor) -> None:
        self._tokenizer = tokenizer
        self._table = table  # (vocabulary, hidden)
        self.size = int(table.shape[1])

    def encode(
        self, texts: Sequence[str], offsets: Sequence[NDArray[np.int32] | None]
    ) -> list[EncodedWords]:
        """Returns the words of each text.

        Args:
            offsets: where the text encoder's tokens begin and end, (tokens, 2); words past
                the last one are left out. None puts all words of a text at place 0.
        """
        spellings = self._spell(texts, offsets)
        ids = sorted({id_ for spelling in spellings for id_ in spelling.ids})
        table = self._rows(ids)
        rows = {id_: row for row, id_ in enumerate(ids)}
        return [
            EncodedWords(
                table=table,
                rows=np.array([rows[id_] for id_ in spelling.ids], dtype=np.int32),
                kinds=np.array(spelling.kinds, dtype=np.int8),
                places=np.array(spelling.places, dtype=np.int16),
            )
            for spelling in spellings
        ]

    def _spell(
        self, texts: Sequence[str], offsets: Sequence[NDArray[np.int32] | None]
    ) -> list[Spelling]:
        found = [_words(text, places) for text, places in zip(texts, offsets, strict=True)]
        distinct = list(dict.fromkeys(word for words in found for word, _ in words))
        if not distinct:
            return [Spelling(ids=(), kinds=(), places=()) for _ in texts]
        spaced = [f" {word}" for word in distinct]
        ids = self._tokenizer([*distinct, *spaced], add_special_tokens=False)["input_ids"]
        ids = [self._without_blanks(tokens) for tokens in ids]
        items = {
            word: _items(bare, after_space)
            for word, bare, after_space in zip(
                distinct, ids[: len(distinct)], ids[len(distinct) :], strict=True
            )
        }
        return [
            Spelling(
                ids=tuple(id_ for word, _ in words for id_, _ in items[word]),
                kinds=tuple(kind for word, _ in words for _, kind in items[word]),
                places=tuple(place for word, place in words for _ in items[word]),
            )
            for words in found
        ]

    def _without_blanks(self, ids: Sequence[int]) -> list[int]:
        """Returns the tokens less leading ones that are a space and nothing else."""
        spelled = self._tokenizer.convert_ids_to_tokens
        return [*itertools.dropwhile(lambda id_: not spelled(id_).strip(_BLANK), ids)]

    def _rows(self, ids: Sequence[int]) -> NDArray[np.float16]:
        rows = self._table[torch.tensor(ids, dtype=torch.long)].float()
        unit = torch.nn.functional.normalize(rows, dim=-1)
        return np.asarray(unit.half().numpy(), dtype=np.float16)


def load_vocabulary(base: BaseModel) -> Vocabulary | None:
    """Returns the base model's vocabulary; None if it keeps no such table under a known name.

    The table stays on disk: rows are read when they are asked for.

    Raises:
        BaseModelError: if the base model has no tokenizer.
    """
    from hyperplug.hypernet.loading import load_tokenizer

    table = _output_embedding(base.folder)
    return None if table is None else Vocabulary(load_tokenizer(base), table)


def merge_tables(words: Sequence[EncodedWords]) -> list[EncodedWords]:
    """Returns the same words, all with one table."""
    tables: dict[bytes, int] = {}
    merged = [
        [tables.setdefault(item.table[row].tobytes(), len(tables)) for row in item.rows]
        for item in words
    ]
    size = max((item.table.shape[1] for item in words), default=0)
    table = np.frombuffer(b"".join(tables), dtype=np.float16).reshape(len(tables), size)
    return [
        replace(item, table=table, rows=np.array(rows, dtype=np.int32))
        for item, rows in zip(words, merged, strict=True)
    ]


def no_words(size: int = 0) -> EncodedWords:
    """Returns no words at all."""
    return EncodedWords(
        table=np.zeros((0, size), dtype=np.float16),
        rows=np.zeros(0, dtype=np.int32),
        kinds=np.zeros(0, dtype=np.int8),
        places=np.zeros(0, dtype=np.int16),
    )


def _words(text: str, offsets: NDArray[np.int32] | None) -> list[tuple[str, int]]:
    """Returns the words of a text, each with its place."""
    found: list[tuple[str, int]] = []
    for match in _WORD.finditer(text):
        bare = match.group().strip(_MARKS)
        if not bare:
            continue
        place = 0
        if offsets is not None:
            begin = match.start() + match.group().index(bare)
            places = np.flatnonzero(offsets[:, 1] > begin)
            if not len(places):
                break
            place = int(places[0])
        found.append((bare, place))
        if len(found) == _MAX_WORDS:
            break
    return found


def _items(bare: Sequence[int], after_space: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the tokens of a word with their kinds."""
    kinds = [FIRST, *[CONTINUED] * _MAX_TOKENS_A_WORD]
    items = list(zip(bare[:_MAX_TOKENS_A_WORD], kinds, strict=False))
    if after_space and after_space[0] not in bare[:1]:
        items.append((after_space[0], SPACED))
    return items


def _output_embedding(folder: Path) -> Tensor | None:
    """Returns the output embedding, which is the input's if they are tied, (vocabulary, hidden)."""
    from safetensors import safe_open

    tied: Tensor | None = None
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if _OUTPUT.search(name):
                    found: Tensor = file.get_tensor(name)
                    return found
                if _INPUT.search(name):
                    tied = file.get_tensor(name)
    return tied
