"""hyperplug: task descriptions become LoRA adapters that a running model server loads.

>>> import hyperplug
>>> resolution = hyperplug.lookup("Say whether a film review is positive or negative")
>>> resolution.decision, resolution.adapter.path
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from hyperplug._version import __version__

if TYPE_CHECKING:
    from hyperplug.config import Settings, load_settings
    from hyperplug.entities import (
        Adapter,
        Decision,
        Example,
        Match,
        OnNovel,
        Resolution,
        Task,
        TaskDraft,
    )
    from hyperplug.errors import HyperplugError
    from hyperplug.registry import Registry, open_registry

# Where each public name lives. They are imported when first used: opening a registry costs a
# second, `hyperplug --help` must not.
_HOMES = {
    "Adapter": "hyperplug.entities",
    "Decision": "hyperplug.entities",
    "Example": "hyperplug.entities",
    "HyperplugError": "hyperplug.errors",
    "Match": "hyperplug.entities",
    "OnNovel": "hyperplug.entities",
    "Registry": "hyperplug.registry",
    "Resolution": "hyperplug.entities",
    "Settings": "hyperplug.config",
    "Task": "hyperplug.entities",
    "TaskDraft": "hyperplug.entities",
    "load_settings": "hyperplug.config",
    "open_registry": "hyperplug.registry",
}

__all__ = [
    "Adapter",
    "Decision",
    "Example",
    "HyperplugError",
    "Match",
    "OnNovel",
    "Registry",
    "Resolution",
    "Settings",
    "Task",
    "TaskDraft",
    "__version__",
    "load_settings",
    "lookup",
    "open_registry",
]


def lookup(text: str, *, on_novel: OnNovel | str = "generate") -> Resolution:
    """Returns what serves a task name or description in the default registry.

    Opens the registry for this one question; for several, keep one from `open_registry`.

    Raises:
        HyperplugError: as `Registry.resolve`.
    """
    from hyperplug.registry import open_registry

    with open_registry() as registry:
        return registry.resolve(text, on_novel=on_novel)


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'hyperplug' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
