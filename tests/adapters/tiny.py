"""A real Llama of two layers with random weights, and a tokenizer of single letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.adapters.samples import HIDDEN, INNER, KEY_VALUE, LAYERS

LETTERS = "abcdefghijklmnopqrstuvwxyz .:\n<>|"
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ['user', 'system', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message.role) }}{% endif %}"
    "<{{ message.role }}>{{ message.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build_model(seed: int = 0) -> Any:
    """Returns the model in float32; the same seed gives the same weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(LETTERS) + 2,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4 * KEY_VALUE // HIDDEN,
        max_position_embeddings=256,
        # Large weights, so that a small change in them is a visible change in the answer.
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def save_model(folder: Path, *, seed: int = 0, template: str | None = TEMPLATE) -> Path:
    """Returns `folder` holding the model and its tokenizer, as transformers loads them."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="."))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="."
    )
    wrapped.chat_template = template
    build_model(seed).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder
