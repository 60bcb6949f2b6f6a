"""The manifests fit Kubernetes, each other, the images and the settings; all of it without a cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.kubernetes import rules
from streams.settings import PREFIX, Settings
from tests.kustomize import Resource, build, containers
from tests.test_deploy import DEPLOY, DOCKERFILE, image_environment, is_setting

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.parent.relative_to(KUBERNETES) for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
OLDEST, NEWEST = "1.28", "1.37"  # what these files use is in both
FOREIGN = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}
"""Kinds of operators, of which there is no schema here."""
PROCESSES = {"worker": 9108, "trainer": 9109, "server": 9110}


@pytest.fixture(params=OVERLAYS, ids=str)
def overlay(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def built(overlay: Path) -> list[Resource]:
    return build(KUBERNETES / overlay)


def of(overlay: Path, kind: str) -> list[Resource]:
    return [each for each in built(overlay) if each["kind"] == kind]


def workloads(overlay: Path) -> list[Resource]:
    return [each for each in built(overlay) if "template" in each.get("spec", {})]


def pod(workload: Resource) -> dict[str, Any]:
    found: dict[str, Any] = workload["spec"]["template"]["spec"]
    return found


def variables(overlay: Path, container: dict[str, Any]) -> dict[str, str]:
    """What the container's process is given, with a word in the place of each secret."""
    maps = {each["metadata"]["name"]: each["data"] for each in of(overlay, "ConfigMap")}
    given = image_environment()
    for source in container["envFrom"]:
        given |= maps[source["configMapRef"]["name"]]
    return given | {each["name"]: each.get("value", "secret") for each in container.get("env", [])}


def test_every_resource_is_one_of_kubernetes(overlay: Path) -> None:
    for each in built(overlay):
        if each["kind"] not in FOREIGN:
            for version in (OLDEST, NEWEST):
                kubernetes_validate.validate(each, version, strict=True)


def test_no_two_resources_have_one_name_and_all_are_in_one_namespace(overlay: Path) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in built(overlay)]
    spaces = {each["metadata"].get("namespace") for each in built(overlay) if each["kind"] != "Namespace"}

    assert len(set(names)) == len(names)
    assert spaces == {each["metadata"]["name"] for each in of(overlay, "Namespace")}


def test_the_workloads_are_those_of_the_picture_and_run_what_the_images_have(overlay: Path) -> None:
    found = {each["metadata"]["name"]: each for each in workloads(overlay)}

    assert {name: each["kind"] for name, each in found.items()} == {
        "topics": "Job",
        "worker": "StatefulSet",
        "trainer": "Deployment",
        "server": "Deployment",
    }
    for name, each in found.items():
        (container,) = pod(each)["containers"]
        assert container["name"] == name
        assert container["args"][0] == name
        target = re.fullmatch(r"[\w.-]+/efficientrec-(\w+):[\w.-]+", container["image"])
        assert target, container["image"]
        assert f" AS {target[1]}\n" in DOCKERFILE


def test_every_process_starts_with_settings_that_exist(overlay: Path) -> None:
    shared = set()
    for workload in workloads(overlay):
        assert pod(workload)["enableServiceLinks"] is False, "variables of services would pass for settings"
        (container,) = pod(workload)["containers"]
        given = variables(overlay, container)
        assert all(is_setting(name) for name in given if name.startswith(PREFIX)), given
        files = {name for name in given if name.endswith("_FILE")}  # they lie in the container
        passwords = {name.removesuffix("_FILE"): "secret" for name in files if "_PASSWORD_" in name}
        settings = Settings.load({name: value for name, value in given.items() if name not in files} | passwords)
        shared.add((settings.broker, settings.partitions, settings.prefix, settings.group, settings.security_protocol))
        assert settings.metrics_host == "0.0.0.0"
        assert settings.log_format == "json"
        assert settings.server_host == ("0.0.0.0" if container["name"] == "server" else "127.0.0.1")

    assert len(shared) == 1, "processes that share the topics must agree on them"


def test_a_container_has_no_rights_that_it_does_not_need(overlay: Path) -> None:
    user = int(re.findall(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE)[0])
    for workload in workloads(overlay):
        spec = pod(workload)
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert {context["runAsUser"], context["runAsGroup"], context["fsGroup"]} == {user}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not any("hostPath" in volume for volume in spec["volumes"])
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {*container["resources"]["requests"], *container["resources"]["limits"]} >= {"cpu", "memory"}


def test_the_folders_of_the_settings_are_volumes_and_models_are_shared_from_trainer_to_workers(overlay: Path) -> None:
    needed = {
        "worker": ("state_dir", "models_dir"),
        "trainer": ("log_dir", "models_dir"),
        "server": ("server_state_dir",),
    }
    claims = {each["metadata"]["name"]: each for each in of(overlay, "PersistentVolumeClaim")}
    for workload in workloads(overlay):
        spec, name = pod(workload), workload["metadata"]["name"]
        (container,) = spec["containers"]
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        templates = [each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", [])]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert {mount["name"] for mount in mounts.values()} == {*volumes, *templates}
        assert "/tmp" in mounts
        environment = image_environment()
        folders = {environment[PREFIX + setting.upper()] for setting in needed.get(name, ())}
        assert folders == {path for path in mounts if path.startswith("/var/lib/efficientrec/")}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        models = mounts.get(environment[PREFIX + "MODELS_DIR"])
        assert models is None or models.get("readOnly", False) is (name == "worker")
    assert claims["models"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_files_that_settings_name_are_mounted(overlay: Path) -> None:
    for workload in workloads(overlay):
        (container,) = pod(workload)["containers"]
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        for name, value in variables(overlay, container).items():
            if name.startswith(PREFIX) and name.endswith("_FILE"):
                assert str(Path(value).parent) in mounts, f"{name} of {container['name']} is {value}"


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_is_asked_on_its_own_port_whether_it_lives_and_is_ready(overlay: Path, process: str) -> None:
    (workload,) = (each for each in workloads(overlay) if each["metadata"]["name"] == process)
    (container,) = pod(workload)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    setting = {"worker": "metrics_port"}.get(process, f"{process}_metrics_port")

    assert ports["metrics"] == PROCESSES[process] == getattr(Settings(), setting)
    assert ports.get("http", Settings().server_port) == Settings().server_port
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}


@pytest.mark.parametrize("process", PROCESSES)
def test_a_service_finds_its_process_and_gives_prometheus_its_job(overlay: Path, process: str) -> None:
    (service,) = (each for each in of(overlay, "Service") if each["metadata"]["name"] == process)
    (workload,) = (each for each in workloads(overlay) if each["metadata"]["name"] == process)
    labels = workload["spec"]["template"]["metadata"]["labels"]

    assert service["spec"]["selector"] == labels == workload["spec"]["selector"]["matchLabels"]
    assert service["metadata"]["labels"]["app.kubernetes.io/component"] == process
    (container,) = pod(workload)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == ports


def test_nothing_may_talk_but_what_is_named(overlay: Path) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of(overlay, "NetworkPolicy")}

    assert policies.pop("nothing") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    opened = {port["port"] for each in policies.values() for rule in each.get("ingress", []) for port in rule["ports"]}
    assert opened == {"metrics", "http"}
    for each in policies.values():
        for rule in (*each.get("ingress", []), *each.get("egress", [])):
            assert rule["ports"]
            assert rule.get("from", rule.get("to")), "open to everybody"


def test_a_secret_is_named_and_never_written(overlay: Path) -> None:
    assert not of(overlay, "Secret")
    for container in containers(built(overlay)):
        for each in container.get("env", []):
            if re.search(r"(TOKEN|PASSWORD|USERNAME)$", each["name"]):
                assert "secretKeyRef" in each["valueFrom"], each["name"]
    for settings in of(overlay, "ConfigMap"):
        assert not any(re.search(r"(TOKEN|PASSWORD)$", name) for name in settings["data"])


def test_disks_of_workers_outlive_them_and_only_one_worker_goes_at_a_time(overlay: Path) -> None:
    (worker,) = of(overlay, "StatefulSet")
    budgets = {each["metadata"]["name"]: each["spec"] for each in of(overlay, "PodDisruptionBudget")}
    matched = worker["spec"]["selector"]["matchLabels"]

    assert worker["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert worker["spec"]["serviceName"] in [each["metadata"]["name"] for each in of(overlay, "Service")]
    assert budgets["worker"] == {"maxUnavailable": 1, "selector": {"matchLabels": matched}}


def test_a_trainer_goes_before_the_next_one_comes(overlay: Path) -> None:
    (trainer,) = (each for each in of(overlay, "Deployment") if each["metadata"]["name"] == "trainer")

    assert trainer["spec"]["replicas"] == 1
    assert trainer["spec"]["strategy"] == {"type": "Recreate"}


def test_there_are_no_more_workers_than_partitions(overlay: Path) -> None:
    (worker,) = of(overlay, "StatefulSet")
    (container,) = pod(worker)["containers"]
    args = container["args"]
    processes = int(args[args.index("--processes") + 1]) if "--processes" in args else 1
    partitions = int(variables(overlay, container)[PREFIX + "PARTITIONS"])

    assert partitions % (processes * worker["spec"]["replicas"]) == 0, "partitions cannot be dealt evenly"


def test_what_prometheus_watches_is_what_there_is(overlay: Path) -> None:
    (monitor,) = of(overlay, "ServiceMonitor")
    labels = monitor["spec"]["selector"]["matchLabels"]
    here = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())

    for service in of(overlay, "Service"):
        assert labels.items() <= service["metadata"]["labels"].items()
        assert "metrics" in [port["name"] for port in service["spec"]["ports"]]
    assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/component"
    assert {each["job_name"] for each in here["scrape_configs"]} == set(PROCESSES)
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["interval"] == here["global"]["scrape_interval"]
    assert endpoint["scrapeTimeout"] == here["global"]["scrape_timeout"]


def test_the_rules_are_those_of_prometheus() -> None:
    current = rules.RULES.read_text() == rules.render()
    assert current, "rules.yaml is not current; run: python -m deploy.kubernetes.rules"


def test_where_workers_are_scaled_nothing_else_says_how_many_there_are(tmp_path: Path) -> None:
    """Else `kubectl apply` would take away what the autoscaler has added, and every worker that goes stops all."""
    made = {"kind": "Kustomization", "resources": [str(KUBERNETES / "base")]}
    made["components"] = [str(KUBERNETES / "components/keda")]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(made))

    (worker,) = of(tmp_path, "StatefulSet")
    (scaled,) = of(tmp_path, "ScaledObject")

    assert "replicas" not in worker["spec"]
    for version in (OLDEST, NEWEST):
        kubernetes_validate.validate(worker, version, strict=True)
    (before,) = (each for each in build(KUBERNETES / "base") if each["kind"] == "StatefulSet")
    assert scaled["spec"]["minReplicaCount"] == before["spec"].pop("replicas")
    assert worker == before


def test_workers_are_scaled_to_no_more_than_the_partitions() -> None:
    (scaled,) = yaml.safe_load_all((KUBERNETES / "components/keda/scaled.yaml").read_text())
    base = build(KUBERNETES / "base")
    (worker,) = (each for each in base if each["kind"] == "StatefulSet")
    (settings,) = (each for each in base if each["kind"] == "ConfigMap")

    target = scaled["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": worker["apiVersion"], "kind": worker["kind"], "name": worker["metadata"]["name"]}
    assert scaled["spec"]["maxReplicaCount"] == int(settings["data"][PREFIX + "PARTITIONS"])
    assert "efficientrec_consumer_lag_seconds" in scaled["spec"]["triggers"][0]["metadata"]["query"]
