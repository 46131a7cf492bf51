"""The plugin's settings: vLLM launch flags first, then `HYPERPLUG_*` variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hyperplug.config import Settings, load_settings
from hyperplug.entities import OnNovel
from hyperplug.errors import ConfigError

FLAG = "--additional-config.hyperplug."
_OWN_KEYS = (
    *("on_novel", "min_score", "max_live", "keys"),
    *("novel_per_minute", "texts_per_minute", "max_folders"),
)
_NOVEL_PER_MINUTE = 60
_TEXTS_PER_MINUTE = 1200
_MAX_FOLDERS = 2000
_KEYS = ("registry", "namespace", "home", "hypernet", *_OWN_KEYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings:
    """How one server looks tasks up.

    Attributes:
        settings: registry, library, base model and hypernetwork.
        on_novel: what becomes of a description near no registered task.
        min_score: overrides the calibrated border of NEAREST.
        max_live: how many adapters stay loaded; None takes vLLM's `--max-cpu-loras`.
        keys: file of API keys and the namespaces that they open; None for one tenant.
        novel_per_minute: how many adapters one tenant's requests may have generated.
        texts_per_minute: how many descriptions of one tenant's requests may be looked up that
            were not lately.
        max_folders: how many adapters stay published on disk.
    """

    settings: Settings
    on_novel: OnNovel = OnNovel.GENERATE
    min_score: float | None = None
    max_live: int | None = None
    keys: Path | None = None
    novel_per_minute: int = _NOVEL_PER_MINUTE
    texts_per_minute: int = _TEXTS_PER_MINUTE
    max_folders: int = _MAX_FOLDERS


def read_settings(additional: Mapping[str, object], *, base: str) -> ServingSettings:
    """Returns the settings in force for a server of the base model in folder `base`.

    Args:
        additional: what came as `--additional-config.hyperplug.KEY VALUE`.

    Raises:
        ConfigError: for an unknown key or an unusable value.
    """
    if not isinstance(additional, Mapping):
        raise ConfigError(f"{FLAG[:-1]} is not a group of settings", hint=f"use {FLAG}registry URL")
    for key in additional:
        if key not in _KEYS:
            raise ConfigError(f"unknown flag {FLAG}{key}", hint=f"known: {', '.join(_KEYS)}")
    values = {key: _value(additional, key) for key in _KEYS}
    return ServingSettings(
        settings=load_settings(
            registry_url=values["registry"],
            home=values["home"],
            base=base,
            hypernet=values["hypernet"],
            namespace=values["namespace"],
        ),
        on_novel=_on_novel(values["on_novel"]),
        min_score=_score(values["min_score"]),
        max_live=_count("max_live", values),
        keys=Path(values["keys"]).expanduser().absolute() if values["keys"] else None,
        novel_per_minute=_count("novel_per_minute", values) or _NOVEL_PER_MINUTE,
        texts_per_minute=_count("texts_per_minute", values) or _TEXTS_PER_MINUTE,
        max_folders=_count("max_folders", values) or _MAX_FOLDERS,
    )


def _value(additional: Mapping[str, object], key: str) -> str | None:
    """Returns a flag as text; flags that `load_settings` reads itself have no variable here."""
    given = additional.get(key)
    if given is None and key in _OWN_KEYS:
        given = os.environ.get(f"HYPERPLUG_{key.upper()}")
    return str(given) if given not in (None, "") else None


def _on_novel(value: str | None) -> OnNovel:
    if value is None:
        return OnNovel.GENERATE
    try:
        return OnNovel(value)
    except ValueError as exc:
        raise ConfigError(
            f"on_novel is {value!r}", hint=f"use one of: {', '.join(OnNovel)}"
        ) from exc


def _score(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        score = float(value)
    except ValueError:
        score = float("nan")
    if not -1.0 <= score <= 1.0:
        raise ConfigError(f"min_score is {value!r}", hint="use a cosine between -1 and 1")
    return score


def _count(key: str, values: Mapping[str, str | None]) -> int | None:
    value = values[key]
    if value is None:
        return None
    if len(value) > 9 or not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"{key} is {value[:40]!r}", hint="use a whole number from 1 up")
    return int(value)
