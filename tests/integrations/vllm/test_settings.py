"""The plugin's settings: flags beat variables beat defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
from hyperplug_vllm.settings import read_settings

from hyperplug.entities import OnNovel
from hyperplug.errors import ConfigError


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the machine takes part."""
    for name in ("REGISTRY", "NAMESPACE", "HYPERNET", "ON_NOVEL", "MIN_SCORE", "MAX_LIVE"):
        monkeypatch.delenv(f"HYPERPLUG_{name}", raising=False)
    monkeypatch.setenv("HYPERPLUG_HOME", str(tmp_path))


def test_defaults(tmp_path: Path) -> None:
    serving = read_settings({}, base="/models/tiny")
    assert serving.settings.registry_url == f"sqlite:///{tmp_path / 'registry.db'}"
    assert serving.settings.base == "/models/tiny"
    assert (serving.on_novel, serving.min_score, serving.max_live) == (
        OnNovel.GENERATE,
        None,
        None,
    )


def test_variables_are_the_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERPLUG_REGISTRY", "sqlite:////from/variable.db")
    monkeypatch.setenv("HYPERPLUG_ON_NOVEL", "base")
    monkeypatch.setenv("HYPERPLUG_MIN_SCORE", "0.5")
    serving = read_settings({"on_novel": "error"}, base="b")
    assert serving.settings.registry_url == "sqlite:////from/variable.db"
    assert serving.on_novel is OnNovel.ERROR
    assert serving.min_score == 0.5


def test_flags_come_as_json_values() -> None:
    serving = read_settings({"min_score": 1, "max_live": 3, "namespace": "acme"}, base="b")
    assert (serving.min_score, serving.max_live, serving.settings.namespace) == (1.0, 3, "acme")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("registri", "x"),
        ("on_novel", "guess"),
        ("min_score", "high"),
        ("min_score", "nan"),
        ("min_score", 1.5),
        ("max_live", 0),
        ("max_live", "many"),
    ],
)
def test_what_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        read_settings({key: value}, base="b")
