"""Adapters as files: PEFT's format, its validation, and the library of published folders."""

from __future__ import annotations

from hyperplug.adapters.library import Library
from hyperplug.adapters.peft_format import adapter_config, pack, provenance, unpack
from hyperplug.adapters.validate import AdapterReport, validate_bytes, validate_folder

__all__ = [
    "AdapterReport",
    "Library",
    "adapter_config",
    "pack",
    "provenance",
    "unpack",
    "validate_bytes",
    "validate_folder",
]
