"""Greedy answers of a base model, many prompts at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hyperplug.entities import Example

_MAX_ROWS = 32
_MAX_BATCH_TOKENS = 8_192
_MAX_NEW_TOKENS = 64
_MIN_NEW_TOKENS = 4
_LENGTH_MARGIN = 1.5


class Answerer:
    """Answers prompts with a transformers model, as it is hooked at the moment."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._device: torch.device = next(model.parameters()).device
        self._context = int(getattr(model.config, "max_position_embeddings", None) or 2**31)
        self._end_ids = _end_ids(model, tokenizer)

    def new_tokens(self, examples: Sequence[Example]) -> int:
        """Returns how many tokens an answer may have: half more than the longest expected."""
        expected = [e.output.strip() for e in examples]
        ids = self._tokenizer(expected, add_special_tokens=False)["input_ids"]
        longest = max(len(answer) for answer in ids) + 1  # and the end token
        return max(_MIN_NEW_TOKENS, min(_MAX_NEW_TOKENS, int(_LENGTH_MARGIN * longest)))

    def answer(self, prompts: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Returns the greedy answer to each prompt.

        A prompt that leaves no room for an answer in the model's context loses its
        beginning.
        """
        room = max(1, self._context - max_new_tokens)
        ids: list[list[int]] = self._tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
        # The longest first, so that too large a batch shows at once.
        order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
        answers = [""] * len(ids)
        while order:
            longest = min(room, len(ids[order[0]])) + max_new_tokens
            rows = max(1, min(_MAX_ROWS, _MAX_BATCH_TOKENS // longest))
            chosen, order = order[:rows], order[rows:]
            texts = self._generate([ids[index][-room:] for index in chosen], max_new_tokens)
            for index, text in zip(chosen, texts, strict=True):
                answers[index] = text
        return answers

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[list[int]], max_new_tokens: int) -> list[str]:
        length = max(1, *(len(prompt) for prompt in prompts))
        token_ids = torch.full((len(prompts), length), self._end_ids[0])
        mask = torch.zeros(len(prompts), length, dtype=torch.long)
        for row, prompt in enumerate(prompts):  # padded on the left
            token_ids[row, length - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
            mask[row, length - len(prompt) :] = 1
        out = self._model.generate(
            input_ids=token_ids.to(self._device),
            attention_mask=mask.to(self._device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            # A model's own sampling defaults would only draw warnings.
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=self._end_ids,
            pad_token_id=self._end_ids[0],
        )  # (rows, length + new)
        texts: list[str] = self._tokenizer.batch_decode(out[:, length:], skip_special_tokens=True)
        return [text.strip() for text in texts]


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Returns the ids that end an answer: the one trained with, then the model's own."""
    own = model.generation_config.eos_token_id
    ids = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return list(dict.fromkeys(i for i in ids if i is not None)) or [0]
