"""The library: folders appear whole or not at all, whatever happens to the writers."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hyperplug.adapters import Library, validate_folder
from hyperplug.adapters.peft_format import CONFIG_FILE, PROVENANCE_FILE, WEIGHTS_FILE
from hyperplug.errors import ConfigError, CorruptAdapterError, HyperplugError, RegistryError
from tests.adapters import worker
from tests.adapters.samples import BASE, stored, weights

FILES = {WEIGHTS_FILE, CONFIG_FILE, PROVENANCE_FILE}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """An empty library."""
    return Library(tmp_path / "library")


def publish(library: Library, seed: int = 0) -> Path:
    """Publishes the sample adapter of that seed."""
    packed = weights(seed)
    return library.publish(stored(packed), packed.data, base_id=BASE.id)


def check_whole(root: Path) -> int:
    """Returns how many folders are visible, after checking that each is whole."""
    folders = list(root.glob("default/*"))
    for folder in folders:
        assert validate_folder(folder, base=BASE).warnings == ()
    return len(folders)


def test_a_published_folder_is_absolute_named_by_digest_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = stored(weights())
    folder = publish(Library(Path("relative")))
    assert folder == tmp_path / "relative" / "default" / f"sums@{row.digest[:8]}"
    assert {file.name for file in folder.iterdir()} == FILES
    assert validate_folder(folder, base=BASE).weights == weights()


def test_another_user_may_read_a_published_folder(library: Library) -> None:
    before = os.umask(0o022)
    try:
        folder = publish(library)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in folder.iterdir())


def test_publishing_again_changes_nothing(library: Library) -> None:
    folder = publish(library)
    before = {file.name: file.stat() for file in folder.iterdir()}
    assert publish(library) == folder
    assert publish(Library(library.root)) == folder
    assert {file.name: file.stat() for file in folder.iterdir()} == before


def test_another_name_of_the_base_is_no_damage(library: Library) -> None:
    folder = publish(library)
    before = (folder / CONFIG_FILE).read_bytes()
    packed = weights()
    Library(library.root).publish(stored(packed), packed.data, base_id="/models/tiny")
    assert (folder / CONFIG_FILE).read_bytes() == before


def test_path_knows_what_is_published(library: Library) -> None:
    row = stored(weights())
    assert library.path(row) is None
    folder = publish(library)
    assert library.path(row) == folder == Library(library.root).path(row)
    library.remove(row)
    assert library.path(row) is None and not folder.exists()
    library.remove(row)


def test_bytes_that_are_not_the_adapters_are_refused(library: Library) -> None:
    with pytest.raises(CorruptAdapterError, match="do not match their digest"):
        library.publish(stored(weights()), weights(1).data, base_id=BASE.id)
    assert not library.root.exists()


@pytest.mark.parametrize(
    "change", [{"namespace": "../x"}, {"name": "../../x@00000000"}, {"task_name": "other"}]
)
def test_names_cannot_lead_out_of_the_library(library: Library, change: dict[str, str]) -> None:
    row = dataclasses.replace(stored(weights()), **change)  # type: ignore[arg-type]
    with pytest.raises(HyperplugError):
        library.publish(row, weights().data, base_id=BASE.id)
    with pytest.raises(HyperplugError):
        library.remove(row)
    assert not library.root.exists()


def _truncate(folder: Path) -> None:
    os.truncate(folder / WEIGHTS_FILE, 50)


def _flip(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS_FILE).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(data)


def _rescale(folder: Path) -> None:
    config = folder / CONFIG_FILE
    config.write_text(config.read_text().replace('"lora_alpha": 4', '"lora_alpha": 40'))


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _link_file(folder: Path) -> None:
    outside = folder.parents[2] / "outside"
    shutil.move(folder / WEIGHTS_FILE, outside)
    (folder / WEIGHTS_FILE).symlink_to(outside)


def _link_folder(folder: Path) -> None:
    outside = folder.parents[2] / "outside"
    shutil.move(folder, outside)
    folder.symlink_to(outside)


def _folder_for_file(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    (folder / WEIGHTS_FILE).mkdir()


def _file_for_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip,
        _rescale,
        _empty,
        _link_file,
        _link_folder,
        _folder_for_file,
        _file_for_folder,
        lambda folder: (folder / PROVENANCE_FILE).write_text("{"),
        lambda folder: (folder / CONFIG_FILE).write_text("[]"),
        shutil.rmtree,
    ],
)
@pytest.mark.parametrize("same_process", [True, False])
def test_a_damaged_folder_is_rebuilt(
    library: Library, damage: Callable[[Path], None], same_process: bool
) -> None:
    folder = publish(library)
    damage(folder)
    library = library if same_process else Library(library.root)
    assert library.path(stored(weights())) is None
    assert publish(library) == folder
    assert {file.name for file in folder.iterdir()} == FILES
    assert validate_folder(folder, base=BASE).weights == weights()
    assert not list(library.root.glob(".tmp-*"))


def test_an_adapter_whose_digest_starts_the_same_is_not_overwritten(library: Library) -> None:
    folder = publish(library, seed=0)
    other = weights(1)
    # A collision of eight digits, made by placing an intact adapter under the other's name.
    taken = folder.parent / stored(other).name
    folder.rename(taken)
    lookalike = dataclasses.replace(stored(weights(0)), name=taken.name)
    with pytest.raises(CorruptAdapterError):
        library.path(lookalike)
    assert publish(library, seed=1) == taken
    assert validate_folder(taken, base=BASE).weights == other


def test_eight_processes_publish_the_same_adapters(library: Library) -> None:
    start_at = str(time.time() + 3)
    workers = [worker.start("publish-many", library.root, start_at) for _ in range(8)]
    while any(process.poll() is None for process in workers):
        check_whole(library.root)
    for process in workers:
        worker.finish(process)
    assert check_whole(library.root) == worker.ROUNDS
    assert not list(library.root.glob(".tmp-*"))


def test_a_killed_writer_leaves_no_half_folder(library: Library) -> None:
    for number in range(12):
        process = worker.start("publish-for-ever", library.root)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.02 + 0.007 * number)
        process.kill()
        process.communicate()
        check_whole(library.root)
    library.collect_leftovers(older_than_seconds=-1)
    assert not list(library.root.glob(".tmp-*"))
    for seed in range(5):
        publish(library, seed)
    assert check_whole(library.root) == 5


def test_leftovers_are_collected_once_they_are_old(library: Library) -> None:
    folder = publish(library)
    (library.root / ".tmp-1-old").mkdir()
    (library.root / ".tmp-1-old" / WEIGHTS_FILE).write_bytes(b"half")
    (library.root / ".tmp-2-new").mkdir()
    os.utime(library.root / ".tmp-1-old", (0, 0))
    assert library.collect_leftovers() == 1
    assert {entry.name for entry in library.root.iterdir()} == {"default", ".tmp-2-new"}
    assert folder.is_dir()
    assert Library(library.root / "nowhere").collect_leftovers() == 0


def test_a_full_disk(library: Library) -> None:
    message = worker.finish(worker.start("publish-on-small-disk", library.root))
    assert "cannot write adapters" in message and "free disk space" in message
    assert not list(library.root.glob("default/*"))
    assert not list(library.root.glob(".tmp-*"))


def test_a_really_full_disk(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(mounted)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("this user may not mount file systems")
    try:
        with pytest.raises(RegistryError, match="No space left on device"):
            publish(Library(mounted / "library"))
        assert not list((mounted / "library").glob("default/*"))
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, as pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="hyperplug-library-"))
    folder.chmod(0o755)
    yield folder
    for path in (folder / "library", folder / "library" / "default"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_library_serves_what_it_has_and_says_why_it_takes_no_more(
    open_folder: Path,
) -> None:
    library = Library(open_folder / "library")
    folder = publish(library)
    for path in (library.root / "default", library.root):
        path.chmod(0o555)
    assert worker.finish(worker.start("publish-read-only", library.root, "0")) == str(folder)
    message = worker.finish(worker.start("publish-read-only", library.root, "1"))
    assert "cannot write adapters" in message and "make it writable" in message


def test_a_file_in_the_place_of_the_library(tmp_path: Path) -> None:
    (tmp_path / "library").write_text("x")
    with pytest.raises(RegistryError, match="cannot write adapters") as caught:
        publish(Library(tmp_path / "library"))
    assert caught.value.hint


def test_export_writes_a_folder_once(library: Library, tmp_path: Path) -> None:
    packed = weights()
    target = tmp_path / "deep" / "er"
    for _ in range(2):
        assert library.export(stored(packed), packed.data, target, base_id=BASE.id) == target
    assert {file.name for file in target.iterdir()} == FILES
    assert [entry.name for entry in target.parent.iterdir()] == ["er"]


def test_export_into_an_empty_folder(library: Library, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    packed = weights()
    library.export(stored(packed), packed.data, tmp_path / "out", base_id=BASE.id)
    assert validate_folder(tmp_path / "out", base=BASE).weights == packed


def test_export_overwrites_nothing(library: Library, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    packed = weights()
    for target in (tmp_path / "out", tmp_path / "file"):
        with pytest.raises(ConfigError, match="exists and is not empty"):
            library.export(stored(packed), packed.data, target, base_id=BASE.id)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "x"
    assert (tmp_path / "file").read_text() == "x"
    assert not list(tmp_path.glob(".tmp-*"))
