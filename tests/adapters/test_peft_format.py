"""The format: what is packed comes back, and equal weights are equal bytes."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors.numpy import load

from hyperplug.adapters import adapter_config, pack, provenance, unpack
from hyperplug.adapters.peft_format import Pair, model_order, split_tensor_name, tensor_name
from hyperplug.errors import InvalidAdapterError
from tests.adapters.samples import BASE, MODULES, pairs, stored, weights

_parts = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=8)
_modules = st.lists(_parts, min_size=1, max_size=5).map(".".join)


def _matrix(rows: int, columns: int) -> st.SearchStrategy[NDArray[np.float16]]:
    # Any bits are a float16; those that are not finite become the largest ones.
    bits = hnp.arrays(np.uint16, (rows, columns))
    return bits.map(lambda values: np.nan_to_num(values.view(np.float16)))


@st.composite
def _adapters(draw: st.DrawFn) -> dict[str, Pair]:
    rank = draw(st.integers(1, 4))
    modules = draw(st.lists(_modules, min_size=1, max_size=4, unique=True))
    sizes = st.integers(1, 5)
    return {
        module: (draw(_matrix(rank, draw(sizes))), draw(_matrix(draw(sizes), rank)))
        for module in modules
    }


@given(_adapters(), st.floats(0.5, 64))
@settings(max_examples=60, deadline=None)
def test_what_is_packed_comes_back(adapter: dict[str, Pair], alpha: float) -> None:
    packed = pack(adapter, alpha=alpha)
    unpacked = unpack(packed.data)
    assert set(unpacked) == set(adapter) == set(packed.target_modules)
    assert tuple(unpacked) == packed.target_modules
    for module, (a, b) in adapter.items():
        np.testing.assert_array_equal(unpacked[module][0], a)
        np.testing.assert_array_equal(unpacked[module][1], b)
    assert packed.digest == hashlib.sha256(packed.data).hexdigest()
    assert packed.alpha == alpha


@given(_adapters(), st.randoms())
@settings(max_examples=40, deadline=None)
def test_bytes_do_not_depend_on_the_order_of_modules(
    adapter: dict[str, Pair], random: object
) -> None:
    items = list(adapter.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert pack(dict(items), alpha=1).data == pack(adapter, alpha=1).data
    assert pack(unpack(pack(adapter, alpha=1).data), alpha=1).data == pack(adapter, alpha=1).data


def test_bytes_are_the_same_in_another_process_and_memory_layout() -> None:
    code = (
        "from tests.adapters.samples import weights, pairs, pack;"
        "import numpy as np;"
        "turned = {m: (np.asfortranarray(a), b.astype(np.float64)) for m, (a, b) in"
        " pairs(7).items()};"
        "print(weights(7).digest, pack(turned, alpha=4).digest)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.split() == [weights(7).digest] * 2


def test_the_safetensors_library_reads_what_we_write() -> None:
    adapter = pairs()
    tensors = load(weights().data)
    assert len(tensors) == 2 * len(adapter)
    a = tensors["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"]
    assert a.dtype == np.float16
    np.testing.assert_array_equal(a, adapter["model.layers.1.mlp.down_proj"][0])


def test_layer_two_comes_before_layer_ten() -> None:
    modules = ["model.layers.10.x", "model.layers.2.y", "model.layers.2.x"]
    assert model_order(modules) == ("model.layers.2.x", "model.layers.2.y", "model.layers.10.x")


def test_a_number_too_long_to_parse_is_a_name_like_any_other() -> None:
    assert model_order(["b", "9" * 5000]) == ("9" * 5000, "b")


def test_tensor_names_are_pefts() -> None:
    assert tensor_name("a.b", "A") == "base_model.model.a.b.lora_A.weight"
    assert split_tensor_name(tensor_name("a.b", "B")) == ("a.b", "B")
    for foreign in ("a.b.lora_A.weight", "base_model.model.a.lora_A.bias", "base_model.model.x"):
        assert split_tensor_name(foreign) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "one common rank"),
        ({"m": (np.ones((2, 3)), np.ones((3, 1)))}, "one common rank"),
        ({"m": (np.ones(3), np.ones((3, 1)))}, "one common rank"),
        ({"m": (np.full((1, 3), np.nan), np.ones((3, 1)))}, "not finite"),
        ({"m": (np.full((1, 3), 70_000.0), np.ones((3, 1)))}, "not finite in float16"),
    ],
)
def test_weights_that_cannot_be_written_are_refused(change: dict[str, Pair], message: str) -> None:
    with pytest.raises(InvalidAdapterError, match=message):
        pack(change, alpha=1)


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf")])
def test_alpha_must_be_positive(alpha: float) -> None:
    with pytest.raises(InvalidAdapterError, match="alpha"):
        pack(pairs(), alpha=alpha)


def test_float32_keeps_what_float16_cannot() -> None:
    fine = {MODULES[0]: (np.full((1, 2), 1e5), np.full((2, 1), 1e-9))}
    a, b = unpack(pack(fine, alpha=1, dtype=np.float32).data)[MODULES[0]]
    np.testing.assert_array_equal(a, np.float32(1e5))
    np.testing.assert_array_equal(b, np.float32(1e-9))


def test_the_configuration_says_what_pefts_does() -> None:
    config = adapter_config(weights(alpha=2.5), BASE.id)
    assert config["lora_alpha"] == 2.5
    assert config["target_modules"] == list(weights().target_modules)
    assert type(adapter_config(weights(alpha=8), BASE.id)["lora_alpha"]) is int


def test_provenance_holds_nothing_that_changes() -> None:
    row = stored(weights())
    facts = provenance(row)
    assert facts["sha256"] == row.digest
    assert facts["base_fingerprint"] == BASE.fingerprint
    assert not {"metrics", "id", "path"} & set(facts)
