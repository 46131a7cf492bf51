"""The built wheel, installed where only the core dependencies are: what a user gets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CORE = ("alembic", "click", "numpy", "platformdirs", "safetensors", "sqlalchemy")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the working tree."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel and the core dependencies."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    for name in sorted(_closure(CORE)):
        _link(distribution(name), site)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    return folder / "bin"


def test_wheel_holds_what_is_needed_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"hyperplug", "hyperplug_ray", "hyperplug_vllm"}
    for needed in (
        "hyperplug/migrations/env.py",
        "hyperplug/migrations/versions/0001_initial.py",
        "hyperplug/checkpoints/smollm2-135m-instruct.safetensors",
        "hyperplug/py.typed",
        "hyperplug_vllm/plugin.py",
    ):
        assert needed in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in names)


def test_entry_points_are_declared(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        text = archive.read(name).decode()
    assert "[console_scripts]\nhyperplug = hyperplug.cli:main" in text
    groups = re.findall(r"^\[(vllm\.\w+)\]\n(\w+) =", text, flags=re.MULTILINE)
    # VLLM_PLUGINS filters all groups by one list of names.
    assert groups and {plugin for _, plugin in groups} == {"hyperplug"}
    assert "vllm.endpoint_plugins" in {group for group, _ in groups}


def test_entry_points_load_without_any_extra(environment: Path, tmp_path: Path) -> None:
    done = _run(
        environment / "python",
        "-c",
        "from importlib.metadata import entry_points\n"
        "import hyperplug_vllm\n"
        "(plugin,) = entry_points(group='vllm.endpoint_plugins', name='hyperplug')\n"
        "assert plugin.load()().name == 'hyperplug'",
        home=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_ray_is_named_where_it_is_missing(environment: Path, tmp_path: Path) -> None:
    code = (
        "import hyperplug.errors, hyperplug_ray\n"
        "try:\n"
        "    hyperplug_ray.build_app({})\n"
        "except hyperplug.errors.MissingExtraError as exc:\n"
        "    print(exc)\n"
    )
    done = _run(environment / "python", "-c", code, home=tmp_path)
    assert "pip install 'hyperplug[ray]'" in done.stdout, done.stderr


def test_schema_is_created_from_the_wheel_alone(environment: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    upgraded = _run(environment / "hyperplug", "--registry", url, "db", "upgrade", home=tmp_path)
    assert upgraded.returncode == 0, upgraded.stderr
    current = _run(environment / "hyperplug", "--registry", url, "db", "current", home=tmp_path)
    assert re.fullmatch(r"\w+\n", current.stdout), current.stderr
    check = _run(environment / "hyperplug", "--registry", url, "db", "check", home=tmp_path)
    assert check.returncode == 0, check.stderr


def test_missing_extra_is_named(environment: Path, tmp_path: Path) -> None:
    done = _run(environment / "hyperplug", "register-task", "greet", "Say hello.", home=tmp_path)
    assert done.returncode == 1
    assert "pip install 'hyperplug[" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def _run(program: Path, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HYPERPLUG_")}
    clean.pop("PYTHONPATH", None)
    return subprocess.run(
        [str(program), *arguments],
        cwd=home,  # not the checkout, which Python would import from
        env={**clean, "HYPERPLUG_HOME": str(home), "HYPERPLUG_CACHE": str(home / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _closure(names: tuple[str, ...]) -> set[str]:
    """Returns the distributions that `names` need without extras, themselves included."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop().lower()
        if name in found:
            continue
        found.add(name)
        for text in distribution(name).requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                pending.append(requirement.name)
    return found


def _link(found: Distribution, site: Path) -> None:
    """Makes an installed distribution importable in another environment."""
    tops = {Path(str(file)).parts[0] for file in found.files or []}
    for top in tops - {"..", "__pycache__"}:
        source = Path(str(found.locate_file(top)))
        if source.exists() and not (site / top).exists():
            (site / top).symlink_to(source)
