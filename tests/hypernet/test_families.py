"""Any causal language model of transformers with linear projections can be adapted.

The real recipe on a tiny random model of each family; the adapter it makes of a description
must act in PEFT as it does in training, and vLLM must take it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from hyperplug.adapters.library import Library
from hyperplug.adapters.peft_format import unpack
from hyperplug.basemodel import BaseModel, read_spec
from hyperplug.errors import BaseModelError
from hyperplug.hypernet.frozen import attention, layer_index
from hyperplug.hypernet.generate import load_generator
from hyperplug.hypernet.loading import load_frozen
from hyperplug.hypernet.model import LoraBatch
from hyperplug.hypernet.options import TrainingOptions
from hyperplug.hypernet.prepare import choose_modules
from hyperplug.hypernet.recipe import train_hypernet
from tests.hypernet.test_export import DESCRIPTION, Losses, as_adapter
from tests.miniature import WordHashEmbedder, byte_tokenizer, settings, toy_corpus

CPU = torch.device("cpu")
LAYERS = 3
# Longer than the windows below, so that a wrong mask is seen.
TOKEN_IDS = torch.arange(5, 53).reshape(2, 24)
_SIZES = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": 256,
    "initializer_range": 0.1,
}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
_MIXED = {
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "query_pre_attn_scalar": 8,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": _GROUPED,
    "mistral": _GROUPED | {"sliding_window": 8},
    "gemma": _GROUPED,
    "gemma2": _GROUPED | _MIXED | {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    "gemma3_text": _GROUPED | _MIXED,
    "gpt_neox": {},
    "granite": {"num_key_value_heads": 2, "logits_scaling": 4.0, "embedding_multiplier": 3.0},
    "cohere": {"num_key_value_heads": 2, "logit_scale": 0.25},
}
# Their layers must not be run apart: the kinds of attention are mixed, or the model scales
# whatever enters its first layer.
_WHOLE = ("gemma2", "gemma3_text", "granite")
_REFUSED: dict[str, dict[str, Any]] = {
    "hyperclovax": {"num_key_value_heads": 2, "logits_scaling": 4.0},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A base model, and the folder of an adapter that was made for it."""

    base: BaseModel
    published: Path
    loras: dict[str, LoraBatch]
    losses: list[float]


def make_base(folder: Path, family: str) -> BaseModel:
    """Writes a random model of a family with its tokenizer."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **_SIZES | (FAMILIES | _REFUSED)[family])
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return BaseModel(folder=folder, spec=read_spec(folder))


def transformers_model(base: BaseModel) -> Any:
    """Returns the model as transformers itself runs it."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        base.folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module", params=FAMILIES)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _one_thread: None
) -> Trained:
    """Twenty steps on a family, all layers, and an adapter from a description."""
    folder = tmp_path_factory.mktemp(request.param)
    base = make_base(folder / "base", request.param)
    options = TrainingOptions(
        tasks=toy_corpus(folder / "tasks.jsonl"),
        out=folder / "hypernet.safetensors",
        steps=20,
        learning_rate=3e-3,
        top_layers=0,
        static_rank=2,
        generated_rank=2,
        atoms=4,
        dtype="float32",
    )
    embedder, losses = WordHashEmbedder(), Losses()
    train_hypernet(
        options,
        settings=settings(folder, base=base.folder),
        embedder=embedder,
        progress=losses,
    )
    weights = load_generator(options.out, embedder=embedder, base=base).generate(DESCRIPTION)
    published = Library(folder / "library").publish(
        as_adapter(weights, base), weights.data, base_id=str(base.folder)
    )
    pairs = unpack(weights.data).items()
    tensors = {
        path: (torch.from_numpy(a)[None], torch.from_numpy(b)[None]) for path, (a, b) in pairs
    }
    loras = {path: LoraBatch(a=a, b=b) for path, (a, b) in tensors.items()}
    return Trained(base=base, published=published, loras=loras, losses=losses.values)


def test_every_layer_is_adapted_and_learns(trained: Trained) -> None:
    assert {layer_index(path) for path in trained.loras} == set(range(LAYERS))
    assert sum(trained.losses[-5:]) < sum(trained.losses[:5])


def test_peft_gives_our_logits(trained: Trained) -> None:
    frozen = load_frozen(trained.base, list(trained.loras), device=CPU, dtype=torch.float32)
    with torch.no_grad():
        plain = frozen.logits(frozen.hidden(TOKEN_IDS))
        with frozen.adapted(list(trained.loras.values())):
            ours = frozen.logits(frozen.hidden(TOKEN_IDS))
        model = transformers_model(trained.base)
        assert torch.allclose(model(TOKEN_IDS).logits, plain, rtol=1e-4, atol=1e-4)
        adapted = peft.PeftModel.from_pretrained(model, trained.published).eval()
        theirs = adapted(TOKEN_IDS).logits
    assert torch.allclose(theirs, ours, rtol=1e-4, atol=1e-4)
    assert (ours - plain).abs().max() > 0.05


def test_vllm_accepts_the_folder(trained: Trained) -> None:
    helper = pytest.importorskip("vllm.lora.peft_helper").PEFTHelper
    from vllm.config.lora import LoRAConfig

    read = helper.from_local_dir(str(trained.published), max_position_embeddings=256)
    read.validate_legal(LoRAConfig(max_lora_rank=8))
    assert (read.r, read.vllm_lora_scaling_factor) == (4, 1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_upper_layers_alone_give_the_models_logits(family: str, tmp_path: Path) -> None:
    base = make_base(tmp_path, family)
    modules = choose_modules(base.spec, top_layers=1)
    frozen = load_frozen(base, modules, device=CPU, dtype=torch.float32)
    with torch.no_grad():
        expected = transformers_model(base)(TOKEN_IDS).logits
        assert frozen.can_split == (family not in _WHOLE)
        states = frozen.lower(TOKEN_IDS) if frozen.can_split else None
        hidden = frozen.adapted_hidden(None, token_ids=TOKEN_IDS, states=states)
        assert torch.allclose(frozen.logits(hidden), expected, rtol=1e-4, atol=1e-4)


def test_a_model_that_changes_its_logits_otherwise_is_refused(tmp_path: Path) -> None:
    # Its `logits_scaling` is a factor; Granite's, of the same name, is a divisor.
    base = make_base(tmp_path, "hyperclovax")
    with pytest.raises(BaseModelError, match="changes its logits in an unknown way"):
        load_frozen(base, choose_modules(base.spec), device=CPU, dtype=torch.float32)


def test_bounded_attention_scores_are_never_computed_by_the_fused_attention() -> None:
    configs = {name: transformers.AutoConfig.for_model(name) for name in ("gemma2", "llama")}
    on_gpu = {name: attention(config, torch.device("cuda")) for name, config in configs.items()}
    assert on_gpu == {"gemma2": "eager", "llama": "sdpa"}
    assert attention(configs["llama"], CPU) == "eager"
