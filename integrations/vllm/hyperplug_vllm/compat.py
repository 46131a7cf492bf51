"""Everything that hyperplug takes from vLLM beyond its documented launch flags.

vLLM moves these names between releases: `hyperplug_vllm.contract` lists them, and the releases in
which all were found. vLLM's objects are untyped here and leave as values of our own.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperplug.entities import Adapter
from hyperplug.errors import BaseModelError, ConfigError, InvalidAdapterError, MissingExtraError
from hyperplug_vllm.contract import NEWEST, OLDEST, Way, supported_range, way_into
from hyperplug_vllm.sources import release_in

# vLLM configures logging for the "vllm" tree only.
LOGGER_NAME = "vllm.hyperplug"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFlags:
    """The launch flags of a vLLM server that concern hyperplug.

    Attributes:
        model: hub id or folder of the base model.
        additional: the content of `--additional-config.hyperplug`.
    """

    model: str
    revision: str | None
    enable_lora: bool
    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    runtime_updating: bool
    additional: Mapping[str, object]


def server_flags(args: Any) -> ServerFlags:
    """Returns the flags that concern us from vLLM's parsed command line."""
    from vllm import envs

    max_loras = int(getattr(args, "max_loras", None) or 1)
    config = getattr(args, "additional_config", None) or {}
    additional = config.get("hyperplug") or {} if isinstance(config, Mapping) else {}
    return ServerFlags(
        model=str(args.model),
        revision=getattr(args, "revision", None),
        enable_lora=bool(getattr(args, "enable_lora", False)),
        max_loras=max_loras,
        max_cpu_loras=int(getattr(args, "max_cpu_loras", None) or max_loras),
        max_lora_rank=int(getattr(args, "max_lora_rank", None) or 16),
        runtime_updating=bool(envs.VLLM_ALLOW_RUNTIME_LORA_UPDATING),
        additional=additional,
    )


def installed_release() -> tuple[int, int] | None:
    """Returns the release of the vLLM that Python would import; None if it has no number.

    Raises:
        MissingExtraError: if there is no vLLM.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        raise MissingExtraError("vllm", extra="vllm")
    return release_in(Path(spec.origin).parents[1])


def require_supported() -> Way:
    """Returns how hyperplug comes into the installed vLLM's servers.

    Raises:
        MissingExtraError: if there is no vLLM.
        ConfigError: if it is none of the supported releases.
    """
    release = installed_release()
    if release is None or not OLDEST <= release <= NEWEST:
        number = f"{release[0]}.{release[1]}" if release else "of an unknown version"
        wanted = f"vllm>={OLDEST[0]}.{OLDEST[1]},<{NEWEST[0]}.{NEWEST[1] + 1}"
        raise ConfigError(
            f"vLLM {number} is not supported: hyperplug works with vLLM {supported_range()}",
            hint=f"run: pip install '{wanted}'",
        )
    return way_into(release)


def run_command(arguments: Sequence[str]) -> None:
    """Runs vLLM's command "serve", the first of the arguments, until the server ends."""
    # As vLLM's own script does before all else.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(description="vLLM's server")
    command = ServeSubcommand()
    command.subparser_init(parser.add_subparsers(dest="subparser", required=True))
    args = parser.parse_args(list(arguments))
    command.validate(args)
    command.cmd(args)


def api_keys(args: Any) -> tuple[str, ...]:
    """Returns the keys that vLLM takes: those of `--api-key`, or else that of VLLM_API_KEY."""
    from vllm import envs

    given = getattr(args, "api_key", None) or [envs.VLLM_API_KEY]
    return tuple(key for key in ([given] if isinstance(given, str) else given) if key)


def init_logging() -> None:
    """Gives our logger vLLM's format and level."""
    from vllm.logger import init_logger

    init_logger(LOGGER_NAME)


def lora_request(adapter: Adapter, *, name: str | None = None) -> Any:
    """Returns vLLM's request object for a published adapter.

    vLLM takes a relative path for a hub id and would download it: only absolute ones go in.

    Args:
        name: by which vLLM is to know it, in place of its own.
    """
    try:
        from vllm.lora.request import LoRARequest
    except ImportError as exc:
        raise MissingExtraError("vllm", extra="vllm") from exc
    if adapter.path is None or not adapter.path.is_absolute():
        raise InvalidAdapterError(
            f"adapter {adapter.name} has no published folder", hint="publish it first"
        )
    return LoRARequest(name or adapter.name, adapter.id, str(adapter.path))


class Engine:
    """A running vLLM server's adapters: what its front end lists and its engine holds."""

    def __init__(self, engine_client: Any, models: Any, *, namespace: str = "default") -> None:
        self._client = engine_client
        self._namespace = namespace
        self._models = models
        self._static = frozenset(models.lora_requests)

    @property
    def base_name(self) -> str:
        """The first name under which the base model is served."""
        return str(self._models.base_model_paths[0].name)

    @property
    def static_count(self) -> int:
        """How many adapters came with `--lora-modules`; they share the engine's room."""
        return len(self._static)

    def serves(self, name: str) -> bool:
        """Returns whether vLLM itself serves that name: the base or a `--lora-modules`."""
        return bool(self._models.is_base_model(name)) or name in self._static

    def served_name(self, adapter: Adapter) -> str:
        """Returns the name by which vLLM knows an adapter.

        Two tenants may have adapters of one name; those of another than the server's own
        have their namespace before it.
        """
        if adapter.namespace == self._namespace:
            return adapter.name
        return f"{adapter.namespace}/{adapter.name}"

    async def add(self, adapter: Adapter) -> None:
        """Loads a published adapter and lists it. Whatever the engine raises goes through."""
        name = self.served_name(adapter)
        request = lora_request(adapter, name=name)
        if not await self._client.add_lora(request):
            raise RuntimeError("the engine did not take the adapter")
        self._models.lora_requests[name] = request

    async def remove(self, adapter: Adapter) -> bool:
        """Takes the adapter off the list and out of the engine; a dead engine is no error.

        Returns whether the engine answered, hence surely holds nothing of it.
        """
        self.forget(adapter)
        try:
            await self._client.remove_lora(adapter.id)
        except Exception:  # whatever it is, there is nothing else to do
            return False
        return True

    def list_again(self, adapter: Adapter) -> None:
        """Lists a loaded adapter if it is not: clients may unload it where vLLM lets them."""
        name = self.served_name(adapter)
        if name not in self._models.lora_requests:
            self._models.lora_requests[name] = lora_request(adapter, name=name)

    def forget(self, adapter: Adapter) -> None:
        """Takes the adapter off the front end's list at once."""
        self._models.lora_requests.pop(self.served_name(adapter), None)


def connect(engine_client: Any, state: Any, *, namespace: str) -> Engine:
    """Returns the server's adapters, from what vLLM hands to an endpoint plugin."""
    return Engine(engine_client, state.openai_serving_models, namespace=namespace)


def served_folder(model: str, *, revision: str | None) -> Path:
    """Returns the folder whose weights vLLM serves for `--model`.

    Raises:
        BaseModelError: if it is neither a folder nor in the hub's cache.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.absolute()
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except Exception as exc:
        raise BaseModelError(
            f"cannot find the files of the served model {model!r}: {type(exc).__name__}",
            hint="serve it from a local folder: --model FOLDER",
        ) from exc


def token_counter(folder: Path) -> Callable[[str], int]:
    """Returns what counts the tokens of a text as the served model reads it."""

    @functools.lru_cache(maxsize=1)
    def tokenizer() -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def count(text: str) -> int:
        return len(tokenizer().encode(text, add_special_tokens=False))

    return count


def has_accelerator() -> bool:
    """Returns whether this machine has a GPU that PyTorch can use."""
    try:
        import torch
    except ImportError as exc:
        raise MissingExtraError("vllm", extra="vllm") from exc
    return bool(torch.accelerator.is_available())
