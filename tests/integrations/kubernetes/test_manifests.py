"""The manifests in integrations/kubernetes are ones that a cluster takes and hyperplug reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hyperplug_vllm.settings import ServingSettings, read_settings
from hyperplug_vllm.tenants import OPEN_PATHS

from hyperplug.cli.main import cli

FOLDER = Path(__file__).parents[3] / "integrations" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
# `sleep` in preStop is the newest thing used.
OLDEST_KUBERNETES = "1.30"
# What other programs read: Python, the shell, the hub's client.
OTHERS = {"HOME", "USER", "HF_HOME"}
Object = dict[str, Any]


def _objects() -> list[Object]:
    return [item for file in FILES for item in yaml.safe_load_all(file.read_text("utf-8"))]


def _object(kind: str) -> Object:
    found = [item for item in _objects() if item["kind"] == kind]
    assert len(found) == 1
    return found[0]


def _pod() -> Object:
    spec: Object = _object("Deployment")["spec"]["template"]["spec"]
    return spec


def _container(name: str) -> Object:
    pod = _pod()
    containers = [*pod["initContainers"], *pod["containers"]]
    found: Object = next(item for item in containers if item["name"] == name)
    return found


def _variables(container: Object) -> dict[str, str | None]:
    """Returns the container's variables; None for what comes out of a Secret."""
    assert container["envFrom"] == [{"configMapRef": {"name": "hyperplug"}}]
    own = {item["name"]: item.get("value") for item in container["env"]}
    return {**_object("ConfigMap")["data"], **own}


def _named(item: object, key: str) -> Iterator[Any]:
    """Yields every value under `key`, however deep."""
    if isinstance(item, dict):
        for name, value in item.items():
            if name == key:
                yield value
            yield from _named(value, key)
    elif isinstance(item, list):
        for value in item:
            yield from _named(value, key)


@pytest.mark.parametrize("release", [OLDEST_KUBERNETES, "latest"])
@pytest.mark.parametrize("item", _objects(), ids=lambda item: item["kind"])
def test_every_object_fits_the_schema_of_its_kind(item: Object, release: str) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="run: make install-dev")
    wanted = kubernetes.latest_version() if release == "latest" else release
    kubernetes.validate(item, wanted, strict=True)


def test_the_schemas_refuse_an_unknown_field() -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="run: make install-dev")
    item = _object("Deployment")
    item["spec"]["template"]["spec"]["containers"][0]["prots"] = []
    with pytest.raises(kubernetes.ValidationError, match="prots"):
        kubernetes.validate(item, OLDEST_KUBERNETES, strict=True)


def test_objects_find_each_other() -> None:
    deployment = _object("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        _object("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        _object("Service")["spec"]["selector"],
        *(s["matchLabels"] for s in _named(_pod(), "labelSelector")),
    ]
    assert selectors == [labels] * 4
    scaled = _object("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert all("namespace" not in item["metadata"] for item in _objects())


def test_every_port_leads_to_the_server() -> None:
    server = _container("server")
    port = server["ports"][0]
    assert f"--port={port['containerPort']}" in server["args"]
    assert [p["targetPort"] for p in _object("Service")["spec"]["ports"]] == [port["name"]]
    probes = list(_named(server, "httpGet"))
    assert len(probes) == 3 and {probe["port"] for probe in probes} == {port["name"]}
    notes = _object("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert notes["prometheus.io/port"] == str(port["containerPort"])


def test_probes_ask_routes_that_vllm_has_and_that_need_no_key() -> None:
    pytest.importorskip("vllm")
    from vllm.entrypoints.serve.instrumentator.health import router

    paths = {probe["path"] for probe in _named(_pod(), "httpGet")}
    assert paths <= {route.path for route in router.routes}
    notes = _object("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert paths | {notes["prometheus.io/path"]} <= OPEN_PATHS
    assert not any(path.startswith("/v1") for path in paths)


def test_the_scaled_metric_is_one_of_vllms() -> None:
    pytest.importorskip("vllm")
    from vllm.v1.metrics import loggers

    (name,) = (metric["name"] for metric in _named(_object("HorizontalPodAutoscaler"), "metric"))
    said = name.replace("vllm_", "vllm:", 1)
    assert said in (FOLDER / "autoscaling.yaml").read_text("utf-8")
    assert f'name="{said}"' in Path(loggers.__file__).read_text("utf-8")


def test_commands_are_hyperplugs_own() -> None:
    import click

    for name, words in (("upgrade", ["db", "upgrade"]), ("server", ["serve"])):
        program, *given = _container(name)["command"]
        assert (program, given) == ("hyperplug", words)
        command: click.Command = cli
        for word in given:
            assert isinstance(command, click.Group)
            found = command.get_command(click.Context(command), word)
            assert found is not None
            command = found


def test_vllm_takes_the_servers_flags() -> None:
    pytest.importorskip("vllm")
    from hyperplug_vllm.flags import Wish, vllm_arguments
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    base, *flags = _container("server")["args"]
    assert not base.startswith("-")
    wish = Wish(folder=Path("/models/base"), base_name=base, rank=16, accelerated=True)
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(vllm_arguments(wish, flags))
    assert (parsed.host, parsed.port) == ("0.0.0.0", 8000)
    assert 1 < parsed.max_loras <= parsed.max_cpu_loras
    assert parsed.api_key is None  # it would be seen in the list of processes


def _other_value(name: str, value: str) -> str:
    if name == "HYPERPLUG_ON_NOVEL":
        return "base"
    return str(int(value) + 1) if value.isdecimal() else f"{value}x"


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {**_variables(_container("server"))}
    assert variables["HYPERPLUG_REGISTRY"] is None
    given = {key: value or "sqlite:///registry.db" for key, value in variables.items()}

    def settings(**changed: str) -> ServingSettings:
        with monkeypatch.context() as patch:
            for key, value in {**given, **changed}.items():
                if key.startswith("HYPERPLUG_"):
                    patch.setenv(key, value)
            return read_settings({}, base="base")

    ours = [key for key in given if key.startswith("HYPERPLUG_")]
    assert len(ours) >= 7
    usual = settings()
    assert str(usual.settings.home) == given["HYPERPLUG_HOME"]
    for key in ours:
        changed = settings(**{key: _other_value(key, given[key])})
        assert changed != usual, f"{key} changes nothing"


def test_vllm_knows_its_variables() -> None:
    envs = pytest.importorskip("vllm.envs")
    for name in ("upgrade", "server"):
        names = {key for key in _variables(_container(name)) if not key.startswith("HYPERPLUG_")}
        assert names - OTHERS <= set(envs.environment_variables)


def test_secrets_come_from_the_secret_only() -> None:
    secret = {"registry-url", "api-key"}
    refs = [item["secretKeyRef"] for item in _named(_pod(), "valueFrom")]
    assert {ref["key"] for ref in refs} == secret
    assert {ref["name"] for ref in refs} == {"hyperplug"}
    assert all(f"--from-file={key}" in (FOLDER / "README.md").read_text("utf-8") for key in secret)
    text = "".join(file.read_text("utf-8") for file in FILES)
    assert not re.search(r"postgresql|password|sk-", text)


@pytest.mark.parametrize("name", ["upgrade", "server"])
def test_containers_run_locked_in_and_write_only_to_volumes(name: str) -> None:
    pod, container = _pod(), _container(name)
    locked = container["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"]
    assert locked["readOnlyRootFilesystem"] and not locked["allowPrivilegeEscalation"]
    assert locked["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]

    mounted = {item["mountPath"] for item in container["volumeMounts"]}
    kinds = {volume["name"]: volume for volume in pod["volumes"]}
    assert all("emptyDir" in kinds[item["name"]] for item in container["volumeMounts"])
    folders = {key: str(value) for key, value in _variables(container).items() if value}
    written = [v for v in folders.values() if v.startswith("/")]
    assert len(written) >= 5
    for folder in written:
        assert any(folder == root or folder.startswith(f"{root}/") for root in mounted), folder


def test_a_rollout_takes_no_replica_away_before_its_successor_is_ready() -> None:
    deployment = _object("Deployment")["spec"]
    assert deployment["replicas"] >= 2
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert _object("PodDisruptionBudget")["spec"]["maxUnavailable"] < deployment["replicas"]
    waits = _container("server")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert waits < _pod()["terminationGracePeriodSeconds"]
