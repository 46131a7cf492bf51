"""How words are spelled in the base model's vocabulary, and which rows they get."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from hyperplug.basemodel import BaseModel
from hyperplug.entities import Example
from hyperplug.hypernet.encoding import collate, encode_descriptions, encode_examples
from hyperplug.hypernet.words import (
    CONTINUED,
    FIRST,
    OF_EXAMPLES,
    SPACED,
    Vocabulary,
    load_vocabulary,
    merge_tables,
    no_words,
)
from tests.miniature import WordHashEmbedder, base_folder, byte_tokenizer

EMBEDDER = WordHashEmbedder()
TABLE = torch.randn(272, 8, generator=torch.Generator().manual_seed(0))
VOCABULARY = Vocabulary(byte_tokenizer(), TABLE)


def merging_tokenizer() -> Any:
    """Returns the tokenizer of bytes with one more token: "a" after a space."""
    tokenizer = byte_tokenizer()
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    core["model"]["vocab"]["Ġa"] = 270
    core["model"]["merges"] = [["Ġ", "a"]]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(core)))


def merging() -> Vocabulary:
    return Vocabulary(merging_tokenizer(), TABLE)


def row(token: str) -> NDArray[np.float32]:
    """Returns the unit row of a token."""
    id_ = merging_tokenizer().convert_tokens_to_ids(token)
    return torch.nn.functional.normalize(TABLE[id_], dim=0).numpy()


def spans(text: str) -> NDArray[np.int32]:
    offsets = EMBEDDER.encode([text])[0].offsets
    assert offsets is not None
    return offsets


def test_a_word_is_its_tokens_without_and_with_a_space() -> None:
    (words,) = merging().encode(['"ab".'], [spans('"ab".')])
    assert words.kinds.tolist() == [FIRST, CONTINUED, SPACED]
    assert words.places.tolist() == [0, 0, 0]
    for vector, token in zip(words.vectors, ["a", "b", "Ġa"], strict=True):
        assert np.allclose(vector, row(token), atol=1e-3)


def test_a_token_that_is_only_a_space_begins_no_word() -> None:
    (words,) = VOCABULARY.encode(["ab"], [None])
    assert words.kinds.tolist() == [FIRST, CONTINUED]


@pytest.mark.parametrize(
    "text", ["yes/no", "yes,no", '{"yes": "no"}', "<yes>no", "yes|no", "yes=no"]
)
def test_lists_without_spaces_are_words_too(text: str) -> None:
    (words,) = VOCABULARY.encode([text], [spans(text)])
    assert (words.kinds == FIRST).sum() == 2


def test_a_word_that_the_base_model_cannot_spell_is_left_out() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("é", "")
    (words,) = Vocabulary(tokenizer, TABLE).encode(["ab é"], [None])
    assert words.kinds.tolist() == [FIRST, CONTINUED]


def test_a_word_belongs_to_the_encoders_token_that_it_begins_in() -> None:
    text = "say: (no) - maybe"
    (words,) = VOCABULARY.encode([text], [spans(text)])
    firsts = words.places[words.kinds == FIRST]
    assert firsts.tolist() == [0, 1, 2, 3]  # the dash is a word too
    assert len(VOCABULARY.encode([text], [None])[0]) == len(words)


def test_words_past_what_the_encoder_read_are_left_out() -> None:
    text = "one two three"
    (words,) = VOCABULARY.encode([text], [spans(text)[:2]])
    assert words.places.max() == 1


def test_a_long_text_and_a_long_word_are_cut() -> None:
    text = " ".join(["word"] * 300)
    (words,) = VOCABULARY.encode([text], [spans(text)])
    assert (words.kinds == FIRST).sum() == 80
    (words,) = VOCABULARY.encode(["a" * 50], [None])
    assert words.kinds.tolist() == [FIRST, *[CONTINUED] * 3]


def test_texts_without_words_have_none() -> None:
    assert [len(w) for w in VOCABULARY.encode(["", "...", " \n"], [None] * 3)] == [0, 0, 0]
    assert VOCABULARY.encode([], []) == []


def test_tables_are_merged_without_a_change() -> None:
    words = [VOCABULARY.encode([text], [None])[0] for text in ("ab", "", "bc")]
    merged = merge_tables([*words, no_words()])
    assert len({id(item.table) for item in merged}) == 1
    assert len(merged[0].table) == 3  # a, b and c
    for one, other in zip(words, merged, strict=False):
        assert np.array_equal(one.vectors, other.vectors)
    assert merge_tables([]) == []


def test_words_of_description_and_outputs_are_read_together() -> None:
    description = encode_descriptions(EMBEDDER, ["a b"], vocabulary=VOCABULARY)[0]
    pairs = [Example(input="in", output="c"), Example(input="in", output="d")]
    examples = encode_examples(EMBEDDER, pairs, vocabulary=VOCABULARY)
    batch = collate(
        [description, None],
        [examples.take([1]), examples],
        embedding_size=EMBEDDER.dimension,
    )
    assert batch.words.shape == (2, 3, 8)
    assert batch.word_mask.sum(dim=1).tolist() == [3, 2]
    assert batch.word_places[0].tolist() == [0, 1, 2]  # two tokens, then an example
    assert batch.word_places[1, :2].tolist() == [2, 3]
    assert batch.word_kinds[1, :2].tolist() == [OF_EXAMPLES, OF_EXAMPLES]
    assert torch.allclose(batch.words[1, 0], torch.from_numpy(row("c")), atol=1e-3)
    plain = collate(
        [replace(description, words=no_words())], [examples.take([])], embedding_size=24
    )
    assert plain.words.shape == (1, 0, 0)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_the_rows_are_those_of_the_output_embedding(family: str, tmp_path: Path) -> None:
    folder = base_folder(tmp_path / family, family=family)
    tensors = load_file(folder / "model.safetensors")
    names = {"lm_head.weight", "embed_out.weight"} & tensors.keys()
    name = names.pop() if names else "model.embed_tokens.weight"
    id_ = byte_tokenizer().convert_tokens_to_ids("a")
    expected = torch.nn.functional.normalize(tensors[name][id_], dim=0)
    vocabulary = load_vocabulary(BaseModel(folder=folder, spec=None))  # type: ignore[arg-type]
    assert vocabulary is not None and vocabulary.size == 32
    (words,) = vocabulary.encode(["a"], [None])
    assert np.allclose(words.vectors[0], expected.numpy(), atol=1e-3)


def test_tied_embeddings_are_found(base: BaseModel, tmp_path: Path) -> None:
    tensors = load_file(base.folder / "model.safetensors")
    byte_tokenizer().save_pretrained(tmp_path)
    table = tensors["model.embed_tokens.weight"]
    save_file({"model.embed_tokens.weight": table}, tmp_path / "model.safetensors")
    assert load_vocabulary(replace(base, folder=tmp_path)) is not None
    save_file({"strange.weight": table}, tmp_path / "model.safetensors")
    assert load_vocabulary(replace(base, folder=tmp_path)) is None
