"""Greedy answers of a base model in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyperplug.entities import Example
from hyperplug.evaluation.attention import use_grouped_attention
from hyperplug.evaluation.decoding import GreedyDecoder, Prompt, Reading
from hyperplug.hypernet.frozen import FrozenBase
from hyperplug.hypernet.model import LoraBatch

_MAX_NEW_TOKENS = 64
_MIN_NEW_TOKENS = 4
_LENGTH_MARGIN = 1.5
_PART_ROWS = {"cpu": 12}
_MANY_PART_ROWS = 64


class Answerer:
    """Answers prompts with a frozen base model, each under an adapter of its own."""

    def __init__(self, base: FrozenBase, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        if base.device.type == "cpu":
            use_grouped_attention(base.model)
        config = base.model.config
        self._context = int(getattr(config, "max_position_embeddings", None) or 2**31)
        self._decoder = GreedyDecoder(
            base,
            end_ids=end_ids(base.model, tokenizer),
            part_rows=_PART_ROWS.get(base.device.type, _MANY_PART_ROWS),
        )

    def new_tokens(self, examples: Sequence[Example]) -> int:
        """Returns how many tokens an answer may have: half more than the longest expected."""
        expected = [e.output.strip() for e in examples]
        ids = self._tokenizer(expected, add_special_tokens=False)["input_ids"]
        longest = max(len(answer) for answer in ids) + 1  # and the end token
        return max(_MIN_NEW_TOKENS, min(_MAX_NEW_TOKENS, int(_LENGTH_MARGIN * longest)))

    def room(self, max_new_tokens: int) -> int:
        """Returns how many tokens a prompt may have, so that its answer fits the context."""
        return max(1, self._context - max_new_tokens)

    def prompt(self, text: str, *, max_new_tokens: int) -> Prompt:
        """Returns a prompt's tokens; one that leaves no room for an answer loses its beginning."""
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return Prompt(ids=tuple(ids[-self.room(max_new_tokens) :]), max_new_tokens=max_new_tokens)

    def read(self, prompts: Sequence[Prompt]) -> Reading:
        """Returns prompts ready to be answered under any adapter."""
        return self._decoder.read(prompts)

    def answer(
        self,
        reading: Reading,
        loras: Sequence[LoraBatch] | None,
        *,
        rows: Sequence[int] | None = None,
    ) -> list[str]:
        """Returns the greedy answers; the arguments are `GreedyDecoder.answer`'s."""
        ids = self._decoder.answer(reading, loras, rows=rows)
        texts: list[str] = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Returns the ids that end an answer: the one trained with, then the model's own."""
    own = model.generation_config.eos_token_id
    ids = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return list(dict.fromkeys(i for i in ids if i is not None)) or [0]
