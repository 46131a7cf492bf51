"""A runtime in this process: transformers answers, PEFT applies the adapter."""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from hyperplug.adapters import validate_folder
from hyperplug.basemodel import BaseModel
from hyperplug.entities import Adapter
from hyperplug.errors import (
    AdapterNotFoundError,
    BaseMismatchError,
    BaseModelError,
    ConfigError,
    CorruptAdapterError,
    MissingExtraError,
)
from hyperplug.runtimes import Prompt


class LocalRuntime:
    """Runs a base model through transformers and switches adapters between answers.

    The base model's weights never change. The adapters used last stay in memory, so that
    going back to one of them costs nothing. Threads may share a runtime; they take turns.
    """

    def __init__(
        self, base: BaseModel, *, max_adapters: int = 8, device: str | None = None
    ) -> None:
        """Loads the base model.

        Args:
            max_adapters: how many adapters stay loaded; the least recently used goes first.
            device: a torch device; None takes the GPU if there is one.

        Raises:
            MissingExtraError: if torch, transformers or peft is not installed.
            BaseModelError: if transformers cannot load the base model.
        """
        if max_adapters < 1:
            raise ConfigError(f"max_adapters is {max_adapters}", hint="use 1 or more")
        self.base = base
        self._max_adapters = max_adapters
        self._lock = threading.RLock()
        self._torch = _import("torch")
        self._peft = _import("peft")
        self._template_error: type[Exception] = _import("jinja2").TemplateError
        self._device = device or ("cuda" if self._torch.cuda.is_available() else "cpu")
        self._model, self._tokenizer = self._load_base()
        self._loaded: OrderedDict[str, Path] = OrderedDict()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the adapters in memory, "namespace/name", least recently used first."""
        return tuple(self._loaded)

    def answer(
        self, prompt: Prompt, /, *, adapter: Adapter | None = None, max_tokens: int = 64
    ) -> str:
        """Returns the model's greedy answer, special tokens removed.

        Args:
            prompt: the user's text, or chat messages with "role" and "content".
            adapter: a published adapter of this base model; None asks the bare base model.
            max_tokens: where to cut the answer off.

        Raises:
            ConfigError: if the prompt is malformed or longer than the model can read.
            AdapterNotFoundError: if the adapter is not published.
            InvalidAdapterError: if its folder is damaged.
            BaseMismatchError: if it was made for another base model.
        """
        if max_tokens < 1:
            raise ConfigError(f"max_tokens is {max_tokens}", hint="use 1 or more")
        if self._model is None:
            raise ConfigError("the runtime is closed", hint="make a new LocalRuntime")
        inputs = self._encode(prompt, max_tokens=max_tokens)
        with self._lock, self._torch.inference_mode():
            if adapter is not None:
                self._activate(adapter)
                return self._generate(inputs, max_tokens=max_tokens)
            if self._loaded:
                with self._model.disable_adapter():
                    return self._generate(inputs, max_tokens=max_tokens)
            return self._generate(inputs, max_tokens=max_tokens)

    def close(self) -> None:
        """Frees the model and its adapters; the runtime cannot answer afterwards."""
        with self._lock:
            self._loaded.clear()
            self._model = None

    def _load_base(self) -> tuple[Any, Any]:
        from hyperplug.hypernet.frozen import attention

        transformers = _import("transformers")
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.base.folder)
            config = transformers.AutoConfig.from_pretrained(self.base.folder)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                self.base.folder,
                config=config,
                attn_implementation=attention(config, self._torch.device(self._device)),
                # Many CPUs emulate 16-bit arithmetic, slowly.
                dtype=self._torch.float32 if self._device == "cpu" else "auto",
            )
        except (OSError, ValueError) as exc:
            reason = str(exc).splitlines()[0][:200]
            raise BaseModelError(
                f"transformers cannot load {self.base.folder}: {reason}",
                hint="check the folder, or prepare the base model again",
            ) from exc
        model.requires_grad_(False)
        return model.to(self._device).eval(), tokenizer

    def _encode(self, prompt: Prompt, *, max_tokens: int) -> Any:
        """Returns token ids and mask of shape (1, length), cut by nothing."""
        text = self._render(prompt)
        # A chat template writes its own special tokens.
        templated = self._tokenizer.chat_template is not None
        inputs = self._tokenizer(text, add_special_tokens=not templated, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if length == 0:
            raise ConfigError("the prompt is empty", hint="give the model something to answer")
        if limit is not None and length + max_tokens > limit:
            raise ConfigError(
                f"the prompt has {length} tokens; with {max_tokens} to answer that is over the "
                f"{limit} that the base model can read",
                hint="shorten the prompt or lower max_tokens",
            )
        return inputs.to(self._device)

    def _render(self, prompt: Prompt) -> str:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        for message in messages:
            if not all(isinstance(message.get(key), str) for key in ("role", "content")):
                raise ConfigError(
                    "a chat message lacks its role or content",
                    hint='use {"role": "user", "content": "…"}',
                )
        if not messages:
            raise ConfigError("the prompt has no message", hint="pass text or chat messages")
        if self._tokenizer.chat_template is None:
            return "\n".join(message["content"] for message in messages)
        try:
            text: str = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except self._template_error as exc:
            raise ConfigError(
                f"the model's chat template refuses these messages: {exc}",
                hint="use the roles and the order that the model was trained with",
            ) from exc
        return text

    def _generate(self, inputs: Any, *, max_tokens: int) -> str:
        ids = self._model.generate(
            **inputs,
            max_new_tokens=max_tokens,
            do_sample=False,
            # A model's own sampling defaults would only draw warnings.
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self._pad_token_id(),
        )
        answer = ids[0, inputs["input_ids"].shape[1] :]  # (new tokens,)
        return str(self._tokenizer.decode(answer, skip_special_tokens=True))

    def _pad_token_id(self) -> int | None:
        padding: int | None = self._tokenizer.pad_token_id
        end: int | None = self._tokenizer.eos_token_id
        return end if padding is None else padding

    def _activate(self, adapter: Adapter) -> None:
        """Makes the adapter the active one, loading it and dropping another if need be."""
        folder = self._check(adapter)
        # PEFT keeps adapters in module dictionaries, whose keys may not hold a dot: our
        # names never do.
        key = f"{adapter.namespace}/{adapter.name}"
        if key not in self._loaded:
            # Checked before PEFT sees it: a load that fails half-way leaves its layers behind.
            report = validate_folder(folder, base=self.base.spec, max_rank=adapter.rank)
            if report.weights.digest != adapter.digest:
                raise CorruptAdapterError(
                    f"{folder} does not hold {adapter.name}",
                    hint="get the adapter again from Registry.published",
                )
            self._load_adapter(key, folder)
        self._loaded[key] = folder
        self._loaded.move_to_end(key)
        self._model.set_adapter(key, inference_mode=True)
        while len(self._loaded) > self._max_adapters:
            oldest, _ = self._loaded.popitem(last=False)
            self._model.delete_adapter(oldest)

    def _load_adapter(self, key: str, folder: Path) -> None:
        if isinstance(self._model, self._peft.PeftModel):
            self._model.load_adapter(folder, adapter_name=key)
        else:
            self._model = self._peft.PeftModel.from_pretrained(
                self._model, folder, adapter_name=key
            ).eval()

    def _check(self, adapter: Adapter) -> Path:
        """Returns the adapter's folder if this runtime may load it."""
        if adapter.base_fingerprint != self.base.spec.fingerprint:
            raise BaseMismatchError(
                f"adapter {adapter.name} was made for the base model "
                f"{adapter.base_fingerprint[:8]}, not for {self.base.spec.id} "
                f"({self.base.spec.fingerprint[:8]})",
                hint="use an adapter of this base model",
            )
        if adapter.path is None or not adapter.path.is_dir():
            raise AdapterNotFoundError(
                f"adapter {adapter.name} is not published",
                hint="get it from Registry.resolve or Registry.published",
            )
        return adapter.path


def _import(package: str) -> Any:
    """Returns an optional package.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as exc:
        # One that is installed but lacks something of its own is another fault.
        if exc.name != package:
            raise
        raise MissingExtraError(package, extra="local") from exc
