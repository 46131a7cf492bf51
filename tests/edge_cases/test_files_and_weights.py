"""Edge cases of adapter files and what is in them."""

from __future__ import annotations

import errno
import json
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save, save_file

from hyperplug.adapters import Library, pack, unpack, validate_folder
from hyperplug.adapters.peft_format import (
    CONFIG_FILE,
    PROVENANCE_FILE,
    WEIGHTS_FILE,
    Pair,
    tensor_name,
)
from hyperplug.basemodel import read_spec
from hyperplug.entities import AdapterWeights, BaseModelSpec
from hyperplug.errors import (
    BaseMismatchError,
    CorruptAdapterError,
    InvalidAdapterError,
    RegistryError,
)
from hyperplug.registry import Registry
from tests.adapters.samples import (
    BASE,
    MODULES,
    export,
    foreign,
    pairs,
    raw_file,
    stored,
    weights,
)
from tests.edge_cases.conftest import OpenRegistry, SeededGenerator
from tests.store.samples import execute

TENSOR = tensor_name(MODULES[0], "A")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """An empty library."""
    return Library(tmp_path / "shelf")


def publish(library: Library) -> Path:
    """Publishes the sample adapter."""
    packed = weights()
    return library.publish(stored(packed), packed.data, base_id=BASE.id)


def refusal(registry: Registry, folder: Path, **options: Any) -> str:
    """Returns why a folder is not imported, after checking that nothing is left of it."""
    registry.register_task("sums", "Add two numbers", generate=False)
    with pytest.raises(InvalidAdapterError) as caught:
        registry.import_(folder, task_name="sums", **options)
    assert registry.list_adapters() == [] and caught.value.hint
    return str(caught.value)


def packed_of(tensors: dict[str, NDArray[Any]]) -> AdapterWeights:
    """Returns weights whose bytes hold other tensors than they say."""
    sample = weights()
    return AdapterWeights(
        data=bytes(save(tensors)),
        digest=sample.digest,
        rank=sample.rank,
        alpha=sample.alpha,
        target_modules=sample.target_modules,
    )


def effects(packed: AdapterWeights) -> dict[str, NDArray[np.float32]]:
    """Returns what an adapter adds to each module's matrix."""
    scale = packed.alpha / packed.rank
    return {module: scale * (b @ a) for module, (a, b) in unpack(packed.data).items()}


@pytest.mark.parametrize("file", [WEIGHTS_FILE, CONFIG_FILE, PROVENANCE_FILE])
@pytest.mark.parametrize("kept", [0, 0.5, None])
def test_edge_12_a_folder_that_is_not_whole_is_not_published(
    library: Library, file: str, kept: float | None
) -> None:
    path = publish(library) / file
    whole = path.read_bytes()
    if kept is None:
        path.unlink()
    else:
        path.write_bytes(whole[: int(len(whole) * kept)])
    assert library.path(stored(weights())) is None
    assert publish(library) == path.parent
    assert path.read_bytes() == whole


@pytest.mark.parametrize("step", range(3))
def test_edge_12_a_write_that_breaks_off_leaves_nothing(
    library: Library, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = Path.write_bytes, iter(range(100))

    def breaking(path: Path, data: bytes) -> int:
        if next(calls) == step:
            whole(path, data[: len(data) // 2])
            raise KeyboardInterrupt
        return whole(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", breaking)
        with pytest.raises(KeyboardInterrupt):
            publish(library)
    assert not list(library.root.glob("*/*"))
    assert library.path(stored(weights())) is None
    assert not list(library.root.glob(".tmp-*"))
    assert publish(library).is_dir()


def test_edge_13_changed_bytes_that_still_parse_are_seen_at_first_use(library: Library) -> None:
    weights_file = publish(library) / WEIGHTS_FILE
    data = bytearray(weights_file.read_bytes())
    data[-1] ^= 1
    assert unpack(bytes(data))  # it is an adapter, but not this one
    weights_file.write_bytes(data)
    assert Library(library.root).path(stored(weights())) is None


def test_edge_13_changed_bytes_in_the_database_are_not_served(
    registry: Registry, tmp_path: Path
) -> None:
    registry.register_task("sums", "Add two numbers", generate=False)
    adapter = registry.import_(foreign(tmp_path / "peft"), task_name="sums")
    data = bytearray(registry.store.adapter_bytes(adapter))
    data[-1] ^= 1
    execute(registry.settings.registry_url, f"UPDATE adapters SET data = x'{data.hex()}'")
    registry.library.remove(adapter)
    with pytest.raises(CorruptAdapterError):
        registry.resolve("sums")


@pytest.mark.parametrize(
    ("value", "message"),
    [(math.nan, "NaN or infinite"), (math.inf, "NaN or infinite"), (3e38, "absurdly large")],
)
def test_edge_14_values_that_are_not_finite_or_huge_are_not_imported(
    registry: Registry, tmp_path: Path, value: float, message: str
) -> None:
    tensors = {
        tensor_name(module, factor): matrix
        for module, pair in pairs().items()
        for factor, matrix in zip("AB", pair, strict=True)
    }
    tensors[TENSOR][0, 0] = value
    folder = foreign(tmp_path / "peft", packed_of(tensors))
    text = refusal(registry, folder)
    assert message in text and MODULES[0] in text and MODULES[1] not in text


def test_edge_14_huge_values_of_a_hypernetwork_are_not_stored(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = pack(pairs(scale=3e3), alpha=4)
    monkeypatch.setattr(SeededGenerator, "generate", lambda *_: huge)
    with pytest.raises(InvalidAdapterError, match="absurdly large"):
        registry.register_task("sums", "Add two numbers")
    assert registry.list_adapters() == []


def _narrower(found: dict[str, Pair]) -> dict[str, Pair]:
    return {module: (a[:, :-1], b[:-1]) for module, (a, b) in found.items()}


def _wider(found: dict[str, Pair]) -> dict[str, Pair]:
    return {
        module: (np.pad(a, ((0, 0), (0, 8))), np.pad(b, ((0, 8), (0, 0))))
        for module, (a, b) in found.items()
    }


def _another_layer(found: dict[str, Pair]) -> dict[str, Pair]:
    return found | {MODULES[0].replace("layers.1", "layers.2"): found[MODULES[0]]}


def _another_prefix(found: dict[str, Pair]) -> dict[str, Pair]:
    return {f"language_{module}": pair for module, pair in found.items()}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (_narrower, "wrong shapes"),
        (_wider, "wrong shapes"),
        (_another_layer, "modules that example/tiny does not have"),
        (_another_prefix, "modules that example/tiny does not have"),
    ],
)
def test_edge_15_adapters_of_a_base_of_another_size_or_build_are_refused(
    registry: Registry,
    tmp_path: Path,
    changed: Callable[[dict[str, Pair]], dict[str, Pair]],
    message: str,
) -> None:
    folder = foreign(tmp_path / "peft", pack(changed(pairs()), alpha=4))
    assert message in refusal(registry, folder)


def test_edge_15_a_module_without_its_tensors_is_noticed(
    registry: Registry, tmp_path: Path
) -> None:
    folder = foreign(tmp_path / "peft", target_modules=[*MODULES, "self_attn.k_proj"])
    assert "tensors are missing for" in refusal(registry, folder)


def test_edge_16_another_base_of_the_same_shapes_is_told_apart(
    registry: Registry, tmp_path: Path
) -> None:
    def base(name: str, value: float) -> BaseModelSpec:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text('{"architectures": ["Tiny"], "hidden_size": 4}')
        tensor = np.full((4, 4), value, np.float32)
        save_file({"m.layers.0.q_proj.weight": tensor}, folder / "model.safetensors")
        return read_spec(folder)

    chat, plain = base("chat", 1.0), base("plain", 1.5)
    assert chat.module_shapes == plain.module_shapes
    assert chat.fingerprint != plain.fingerprint

    folder = export(tmp_path / "peft")
    said = json.loads((folder / PROVENANCE_FILE).read_text())
    (folder / PROVENANCE_FILE).write_text(json.dumps(said | {"base_fingerprint": "b" * 64}))
    registry.register_task("sums", "Add two numbers")
    with pytest.raises(BaseMismatchError):
        registry.import_(folder, task_name="sums")


def test_edge_16_an_adapter_of_another_base_is_not_served(registry: Registry) -> None:
    _, adapter = registry.register_task("sums", "Add two numbers")
    assert adapter is not None
    url = registry.settings.registry_url
    execute(
        url,
        "INSERT INTO base_models SELECT 'other', model_id, revision, architecture,"
        " module_shapes, created_at FROM base_models",
    )
    execute(url, "UPDATE adapters SET base_fingerprint = 'other'")
    with pytest.raises(BaseMismatchError, match="another base model"):
        registry.resolve(adapter.name)


@pytest.mark.parametrize("named", ["/data/models/tiny", "Example/Tiny", "", None])
def test_edge_17_what_a_folder_calls_its_base_does_not_matter(
    registry: Registry, tmp_path: Path, named: str | None
) -> None:
    folder = foreign(tmp_path / "peft", base_model_name_or_path=named)
    registry.register_task("sums", "Add two numbers", generate=False)
    adapter = registry.import_(folder, task_name="sums")
    assert adapter.path is not None
    written = json.loads((adapter.path / CONFIG_FILE).read_text())
    assert written["base_model_name_or_path"] == BASE.id


def test_edge_18_the_rank_is_that_of_the_tensors(registry: Registry, tmp_path: Path) -> None:
    other = foreign(tmp_path / "other", weights(rank=4), r=8)
    assert "says rank 8, the tensors have 4" in refusal(registry, other)
    high = foreign(tmp_path / "high", weights(rank=9))
    assert "--max-lora-rank 16" in refusal(registry, high, max_rank=8)
    mixed = foreign(tmp_path / "mixed", rank_pattern={"q_proj": 64})
    assert "rank_pattern" in refusal(registry, mixed)
    assert registry.import_(foreign(tmp_path / "good"), task_name="sums").rank == 4


@pytest.mark.parametrize("field", ["r", "lora_alpha", "target_modules", "peft_type"])
@pytest.mark.parametrize("value", ["absent", "8", None, {}, [], -1, True, 10**400])
def test_edge_19_a_field_of_a_wrong_type_is_named(
    registry: Registry, tmp_path: Path, field: str, value: Any
) -> None:
    folder = foreign(tmp_path / "peft")
    config = json.loads((folder / CONFIG_FILE).read_text())
    config[field] = value
    if value == "absent":
        del config[field]
    if (field, value) == ("target_modules", "8"):
        return  # a pattern, which is legal
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    assert f"{field} is " in refusal(registry, folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the base model"),
        ({"alpha_pattern": {"q_proj": 1}}, "alpha_pattern"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    ],
)
def test_edge_20_what_is_more_than_a_plain_lora_is_refused(
    registry: Registry, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    assert message in refusal(registry, foreign(tmp_path / "peft", **config))


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", "float16", "no LoRA matrices"),
        (tensor_name("model.embed_tokens", "A"), "float16", "lora_B is missing"),
        (TENSOR, "int8", "only F32, F16 and BF16"),
        (TENSOR, "float64", "only F32, F16 and BF16"),
    ],
)
def test_edge_20_embeddings_and_other_types_of_number_are_refused(
    registry: Registry, tmp_path: Path, name: str, dtype: str, message: str
) -> None:
    tensors = {
        tensor_name(module, factor): matrix.astype(np.float16)
        for module, pair in pairs().items()
        for factor, matrix in zip("AB", pair, strict=True)
    }
    changed: dict[str, NDArray[Any]] = tensors | {name: np.ones((4, 16), dtype)}
    assert message in refusal(registry, foreign(tmp_path / "peft", packed_of(changed)))


def test_edge_21_rank_stabilised_scaling_is_folded_in(tmp_path: Path) -> None:
    sample = weights(rank=8, alpha=16)
    plain = validate_folder(foreign(tmp_path / "plain", sample), base=BASE).weights
    flagged = foreign(tmp_path / "flagged", sample, use_rslora=True)
    folded = validate_folder(flagged, base=BASE).weights
    for module, (a, b) in pairs(rank=8).items():
        np.testing.assert_allclose(effects(plain)[module], 2.0 * (b @ a), rtol=1e-5)
        np.testing.assert_allclose(
            effects(folded)[module], 16 / math.sqrt(8) * (b @ a), rtol=1e-4, atol=1e-6
        )
    written = json.loads((export(tmp_path / "out", folded) / CONFIG_FILE).read_text())
    assert written["use_rslora"] is False


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "scaler.pkl"])
def test_edge_22_a_pickle_beside_the_weights_is_refused(
    registry: Registry, tmp_path: Path, name: str
) -> None:
    folder = foreign(tmp_path / "peft")
    (folder / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "is a pickle" in refusal(registry, folder)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE])
def test_edge_22_links_and_pipes_are_refused(registry: Registry, tmp_path: Path, name: str) -> None:
    linked = foreign(tmp_path / "linked")
    (linked / name).rename(tmp_path / "outside")
    (linked / name).symlink_to(tmp_path / "outside")
    assert "is a symbolic link" in refusal(registry, linked)
    piped = foreign(tmp_path / "piped")
    (piped / name).unlink()
    os.mkfifo(piped / name)
    assert "is not a regular file" in refusal(registry, piped)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<Q", 2**62) + b"{}", "claims a header"),
        (raw_file(b"{}" + b" " * 2**20), "claims a header"),
        (
            raw_file({f"{n:07}": 0 for n in range(100_000)}),
            "claims a header",
        ),
        (
            raw_file({TENSOR: {"dtype": "F16", "shape": [4, 0], "data_offsets": [0, 0]}}),
            "impossible shape",
        ),
        (
            raw_file(
                {
                    TENSOR: {"dtype": "F16", "shape": [1, 2], "data_offsets": [0, 4]},
                    f"{TENSOR}2": {"dtype": "F16", "shape": [1, 2], "data_offsets": [2, 6]},
                },
                b"123456",
            ),
            "overlap",
        ),
    ],
    ids=["length", "header", "tensors", "empty", "overlap"],
)
def test_edge_23_headers_that_claim_too_much_are_refused(
    registry: Registry, tmp_path: Path, data: bytes, message: str
) -> None:
    folder = foreign(tmp_path / "peft")
    (folder / WEIGHTS_FILE).write_bytes(data)
    assert message in refusal(registry, folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"rank_pattern": {f"(a+)+{n}$": 8 for n in range(100_000)}}), "over the limit"),
        ("[" * 200_000, "not valid JSON"),
        ('{"r": ' + "9" * 100_000 + "}", "not valid JSON"),
    ],
    ids=["patterns", "depth", "digits"],
)
def test_edge_24_a_configuration_that_is_a_bomb_is_refused(
    registry: Registry, tmp_path: Path, text: str, message: str
) -> None:
    folder = foreign(tmp_path / "peft")
    (folder / CONFIG_FILE).write_text(text)
    assert message in refusal(registry, folder)


def test_edge_24_archives_are_not_unpacked_and_configurations_are_our_own(
    registry: Registry, tmp_path: Path
) -> None:
    packed = foreign(tmp_path / "packed")
    (packed / "adapter.zip").write_bytes(b"PK\x03\x04")
    assert "is not part of an adapter" in refusal(registry, packed)
    folder = foreign(tmp_path / "peft", megatron_core="x", revision="y", peft_version="99")
    adapter = registry.import_(folder, task_name="sums")
    assert adapter.path is not None
    written = (adapter.path / CONFIG_FILE).read_text()
    assert not {"megatron_core", "revision", "peft_version"} & json.loads(written).keys()


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "free disk space"),
        (errno.EDQUOT, "free disk space"),
        (errno.EROFS, "make it writable"),
        (errno.EIO, "check the path and the disk"),
    ],
)
def test_edge_25_a_disk_that_takes_no_more_is_said_and_nothing_is_left(
    library: Library, number: int, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", failing)
        with pytest.raises(RegistryError) as caught:
            publish(library)
    assert os.strerror(number) in caught.value.message and hint in caught.value.hint
    assert not [path for path in library.root.rglob("*") if path.is_file()]
    assert publish(library).is_dir()


@pytest.mark.parametrize("there", [True, False])
def test_edge_25_a_file_system_that_is_wrong_about_what_is_there_does_no_harm(
    library: Library, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if there:
        (publish(library) / CONFIG_FILE).unlink()
    truth, lies = os.path.lexists, iter([not there])
    monkeypatch.setattr(os.path, "lexists", lambda path: next(lies, truth(path)))
    folder = publish(library)
    assert next(lies, None) is None  # it was asked
    assert validate_folder(folder, base=BASE).weights == weights()


def test_edge_26_paths_are_absolute_whatever_the_settings_say(
    open_tiny: OpenRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    registry = open_tiny(home="relative")
    _, adapter = registry.register_task("sums", "Add two numbers")
    assert adapter is not None and adapter.path is not None
    monkeypatch.chdir("/")
    assert adapter.path.is_absolute() and adapter.path.is_relative_to(tmp_path / "relative")
    assert registry.resolve("sums").adapter == adapter
    assert registry.export("sums", tmp_path / "out").is_absolute()
