"""The frozen base model as training and evaluation use it: batched LoRA, split layers.

If adapters touch only the upper layers, the lower ones need no backward pass and their
output for a prompt never changes, so it can be computed once and kept.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperplug.errors import BaseModelError
from hyperplug.hypernet.logits import LogitHead, check_logits
from hyperplug.hypernet.model import LoraBatch


class FrozenBase:
    """A transformers causal language model with batched LoRA on named projections.

    Attributes:
        split: index of the first adapted layer.
        can_split: whether lower and upper layers may be run apart (checked numerically).
    """

    def __init__(self, model: nn.Module, *, target_modules: Sequence[str]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.device: torch.device = next(model.parameters()).device
        self.dtype: torch.dtype = next(model.parameters()).dtype
        self._targets = [model.get_submodule(path) for path in target_modules]
        self._active: list[LoraBatch] | None = None
        for slot, module in enumerate(self._targets):
            module.register_forward_hook(self._hook(slot))
        self._decoder: Any = getattr(model, str(getattr(model, "base_model_prefix", "model")))
        self.split = min(layer_index(path) for path in target_modules)
        layered = hasattr(self._decoder, "layers")
        if layered:
            self._lower: Any = _part(self._decoder, slice(0, self.split), last=False)
            self._upper: Any = _part(self._decoder, slice(self.split, None), last=True)
        self.hidden_size = int(model.get_input_embeddings().weight.shape[1])  # type: ignore[operator]
        self._run: Any = self._run_adapted
        self._head = LogitHead(model)
        token_ids = torch.arange(1, 9, device=self.device)[None]
        check_logits(model, self.logits(self.hidden(token_ids)), token_ids=token_ids)
        # Models that mix sliding and full attention find a layer's kind by its index, which
        # the upper part would count from 0.
        kinds = set(getattr(model.config, "layer_types", None) or ())
        alike = layered and len(kinds) <= 1
        self.can_split = alike and self.split > 0 and self._split_is_exact()

    @contextlib.contextmanager
    def adapted(self, loras: list[LoraBatch]) -> Iterator[None]:
        """Applies T adapters: rows of a batch are T groups of equal size, in task order."""
        self._active = [LoraBatch(a=x.a.to(self.dtype), b=x.b.to(self.dtype)) for x in loras]
        try:
            yield
        finally:
            self._active = None

    def compile(self) -> None:
        """Compiles what `adapted_hidden` runs, anew for each shape of its input."""
        torch._dynamo.config.recompile_limit = 64
        self._run = torch.compile(self._run_adapted, dynamic=False)

    def adapted_hidden(
        self,
        loras: list[LoraBatch] | None,
        *,
        token_ids: Tensor | None = None,
        states: Tensor | None = None,
    ) -> Tensor:
        """Returns the final hidden states with T adapters applied, (rows, length, hidden).

        Args:
            token_ids: the input, (rows, length) ...
            states: ... or what `lower` made of it, (rows, length, hidden).
        """
        run = self._run if loras is not None and torch.is_grad_enabled() else self._run_adapted
        a = [lora.a.to(self.dtype) for lora in loras or ()]
        b = [lora.b.to(self.dtype) for lora in loras or ()]
        hidden: Tensor = run(token_ids, states, a, b)
        return hidden

    def _run_adapted(
        self, token_ids: Tensor | None, states: Tensor | None, a: list[Tensor], b: list[Tensor]
    ) -> Tensor:
        self._active = [LoraBatch(a=x, b=y) for x, y in zip(a, b, strict=True)] or None
        hidden = self.upper(states) if states is not None else self.hidden(token_ids)  # type: ignore[arg-type]
        self._active = None
        return hidden

    @torch.no_grad()
    def lower(self, token_ids: Tensor) -> Tensor:
        """Returns the input of the first adapted layer, (rows, length, hidden)."""
        states: Tensor = self._lower(input_ids=token_ids, use_cache=False).last_hidden_state
        return states

    def upper(self, states: Tensor) -> Tensor:
        """Returns the final hidden states from `lower`'s, (rows, length, hidden)."""
        out: Tensor = self._upper(inputs_embeds=states, use_cache=False).last_hidden_state
        return out

    def hidden(self, token_ids: Tensor) -> Tensor:
        """Returns the final hidden states, (rows, length, hidden)."""
        out: Tensor = self._decoder(input_ids=token_ids, use_cache=False).last_hidden_state
        return out

    def cached_hidden(
        self,
        *,
        cache: Any,
        mask: Tensor,
        positions: Tensor,
        token_ids: Tensor,
        states: Tensor | None = None,
        lower: bool = False,
    ) -> Tensor:
        """Returns the final hidden states of tokens after those in a cache, and fills it.

        Args:
            cache: a transformers cache; the tokens in it are attended to.
            mask: 1 where a token is, of the cache and of the input, (rows, length).
            positions: of the input's tokens, (rows, new).
            token_ids: the input, (rows, new) ...
            states: ... or what the layers below the first adapted one made of it.
            lower: return that, and run no other layers.
        """
        model = self._decoder if states is None else self._upper
        out: Tensor = (self._lower if lower else model)(
            input_ids=token_ids if states is None else None,
            inputs_embeds=states,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns next-token logits of selected hidden states, (..., vocabulary)."""
        return self._head(hidden)

    def _hook(self, slot: int) -> Any:
        def add_lora(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if self._active is None:
                return output
            lora = self._active[slot]
            x = inputs[0]  # (T * rows, length, in)
            grouped = x.reshape(lora.a.shape[0], -1, x.shape[-1])  # (T, rows * length, in)
            low = torch.bmm(grouped, lora.a.transpose(1, 2))  # (T, rows * length, r)
            delta = torch.bmm(low, lora.b.transpose(1, 2))  # (T, rows * length, out)
            return output + delta.reshape(output.shape)

        return add_lora

    @torch.no_grad()
    def _split_is_exact(self) -> bool:
        """Returns whether running the layers in two parts gives the whole's result."""
        token_ids = torch.arange(1, 9, device=self.device)[None]
        whole = self.hidden(token_ids).float()
        parts = self.upper(self.lower(token_ids)).float()
        return bool(torch.allclose(whole, parts, rtol=1e-3, atol=1e-3))


def load_causal_lm(folder: Path, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Returns the transformers model in `folder`.

    Raises:
        BaseModelError: if transformers cannot load it.
    """
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            attn_implementation=attention(config, device),
        )
    except (OSError, ValueError, KeyError) as exc:
        raise BaseModelError(
            f"transformers cannot load {folder}: {str(exc).splitlines()[0]}",
            hint="check that the folder holds a causal language model",
        ) from exc
    moved: nn.Module = model.to(device)
    return moved


def attention(config: Any, device: torch.device) -> str:
    """Returns which of transformers' attentions computes this model, and fast."""
    # The fused one leaves out Gemma 2's bound on attention scores without a word, and on a
    # CPU its backward pass is slower than plain matrix products.
    bounded = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if bounded or device.type == "cpu" else "sdpa"


def layer_index(module_path: str) -> int:
    """Returns the layer that a module path belongs to: 3 for "model.layers.3.mlp.up_proj"."""
    return next(int(part) for part in module_path.split(".") if part.isdigit())


def best_dtype(device: torch.device) -> torch.dtype:
    """Returns bfloat16 where the hardware multiplies matrices in it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16
    flags = Path("/proc/cpuinfo")
    text = flags.read_text(encoding="utf-8") if flags.is_file() else ""
    return torch.bfloat16 if "amx_bf16" in text else torch.float32


def can_compile() -> bool:
    """Returns whether there is the C++ compiler that torch.compile needs on a CPU."""
    return any(shutil.which(name) for name in ("g++", "clang++"))


def _part(decoder: Any, layers: slice, *, last: bool) -> Any:
    """Returns a view of `decoder` with some of its layers; weights are shared."""
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    part.layers = decoder.layers[layers]
    if not last:
        norm = "norm" if hasattr(decoder, "norm") else "final_layer_norm"
        setattr(part, norm, nn.Identity())
    return part
