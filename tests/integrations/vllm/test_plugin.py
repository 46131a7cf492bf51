"""What the plugin does with vLLM's flags when the server starts."""

from __future__ import annotations

import logging
from argparse import Namespace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from fastapi import FastAPI
from hyperplug_vllm import compat
from hyperplug_vllm.contract import PLUGIN_GROUP, PLUGIN_NAME
from hyperplug_vllm.middleware import TaskMiddleware
from hyperplug_vllm.plugin import HyperplugPlugin, prepare

from hyperplug.config import Settings
from hyperplug.errors import BaseMismatchError, BaseModelError, ConfigError
from hyperplug.registry import Registry
from tests.adapters.tiny import save_model

pytest.importorskip("vllm")


def _args(registry: Registry, settings: Settings, **changes: object) -> Namespace:
    own = {"registry": settings.registry_url, "home": str(settings.home)}
    flags = {
        "model": str(registry.base.folder),
        "revision": None,
        "enable_lora": True,
        "max_loras": 4,
        "max_cpu_loras": None,
        "max_lora_rank": 16,
        "additional_config": {"hyperplug": own},
    }
    return Namespace(**{**flags, **changes})


def _app(args: Namespace) -> FastAPI:
    app = FastAPI()
    app.state.args = args
    return app


def test_vllm_finds_the_plugin() -> None:
    (entry,) = entry_points(group=PLUGIN_GROUP, name=PLUGIN_NAME)
    assert entry.load() is HyperplugPlugin


def test_it_is_what_vllm_calls_an_endpoint_plugin() -> None:
    from vllm.plugins.endpoint_plugins.interface import EndpointPlugin

    assert isinstance(HyperplugPlugin(), EndpointPlugin)


def test_middleware_and_routes_are_added(warm_registry: Registry, serving_home: Settings) -> None:
    app = _app(_args(warm_registry, serving_home))
    HyperplugPlugin().attach_router(app)
    assert TaskMiddleware.__name__ in repr(app.user_middleware)
    assert "/v1/hyperplug/health" in app.openapi()["paths"]


def test_a_server_without_lora_ends_with_one_line(
    warm_registry: Registry, serving_home: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    app = _app(_args(warm_registry, serving_home, enable_lora=False))
    with caplog.at_level(logging.ERROR), _Heard(caplog), pytest.raises(SystemExit):
        HyperplugPlugin().attach_router(app)
    (line,) = {record.getMessage() for record in caplog.records}
    assert line.startswith("hyperplug cannot start:")
    assert "--enable-lora" in line


class _Heard:
    """Lets pytest hear vLLM's logger, which does not pass on what it logs."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._handler = caplog.handler
        self._logger = logging.getLogger(compat.LOGGER_NAME)

    def __enter__(self) -> None:
        self._logger.addHandler(self._handler)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self._handler)


def test_another_base_model_is_refused(
    warm_registry: Registry, serving_home: Settings, tmp_path: Path
) -> None:
    other = save_model(tmp_path / "other")
    args = _args(warm_registry, serving_home, model=str(other))
    with pytest.raises(BaseMismatchError, match="was not trained for"):
        prepare(compat.server_flags(args))


def test_another_base_model_without_generation(
    warm_registry: Registry, serving_home: Settings, tmp_path: Path
) -> None:
    """Imported adapters can be served on a base that no hypernetwork knows."""
    other = save_model(tmp_path / "other")
    own = {
        "registry": serving_home.registry_url,
        "home": str(serving_home.home),
        "on_novel": "base",
    }
    args = _args(
        warm_registry, serving_home, model=str(other), additional_config={"hyperplug": own}
    )
    gateway = prepare(compat.server_flags(args))
    assert gateway.base.fingerprint != warm_registry.base.spec.fingerprint
    gateway.lookups.close()


def test_a_rank_too_small_for_the_hypernetwork(
    warm_registry: Registry, serving_home: Settings
) -> None:
    with pytest.raises(ConfigError, match="--max-lora-rank 16"):
        prepare(compat.server_flags(_args(warm_registry, serving_home, max_lora_rank=8)))


def test_a_hub_id_that_is_not_at_hand(warm_registry: Registry, serving_home: Settings) -> None:
    args = _args(warm_registry, serving_home, model="nobody/nothing-of-the-kind")
    with pytest.raises(BaseModelError, match="cannot find the files"):
        prepare(compat.server_flags(args))


def test_one_slot_and_a_password_are_warned_about(
    caplog: pytest.LogCaptureFixture, warm_registry: Registry, serving_home: Settings
) -> None:
    own = {"registry": "postgresql://user:secret@127.0.0.1:1/none"}
    args = _args(warm_registry, serving_home, max_loras=1, additional_config={"hyperplug": own})
    app = _app(args)
    with caplog.at_level(logging.WARNING), _Heard(caplog), pytest.raises(SystemExit):
        HyperplugPlugin().attach_router(app)
    lines = [record.getMessage() for record in caplog.records]
    assert any("--max-loras 4 --max-cpu-loras 16" in line for line in lines)
    assert any("HYPERPLUG_REGISTRY" in line for line in lines)
    assert "secret" not in "\n".join(lines)


@pytest.mark.parametrize("additional", [{"registri": "x"}, {"on_novel": "x"}])
def test_wrong_settings(
    warm_registry: Registry, serving_home: Settings, additional: dict[str, str]
) -> None:
    args = _args(warm_registry, serving_home, additional_config={"hyperplug": additional})
    with pytest.raises(ConfigError):
        prepare(compat.server_flags(args))


def test_flags_that_vllm_leaves_out() -> None:
    flags = compat.server_flags(Namespace(model="m", max_loras=3, additional_config=None))
    assert (flags.max_cpu_loras, flags.max_lora_rank, flags.enable_lora) == (3, 16, False)
    assert flags.additional == {}
