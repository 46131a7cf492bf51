"""vLLM's own server, without an engine: nobody without a key has anything looked up.

For the installed release and for those that HYPERPLUG_VLLM_SOURCES names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hyperplug_vllm
import pytest
from hyperplug_vllm.contract import way_into
from hyperplug_vllm.sources import release_in

from tests.adapters.tiny import save_model
from tests.integrations.vllm.engine import BASE
from tests.integrations.vllm.released import KEY, NOT_IMPORTABLE
from tests.integrations.vllm.test_contract import INSTALLED, NAMED

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model that loads at once."""
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("folder", [INSTALLED, *NAMED], ids=lambda folder: folder.name)
def test_strangers_get_nothing_and_others_their_answer(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    places = [folder, ROOT, Path(hyperplug_vllm.__file__).parents[1]]
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HYPERPLUG_")},
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        "HF_HUB_OFFLINE": "1",
    }
    if cache := os.environ.get("HYPERPLUG_CACHE"):
        environment["HYPERPLUG_CACHE"] = cache
    command = [sys.executable, "-m", "tests.integrations.vllm.released", str(model), str(tmp_path)]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    last = done.stdout.strip().splitlines()[-1:]
    if done.returncode == NOT_IMPORTABLE and folder != INSTALLED:
        pytest.skip(f"only its sources were checked: {last}")
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(last[0])
    release = release_in(folder)
    assert release is not None
    assert seen["version"].startswith(f"{release[0]}.{release[1]}.")
    assert seen["way"] == way_into(release)
    assert seen["started"] == "lifespan.startup.complete"
    for path in ("chat", "resolve"):
        assert seen[path] == seen[f"{path} wrong"] == 401
        assert seen[f"{path} {KEY}"] == 200
        assert seen[f"{path} lookups"] == 1
    assert seen["models"] == [BASE]  # what the release's own route was asked for
    assert seen["decision"] == "base"
