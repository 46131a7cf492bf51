"""`hyperplug serve`: what is ours is checked at once, the rest goes to vLLM."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Hyperplug, TinyModels, only_line

pytest.importorskip("vllm")


@pytest.mark.parametrize("name_base", [True, False], ids=["base", "default-base"])
def test_flags_reach_vllm_and_contradictions_are_told_at_once(
    name_base: bool,
    hyperplug: Hyperplug,
    tiny: TinyModels,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HYPERPLUG_BASE", str(tiny.base))
    base = (str(tiny.base),) if name_base else ()
    hypernet = ("--hypernet", str(tiny.hypernet))
    for flags in (("--model", "other"), ("--port", "1", "--no-enable-lora", "-tp", "1")):
        ran = hyperplug("serve", *base, *flags, *hypernet)
        assert ran.status == 2
        assert only_line(ran.err, start="Error: ")
        assert only_line(ran.err, start="Hint: ")


def test_base_that_does_not_fit_is_refused_before_anything_is_started(
    hyperplug: Hyperplug, tiny: TinyModels
) -> None:
    ran = hyperplug("serve", str(tiny.base))  # the shipped hypernetwork is for another one
    assert ran.status == 1
    assert "train-hypernet" in only_line(ran.err, start="Hint: ")
