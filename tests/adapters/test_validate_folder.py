"""Adapter folders from elsewhere: what is refused, with one clear line, and what is taken."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from hyperplug.adapters import pack, unpack, validate_folder
from hyperplug.adapters.peft_format import CONFIG_FILE, PROVENANCE_FILE, WEIGHTS_FILE
from hyperplug.entities import AdapterWeights
from hyperplug.errors import BaseMismatchError, HyperplugError, InvalidAdapterError
from tests.adapters.samples import BASE, MODULES, export, foreign, pairs, weights


def refusal(folder: Path, *, max_rank: int = 64) -> HyperplugError:
    """Returns the error for this folder; it must be one line, with a remedy."""
    with pytest.raises((InvalidAdapterError, BaseMismatchError)) as caught:
        validate_folder(folder, base=BASE, max_rank=max_rank)
    error: HyperplugError = caught.value
    assert error.hint
    assert "\n" not in str(error)
    assert len(str(error)) < 1500
    return error


def test_our_export_passes_and_is_the_same_adapter(tmp_path: Path) -> None:
    packed = weights(alpha=8)
    report = validate_folder(export(tmp_path / "a", packed), base=BASE)
    assert report.weights == packed
    assert report.base_fingerprint == BASE.fingerprint
    assert report.warnings == ()


def test_a_foreign_folder_passes_with_a_warning_about_its_base(tmp_path: Path) -> None:
    folder = foreign(
        tmp_path / "a", target_modules=["q_proj", "down_proj"], layers_to_transform=[1]
    )
    (folder / "README.md").write_text("hello")
    report = validate_folder(folder, base=BASE)
    assert report.weights == weights()
    assert report.base_fingerprint is None
    assert "nothing proves its base model" in report.warnings[0]


def test_without_a_base_model_the_comparison_is_said_to_be_missing(tmp_path: Path) -> None:
    report = validate_folder(foreign(tmp_path / "a"), base=None)
    assert "not compared" in report.warnings[0]


def test_a_pattern_is_not_evaluated(tmp_path: Path) -> None:
    report = validate_folder(foreign(tmp_path / "a", target_modules="(a+)+$"), base=BASE)
    assert any("is a pattern" in warning for warning in report.warnings)


@pytest.mark.parametrize("file", [WEIGHTS_FILE, CONFIG_FILE])
def test_a_missing_file(tmp_path: Path, file: str) -> None:
    folder = foreign(tmp_path / "a")
    (folder / file).unlink()
    assert f"missing: {file}" in refusal(folder).message


def test_no_folder_and_a_file_instead_of_one(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere").message
    (tmp_path / "file").write_text("x")
    assert "Not a directory" in refusal(tmp_path / "file").message


@pytest.mark.parametrize("name", ["adapter_model.bin", "training_args.bin", "x.pt", "x.pkl"])
def test_a_pickle(tmp_path: Path, name: str) -> None:
    folder = foreign(tmp_path / "a")
    (folder / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert f"'{name}' is a pickle" in refusal(folder).message


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE, PROVENANCE_FILE, "README.md"])
def test_a_symlink_even_to_a_good_file(tmp_path: Path, name: str) -> None:
    folder = export(tmp_path / "a")
    target = tmp_path / "outside"
    if (folder / name).exists():
        (folder / name).rename(target)
    else:
        target.write_text("x")
    (folder / name).symlink_to(target)
    assert f"'{name}' is a symbolic link" in refusal(folder).message


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a")
    (folder / WEIGHTS_FILE).unlink()
    os.mkfifo(folder / WEIGHTS_FILE)
    assert "not a regular file" in refusal(folder).message


def test_a_subfolder_and_a_foreign_file(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a")
    (folder / "checkpoint-7").mkdir()
    (folder / "setup.py").write_text("x")
    message = refusal(folder).message
    assert "'checkpoint-7' is not a regular file" in message
    assert "'setup.py' is not part of an adapter" in message


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff\xfe{}", b"[" * 5000, b"[]", b"null", b'{"r": ' + b"9" * 5000 + b"}"]
)
def test_a_configuration_that_is_not_a_json_object(tmp_path: Path, text: bytes) -> None:
    folder = foreign(tmp_path / "a")
    (folder / CONFIG_FILE).write_bytes(text)
    assert "adapter_config.json is not" in refusal(folder).message


def test_a_huge_configuration_is_not_parsed(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a")
    (folder / CONFIG_FILE).write_bytes(b" " * (2**20 + 1))
    assert "over the limit" in refusal(folder).message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": "4"}, "r is '4', not a positive whole number"),
        ({"r": 0}, "r is 0"),
        ({"r": -4}, "r is -4"),
        ({"r": 4.0}, "r is 4.0"),
        ({"r": True}, "r is True"),
        ({"r": None}, "r is missing"),
        ({"r": [4]}, "r is [4]"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'"),
        ({"lora_alpha": None}, "lora_alpha is missing"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": -8}, "lora_alpha is -8"),
        ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
        ({"target_modules": None}, "target_modules is missing"),
        ({"target_modules": []}, "target_modules is []"),
        ({"target_modules": [1]}, "target_modules is [1]"),
        ({"layers_to_transform": ["x"]}, "layers_to_transform"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"peft_type": ["LORA"]}, "peft_type is ['LORA']"),
        ({"peft_type": None}, "peft_type is missing"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'"),
        ({"use_dora": True}, "it uses DoRA"),
        ({"bias": "all"}, "it trains biases"),
        ({"lora_bias": True}, "it has LoRA biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "rank differs by module (rank_pattern)"),
        ({"rank_pattern": {"(a+)+$" * 100: 8}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the base model"),
        ({"init_lora_weights": ["pissa"]}, "changes the base model"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({"layer_replication": [[0, 2]]}, "'layer_replication' is not supported"),
        ({"a_setting_of_the_future": 3}, "'a_setting_of_the_future' is not supported"),
    ],
)
def test_a_configuration_that_we_cannot_honour(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    folder = foreign(tmp_path / "a")
    settings = json.loads((folder / CONFIG_FILE).read_text()) | config
    settings = {key: value for key, value in settings.items() if value is not None}
    (folder / CONFIG_FILE).write_text(json.dumps(settings))
    assert message in refusal(folder).message


def test_settings_of_the_future_at_rest_do_no_harm(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "use_future": False,
        "future_config": {},
        "future": [],
        "lora_dropout": 0.1,
    }
    assert validate_folder(foreign(tmp_path / "a", **config), base=BASE)


def test_pefts_own_default_configuration_passes(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, lora_alpha=4, target_modules=list(MODULES), task_type="CAUSAL_LM", inference_mode=True
    )
    folder = foreign(tmp_path / "a")
    config.save_pretrained(folder)
    assert validate_folder(folder, base=BASE).weights == weights()


def test_the_rank_of_the_configuration_is_not_that_of_the_tensors(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a", weights(rank=4), r=8)
    assert "says rank 8, the tensors have 4" in refusal(folder).message


def test_a_rank_above_the_maximum(tmp_path: Path) -> None:
    error = refusal(foreign(tmp_path / "a", weights(rank=8)), max_rank=4)
    assert "rank 8 is above the maximum of 4" in error.message


def test_tensors_missing_for_a_module_the_configuration_names(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a", target_modules=["q_proj", "down_proj"])
    message = refusal(folder).message
    assert "tensors are missing for: model.layers.0.mlp.down_proj" in message
    folder = foreign(tmp_path / "b", target_modules=[*MODULES, "model.layers.1.mlp.up_proj"])
    assert "missing for: model.layers.1.mlp.up_proj" in refusal(folder).message
    with pytest.raises(InvalidAdapterError, match="up_proj"):
        validate_folder(folder, base=None)


def test_tensors_outside_of_what_the_configuration_names(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a", target_modules=["model.layers.1.self_attn.q_proj"])
    assert "tensors outside target_modules: model.layers.1.mlp" in refusal(folder).message
    folder = foreign(
        tmp_path / "b",
        target_modules=["q_proj", "down_proj"],
        layers_to_transform=1,
        exclude_modules=["mlp.down_proj"],
    )
    assert "outside target_modules" in refusal(folder).message


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensors: tensors.popitem(), "is missing for"),
        (lambda tensors: tensors.update(extra=np.ones((2, 2))), "no LoRA matrices: extra"),
    ],
)
def test_missing_and_extra_keys(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    tensors = load(weights().data)
    edit(tensors)
    folder = foreign(tmp_path / "a")
    (folder / WEIGHTS_FILE).write_bytes(
        save({name: values.astype(np.float16) for name, values in tensors.items()})
    )
    assert message in refusal(folder).message


def test_another_prefix(tmp_path: Path) -> None:
    # vLLM compares endings only, and ignores such an adapter in silence.
    adapter = {f"language_{module}": pair for module, pair in pairs().items()}
    folder = foreign(tmp_path / "a", pack(adapter, alpha=4))
    assert "modules that example/tiny does not have" in refusal(folder).message


def test_a_narrower_base(tmp_path: Path) -> None:
    narrow = {MODULES[0]: (np.ones((4, 8)), np.ones((8, 4)))}
    message = refusal(foreign(tmp_path / "a", pack(narrow, alpha=4))).message
    assert "is 8->8, the base model has 16->16" in message


def test_nan(tmp_path: Path) -> None:
    tensors = {name: values.copy() for name, values in load(weights().data).items()}
    next(iter(tensors.values()))[0, 0] = np.nan
    folder = foreign(tmp_path / "a")
    (folder / WEIGHTS_FILE).write_bytes(save(tensors))
    assert "NaN or infinite values in" in refusal(folder).message


def test_the_norm_counts_the_scale(tmp_path: Path) -> None:
    assert "absurdly large" in refusal(foreign(tmp_path / "a", lora_alpha=999_999)).message


def test_a_truncated_file(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a")
    (folder / WEIGHTS_FILE).write_bytes(weights().data[:-10])
    assert "truncated" in refusal(folder).message


def test_another_base_by_fingerprint(tmp_path: Path) -> None:
    folder = export(tmp_path / "a")
    facts = json.loads((folder / PROVENANCE_FILE).read_text()) | {"base_fingerprint": "d" * 64}
    (folder / PROVENANCE_FILE).write_text(json.dumps(facts))
    error = refusal(folder)
    assert isinstance(error, BaseMismatchError)
    assert "dddddddd" in error.message and "example/tiny (aaaaaaaa)" in error.message


def test_weights_that_differ_from_their_provenance(tmp_path: Path) -> None:
    folder = export(tmp_path / "a")
    (folder / WEIGHTS_FILE).write_bytes(weights(seed=1).data)
    assert "differs from hyperplug.json" in refusal(folder).message


@pytest.mark.parametrize("text", ["{", "[]", '{"sha256": 3}', '{"base_fingerprint": {}}'])
def test_a_damaged_provenance(tmp_path: Path, text: str) -> None:
    folder = export(tmp_path / "a")
    (folder / PROVENANCE_FILE).write_text(text)
    assert "hyperplug.json is not" in refusal(folder).message


def test_rslora_is_folded_into_the_weights(tmp_path: Path) -> None:
    packed = AdapterWeights(
        data=weights().data, digest="", rank=4, alpha=16.0, target_modules=weights().target_modules
    )
    folder = foreign(tmp_path / "a", packed, use_rslora=True)
    folded = validate_folder(folder, base=BASE).weights
    assert folded.alpha == folded.rank == 4
    for module, (a, b) in unpack(folded.data).items():
        before_a, before_b = pairs()[module]
        np.testing.assert_allclose(b @ a, 16 / 4**0.5 * before_b @ before_a, rtol=1e-6)


def test_every_fault_of_a_folder_is_in_problems(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a", use_dora=True, bias="all", r="4")
    error = refusal(folder)
    assert isinstance(error, InvalidAdapterError)
    assert len(error.problems) == 3


def test_text_of_the_folder_is_shown_escaped_on_one_line(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a\nb")
    (folder / PROVENANCE_FILE).write_text(json.dumps({"base_fingerprint": "\x1b[2J"}))
    assert "\\nb was made for the base model \\x1b[2J" in refusal(folder).message


def test_a_module_path_longer_than_any_is_refused(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "a", target_modules=["a." * 200])
    assert "too long" in refusal(folder).message
