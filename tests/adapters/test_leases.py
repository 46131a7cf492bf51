"""Folders that a server uses are not deleted under it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyperplug.adapters import Library
from hyperplug.adapters.leases import FRESH_SECONDS, Lease, leased
from hyperplug.errors import RegistryError
from tests.adapters.samples import BASE, stored, weights


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A library of five adapters, the first of them published the longest ago."""
    made = Library(tmp_path / "library")
    for seed in range(5):
        packed = weights(seed)
        folder = made.publish(stored(packed), packed.data, base_id=BASE.id)
        os.utime(folder, (seed + 1, seed + 1))
    return made


def names(library: Library) -> list[str]:
    """Returns the adapters that are published."""
    return [name for _, name, _ in library.folders()]


def name(seed: int) -> str:
    """Returns the name of the adapter of that seed."""
    return stored(weights(seed)).name


def test_those_used_the_longest_ago_go_first(library: Library) -> None:
    library.used(stored(weights(0)))
    assert library.trim(keep=3) == 2
    assert sorted(names(library)) == sorted([name(0), name(3), name(4)])
    assert library.trim(keep=3) == 0


def test_leased_folders_stay(library: Library) -> None:
    lease, other = Lease(library.root), Lease(library.root)
    lease.hold([f"default/{name(0)}"])
    other.hold([f"default/{name(1)}"])
    assert library.in_use() == {f"default/{name(0)}", f"default/{name(1)}"}
    assert library.trim(keep=1) == 3
    assert sorted(names(library)) == sorted([name(0), name(1)])
    lease.hold([])
    other.release()
    assert leased(library.root) == set()
    assert library.trim(keep=0) == 2


def test_a_lease_that_nobody_renews_ends(library: Library) -> None:
    Lease(library.root).hold([f"default/{name(0)}"])
    (file,) = (library.root / ".leases").glob("*.json")
    old = file.stat().st_mtime - FRESH_SECONDS - 1
    os.utime(file, (old, old))
    assert leased(library.root) == set()
    assert not file.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"7", b'[["x"]]', b"\xff"])
def test_a_damaged_lease_is_no_obstacle(library: Library, content: bytes) -> None:
    Lease(library.root).hold([f"default/{name(0)}"])
    (library.root / ".leases" / "other.json").write_bytes(content)
    assert f"default/{name(0)}" in leased(library.root)


def test_a_library_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "library").write_text("in the way")
    with pytest.raises(RegistryError, match="cannot write"):
        Lease(tmp_path / "library").hold([])
    assert leased(tmp_path / "library") == set()
