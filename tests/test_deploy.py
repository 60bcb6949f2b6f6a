"""What is deployed fits the code: settings, ports and metrics that exist, and nothing open to the world."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
YAMLS = [ROOT / "docker-compose.yml", *sorted(DEPLOY.rglob("*.yml"))]
MANIFESTS = sorted(DEPLOY.rglob("*.yaml"))
OURS = ("topics", "worker", "trainer", "server")
FROM_OUTSIDE = ("kafka", "prometheus", "grafana")


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = loaded(ROOT / "docker-compose.yml")["services"]
    return found


def image_environment() -> dict[str, str]:
    """What the Dockerfile sets of ours."""
    return dict(re.findall(rf"^(?:ENV)?\s+({PREFIX}\w+)=(\S+)", DOCKERFILE, re.MULTILINE))


def is_setting(variable: str) -> bool:
    """Whether a variable of ours is read: a setting's, or that of a file that holds a secret one."""
    known = Settings.__dataclass_fields__
    name = variable.removeprefix(PREFIX).lower()
    secret = known.get(name.removesuffix("_file"))
    return name in known or (secret is not None and secret.type == "Secret")


def environment(name: str) -> dict[str, str]:
    """What a container of ours is given, where the user sets nothing."""
    plain = {key: without_variables(str(value)) for key, value in services()[name].get("environment", {}).items()}
    return {**image_environment(), **plain}


def without_variables(text: str) -> str:
    """`${NAME:-default}` as its default; a variable without one is an error of the file."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    assert "$" not in text, f"{text!r} depends on a variable that has no default"
    return text


def settings(name: str) -> Settings:
    ours = {key: value for key, value in environment(name).items() if key.startswith(PREFIX)}
    return Settings.load(ours)


def mounts(name: str) -> Iterator[tuple[str, str, bool]]:
    """Source, target and whether it is read-only, of each mount; the source of an unnamed volume is empty."""
    for mount in services()[name].get("volumes", []):
        if isinstance(mount, str):
            source, target, *options = mount.split(":")
            yield source, target, "ro" in options
        else:
            yield mount.get("source", ""), mount["target"], mount.get("read_only", False)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_yaml_file_can_be_read_and_holds_a_table(path: Path) -> None:
    assert isinstance(loaded(path), dict)


def test_the_services_are_those_of_the_picture() -> None:
    assert set(services()) == {*OURS, *FROM_OUTSIDE}


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_ours_starts_with_settings_that_exist(name: str) -> None:
    found = settings(name)

    assert found.bootstrap_servers == ["kafka:19092"]
    assert found.metrics_host == "0.0.0.0"


def test_nothing_but_compose_opens_a_container_to_its_network() -> None:
    hosts = {
        name: (settings(name).metrics_host, settings(name).server_host) for name in ("worker", "trainer", "server")
    }

    assert not [name for name in image_environment() if name.endswith("_HOST")]
    assert hosts == {
        "worker": ("0.0.0.0", "127.0.0.1"),
        "trainer": ("0.0.0.0", "127.0.0.1"),
        "server": ("0.0.0.0", "0.0.0.0"),
    }


def test_every_setting_that_is_named_anywhere_in_the_deployment_exists() -> None:
    texts = [path.read_text() for path in (*YAMLS, *MANIFESTS, DEPLOY / "entrypoint.sh")] + [DOCKERFILE]
    named = {name for text in texts for name in re.findall(rf"{PREFIX}[A-Z_]+", text)}

    assert named
    assert not [name for name in named if not is_setting(name)]


def test_containers_that_share_the_topics_agree_on_them() -> None:
    shared = [(each.prefix, each.partitions, each.group, each.broker) for each in map(settings, OURS)]

    assert len(set(shared)) == 1


@pytest.mark.parametrize("name", [*OURS, *FROM_OUTSIDE])
def test_a_port_is_open_on_this_machine_only(name: str) -> None:
    for port in services()[name].get("ports", []):
        assert isinstance(port, str), f"{name} publishes {port}; expected 127.0.0.1:outside:inside"
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), f"{name} publishes {port}"


@pytest.mark.parametrize("name", [*OURS, *FROM_OUTSIDE])
def test_a_container_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = services()[name]

    assert not service.get("privileged", False)
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"cap_add", "devices", "network_mode", "pid", "ipc"} & set(service)
    assert not any("docker.sock" in source for source, _, _ in mounts(name))


@pytest.mark.parametrize("name", [*OURS, *FROM_OUTSIDE])
def test_a_container_can_take_only_its_part_of_the_machine(name: str) -> None:
    service = services()[name]

    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["restart"] == ("on-failure:5" if name == "topics" else "unless-stopped")


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_ours_writes_to_its_volumes_only(name: str) -> None:
    service = services()[name]

    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert f"USER {service['user']}\n" in DOCKERFILE
    assert environment(name)[PREFIX + "STATE_DIR"].startswith("/var/lib/efficientrec/")


def test_folders_of_the_settings_are_volumes_and_models_are_shared_from_trainer_to_workers() -> None:
    worker = {target: (source, read_only) for source, target, read_only in mounts("worker")}
    trainer = {target: (source, read_only) for source, target, read_only in mounts("trainer")}

    assert worker[str(settings("worker").state_dir)] == ("", False), "scaled workers would share a named volume"
    assert worker[settings("worker").models_dir] == ("models", True)
    assert trainer[settings("trainer").models_dir] == ("models", False)
    assert trainer[str(settings("trainer").log_dir)] == ("log", False)
    assert settings("worker").models_dir == settings("trainer").models_dir
    assert list(mounts("server")) == [("server", str(settings("server").server_state_dir), False)]


def test_every_volume_and_every_mounted_folder_exists() -> None:
    declared = set(loaded(ROOT / "docker-compose.yml")["volumes"])
    sources = {source for name in services() for source, _, _ in mounts(name) if source}

    assert declared == {source for source in sources if not source.startswith(".")}
    assert all((ROOT / source).is_dir() for source in sources if source.startswith("."))


@pytest.mark.parametrize("name", FROM_OUTSIDE)
def test_an_image_from_outside_is_pinned_and_looked_after(name: str) -> None:
    service = services()[name]

    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", OURS)
def test_an_image_of_ours_is_built_from_a_stage_that_exists(name: str) -> None:
    build = services()[name]["build"]

    assert (ROOT / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    assert re.search(rf"^FROM \S+ AS {build['target']}$", DOCKERFILE, re.MULTILINE)
    assert services()[name]["image"] == f"efficientrec-{build['target']}"
    assert services()[name]["command"][0] == name


def test_a_server_is_asked_on_its_own_port_whether_it_lives() -> None:
    server, found = services()["server"], settings("server")

    assert f"127.0.0.1:{found.server_metrics_port}/livez" in server["healthcheck"]["test"][-1]
    assert server["ports"] == [f"127.0.0.1:{found.server_port}:{found.server_port}"]
    assert f"EXPOSE {found.metrics_port} {found.server_port} {found.server_metrics_port}\n" in DOCKERFILE


def test_who_waits_for_another_waits_for_what_that_one_can_show() -> None:
    for name, service in services().items():
        for other, wait in service.get("depends_on", {}).items():
            there = services()[other]
            if wait["condition"] == "service_healthy":
                assert "test" in there["healthcheck"], f"{name} waits for {other}, which has no health check"
            else:
                assert wait["condition"] == "service_completed_successfully", f"{name} waits for {other}"
                assert there["restart"].startswith("on-failure"), f"{other} is run again when it is done"


def test_the_broker_sends_clients_to_where_they_reach_it() -> None:
    kafka = services()["kafka"]
    advertised = dict(each.split("://") for each in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listening = dict(each.split("://") for each in kafka["environment"]["KAFKA_LISTENERS"].split(","))

    assert [advertised["INTERNAL"]] == settings("worker").bootstrap_servers
    assert [advertised["HOST"]] == Settings().bootstrap_servers
    assert kafka["ports"] == [f"{advertised['HOST']}{listening['HOST']}"]
    assert listening["INTERNAL"] == ":" + advertised["INTERNAL"].rpartition(":")[2]
    assert kafka["environment"]["KAFKA_LOG_DIRS"] in [target for _, target, _ in mounts("kafka")]


def test_the_images_run_as_a_user_without_rights_and_the_worker_has_no_torch() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    named = {stage.split("\n", 1)[0].split(" AS ")[1]: stage for stage in stages}

    for target in ("worker", "trainer"):
        assert re.search(r"^USER 10001:10001$", named[target], re.MULTILINE)
        assert "HEALTHCHECK" in named[target]
    assert "[signed,traces,train]" in named["trainer-build"]
    assert "[signed,traces]" in named["worker-build"]
    assert "train]" not in named["worker-build"] + named["worker"]
    assert "--from=worker-build" in named["worker"]
    for stage in (named["worker-build"], named["trainer-build"]):
        assert "-c constraints.txt" in stage


def test_what_the_images_copy_gets_past_dockerignore() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]

    assert set(copied) == set(allowed)


def test_prometheus_scrapes_the_default_ports_of_worker_and_trainer() -> None:
    jobs = {
        job["job_name"]: job["dns_sd_configs"] for job in loaded(DEPLOY / "prometheus/prometheus.yml")["scrape_configs"]
    }

    assert set(jobs) == {"worker", "trainer", "server"}
    for name, port in (("worker", Settings().metrics_port), ("trainer", Settings().trainer_metrics_port)):
        (found,) = jobs[name]
        assert (found["names"], found["port"], found["type"]) == ([name], port, "A")
        assert f"EXPOSE {port}" in DOCKERFILE
        assert f"127.0.0.1:{port}/livez" in DOCKERFILE
