"""Secrets are planted in every way that settings have, and looked for in everything that the programs say."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
import urllib.request
from dataclasses import fields
from pathlib import Path

import pytest

from efficientrec.errors import SettingInvalid
from streams.broker import EmbeddedBroker, free_port
from streams.connection import Connection
from streams.secret import Secret
from streams.settings import PREFIX, Settings
from tests.certificates import Authority
from tests.integration.harness import World

PLANTED = "swordfish"
SECRETS = [each.name for each in fields(Settings) if each.type == "Secret"]
COMMANDS = [["worker", "--help"], ["worker"], ["trainer"], ["server"], ["send", "like", "ann", "a"], ["nonsense"]]


@pytest.fixture(params=["variables", "files", "toml"])
def planted(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Variables of an installation with all the secrets that there are."""
    authority = Authority(tmp_path / "authority", "authority")
    pair = authority.pair("worker", password=f"{PLANTED}-ssl_key_password")
    given = {
        "broker": f"kafka://127.0.0.1:{free_port()}",
        "broker_wait_seconds": "0",
        "log_level": "DEBUG",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_username": "worker",
        "ssl_ca_file": str(authority.file),
        "ssl_certificate_file": str(pair.certificate),
        "ssl_key_file": str(pair.key),
    }
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environ |= {PREFIX + name.upper(): value for name, value in given.items()}
    for name in SECRETS:
        (tmp_path / name).write_text(f"{PLANTED}-{name}\n")
    if request.param == "variables":
        environ |= {f"{PREFIX}{name.upper()}": f"{PLANTED}-{name}" for name in SECRETS}
    elif request.param == "files":
        environ |= {f"{PREFIX}{name.upper()}_FILE": str(tmp_path / name) for name in SECRETS}
    else:
        file = tmp_path / "settings.toml"
        file.write_text("".join(f'{name} = "{PLANTED}-{name}"\n' for name in SECRETS))
        environ["EFFICIENTREC_CONFIG"] = str(file)
    return environ


def test_secrets_arrive_whichever_way_they_come(planted: dict[str, str]) -> None:
    settings = Settings.load(planted)

    assert len(SECRETS) >= 4
    assert all(getattr(settings, name).reveal() == f"{PLANTED}-{name}" for name in SECRETS)


@pytest.mark.parametrize("planted", ["variables"], indirect=True)
def test_no_command_says_a_secret(planted: dict[str, str]) -> None:
    for words in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "streams", *words],
            env=planted,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert PLANTED not in done.stdout + done.stderr, words
        assert done.stdout + done.stderr, words


def test_a_wrong_setting_beside_a_secret_does_not_show_it(planted: dict[str, str]) -> None:
    wrong = {"LIST_SIZE": "many", "SASL_MECHANISM": "MAGIC", "SASL_PASWORD": PLANTED, "SECURITY_PROTOCOL": "PLAINTEXT"}
    for name, value in wrong.items():
        with pytest.raises(SettingInvalid, match=name) as caught:
            Settings.load(planted | {PREFIX + name: value})

        assert PLANTED not in "".join(traceback.format_exception(caught.value))


def test_a_traceback_with_its_variables_shows_no_secret(planted: dict[str, str]) -> None:
    settings = Settings.load(planted)
    connection = Connection(settings)

    def crash(settings: Settings, **options: object) -> None:
        password = settings.sasl_password.reveal()
        raise RuntimeError(f"{settings} {options} {len(password)}")

    with pytest.raises(RuntimeError) as caught:
        crash(settings, **connection.options())

    told = "".join(traceback.TracebackException(*caught._excinfo, capture_locals=True).format())  # type: ignore[misc]
    _, _, frame = told.partition("in crash")
    assert "password = ***" in frame
    assert "sasl_plain_password" in frame
    assert PLANTED not in frame


def test_a_worker_listens_on_loopback_only_and_its_metrics_tell_no_secret(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    token = Secret(f"{PLANTED}-metrics_token")
    world = World(embedded_broker.address, tmp_path, log_level="DEBUG", metrics_token=token)
    try:
        world.create_topics()
        (worker,) = world.start("worker")
        world.wait_until(lambda: "serving 4 of 4" in worker.output(), "the worker has its partitions")
        address = f"http://127.0.0.1:{worker.port}/metrics"
        asked = urllib.request.Request(address, headers={"Authorization": f"Bearer {token.reveal()}"})
        with urllib.request.urlopen(asked, timeout=5) as reply:
            metrics = reply.read().decode()

        assert "efficientrec_events_total" in metrics
        assert listening(worker.process.pid) == {("127.0.0.1", worker.port)}
        assert PLANTED not in metrics + worker.output()
    finally:
        world.close()


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses on which a process takes connections (Linux)."""
    sockets = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if "socket" in str(link.readlink())}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                address, _, port = local.partition(":")
                octets = bytes.fromhex(address)[::-1] if table == "tcp" else bytes.fromhex(address)
                found.add((".".join(map(str, octets)), int(port, 16)))
    return found
