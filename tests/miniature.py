"""Real parts in miniature: base models of a few thousand weights, a tokenizer of bytes,
a text encoder without weights, and tasks that can be learned in seconds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hyperplug.config import Settings
from hyperplug.embedding import TextEncoding

END = "<|end|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "mistral", "gpt_neox")
_SIZES = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": 256,
    "initializer_range": 0.1,  # with the usual 0.02 no logit could stand out
}


class WordHashEmbedder:
    """A text encoder without weights: a word is a fixed random vector, a text their mean."""

    id = "word-hash:1"
    dimension = 24

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns unit vectors, (texts, dimension)."""
        rows = [self._words(text).mean(axis=0) for text in texts]
        vectors = np.array(rows, dtype=np.float32).reshape(len(texts), self.dimension)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / norms, dtype=np.float32)

    def encode(self, texts: Sequence[str]) -> list[TextEncoding]:
        """Returns unit vectors and the vectors of the words."""
        return [
            TextEncoding(
                vector=vector,
                tokens=self._words(text),
                offsets=np.array(
                    [m.span() for m in re.finditer(r"\S+", text)] or [(0, 0)], dtype=np.int32
                ),
            )
            for vector, text in zip(self.embed(texts), texts, strict=True)
        ]

    def _words(self, text: str) -> NDArray[np.float32]:
        words = text.lower().split() or [""]
        return np.stack([self._word(word) for word in words])

    def _word(self, word: str) -> NDArray[np.float32]:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
        return np.random.default_rng(seed).standard_normal(self.dimension, dtype=np.float32)


def byte_tokenizer(*, chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """Returns a tokenizer with a token a byte, and three special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def base_folder(folder: Path, *, family: str = "llama", layers: int = 3, seed: int = 0) -> Path:
    """Writes a random base model with its tokenizer, and returns `folder`."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(family, **_SIZES | {"num_hidden_layers": layers})
    if hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = 2
    if family in ("gemma", "qwen3"):  # they do not derive it
        config.head_dim = 8
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def settings(folder: Path, *, base: Path, hypernet: Path | None = None) -> Settings:
    """Returns settings that keep everything in `folder`."""
    return Settings(
        home=folder,
        cache=folder / "cache",
        registry_url=f"sqlite:///{folder / 'registry.db'}",
        base=str(base),
        hypernet=hypernet,
    )


def task_line(
    name: str, *, answer: str, family: str | None = None, start: int = 0, examples: int = 24
) -> Any:
    """Returns a task whose answer is always the same, as a corpus line.

    Its inputs are those of all such tasks: only the description tells them apart.
    """
    return {
        "id": name,
        "family": family or name,
        "descriptions": [f"{name} with {answer}", f"{answer} {name}"],
        "metric": "exact_match",
        "licence_class": "permissive",
        "examples": [
            {"input": f"input {number}", "output": answer}
            for number in range(start, start + examples)
        ],
    }


def write_tasks(path: Path, lines: Sequence[Any]) -> Path:
    """Writes corpus lines, and returns `path`."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def toy_corpus(path: Path) -> Path:
    """Writes two tasks that want opposite answers, and returns `path`."""
    return write_tasks(path, [task_line("agree", answer="yes"), task_line("refuse", answer="no")])
