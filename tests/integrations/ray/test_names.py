"""How an adapter is named between ingress and replica."""

from __future__ import annotations

import pytest
from hyperplug_ray.names import check_base_name, routed_name, routed_target
from hyperplug_vllm.targets import TargetKind

from hyperplug.errors import ConfigError, TaskNotFoundError

BASE = "org/base"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sentiment", TargetKind.TASK),
        ("sentiment@candidate", TargetKind.ADAPTER),
        ("sentiment@1a2b3c4d", TargetKind.ADAPTER),
    ],
)
def test_a_name_arrives_as_it_was_sent(name: str, kind: TargetKind) -> None:
    target = routed_target(BASE, routed_name(BASE, name))
    assert target is not None
    assert (target.kind, target.text, target.explicit) == (kind, name, True)


@pytest.mark.parametrize("model", [BASE, None, "", "sentiment", "org/other:sentiment"])
def test_what_has_no_name_after_the_base_is_for_vllm_alone(model: str | None) -> None:
    assert routed_target(BASE, model) is None


@pytest.mark.parametrize("text", ["Say yes or no.", "hyperplug:Say yes or no.", ""])
def test_replicas_resolve_no_descriptions(text: str) -> None:
    with pytest.raises(TaskNotFoundError, match="hyperplug:DESCRIPTION"):
        routed_target(BASE, f"{BASE}:{text}")


def test_a_base_name_with_a_colon_is_refused() -> None:
    check_base_name(BASE)
    with pytest.raises(ConfigError, match="model_id"):
        check_base_name("base:one")
