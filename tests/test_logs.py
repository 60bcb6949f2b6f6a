"""Lines of the log can be read by a program, a library that repeats itself is heard once in a while, and a poisoned
stream does not flood it."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.protocol.admin import SaslAuthenticateRequest

from efficientrec.errors import BrokerRefused
from streams import connection
from streams.broker import EmbeddedBroker, free_port
from streams.logs import OURS_MAX, REFUSALS, JsonLines, Seldom, without_trace
from streams.records import Interaction, User, encode
from streams.secret import Secret
from streams.settings import Settings
from tests.environment import environment
from tests.integration.harness import World
from tests.toy import DAY, START, toy_model


def record(name: str, message: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "file", 1, message, values, None)


def test_a_library_says_the_same_thing_once_in_a_while_and_how_often() -> None:
    now = [0.0]
    seldom = Seldom(30, lambda: now[0])
    said = []
    for second in range(61):
        now[0] = float(second)
        told = record("aiokafka.client", "no node %d", second)
        if seldom.filter(told):
            said.append(told.getMessage())

    assert said == ["no node 0", "no node 30 (and 29 times since)", "no node 60 (and 29 times since)"]


def test_we_say_the_same_thing_a_few_times_and_then_how_often() -> None:
    now = [0.0]
    seldom = Seldom(30, lambda: now[0])

    def told(number: int) -> str | None:
        line = record("streams.worker", "set aside at %d", number)
        return line.getMessage() if seldom.filter(line) else None

    first = [told(number) for number in range(1000)]
    now[0] = 31.0

    assert first == [f"set aside at {number}" for number in range(OURS_MAX)] + [None] * (1000 - OURS_MAX)
    assert told(1000) == f"set aside at 1000 (and {1000 - OURS_MAX} times since)"
    assert told(1001) == "set aside at 1001"


def test_another_thing_and_another_speaker_are_not_kept_back() -> None:
    seldom = Seldom(30, lambda: 0.0)

    assert all(
        seldom.filter(record(name, message))
        for name, message in (
            ("aiokafka", "a"),
            ("aiokafka", "b"),
            ("aiokafka.conn", "a"),
            ("streams.writer", "a"),
            ("streams.writer", "a"),
        )
    )


def test_what_a_broker_does_not_allow_is_told_without_a_trace_and_a_bug_with_one() -> None:
    for error, has_trace in ((TopicAuthorizationFailedError("lists"), False), (ValueError("bug"), True)):
        told = record("streams.app", "crashed: %r", error)
        told.exc_info = (type(error), error, None)

        assert without_trace(told)
        assert (told.exc_info is not None) is has_trace
    assert {each.__name__ for each in (*connection.NO_RIGHTS, BrokerRefused)} == set(REFUSALS)


def test_the_clients_request_with_the_password_is_told_without_it(caplog: pytest.LogCaptureFixture) -> None:
    request = SaslAuthenticateRequest(b"\0worker\0swordfish").prepare({36: (0, 0)})
    assert "swordfish" in str(request)

    with caplog.at_level(logging.DEBUG, "aiokafka.conn"):
        logging.getLogger("aiokafka.conn").debug("Request to %s:%d %d: %s", "host", 9092, 1, request)

    assert caplog.messages == ["Request to host:9092 1: <SaslAuthenticateRequest_v0>"]


@pytest.fixture
def lines() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger, and what it writes as JSON."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("tests.json")
    logger.addHandler(handler)
    yield logger, out
    logger.removeHandler(handler)


def test_a_line_of_json_has_what_it_is_about_as_keys(lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = lines

    logger.warning("model %s refused", "m1", extra={"model_version": "m1", "partition": 3, "folder": Path("/x")})

    (line,) = out.getvalue().splitlines()
    found = json.loads(line)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert isinstance(found.pop("pid"), int)
    assert found == {
        "level": "WARNING",
        "logger": "tests.json",
        "message": "model m1 refused",
        "model_version": "m1",
        "partition": 3,
        "folder": "/x",
    }


def test_whatever_is_logged_is_one_line_of_json(lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = lines
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("failed")
    logger.warning("half a character \udcff", extra={"key": b"\xff", "secret": Secret("swordfish")})
    logger.warning("a\nb\r\u2028c", extra={"message_of_ours": 'with "quotes"', "number": float("nan")})
    logger.warning("%s", {"user": object()})

    found = [json.loads(line) for line in out.getvalue().split("\n")[:-1]]

    assert len(found) == 4
    assert "ValueError: two\nlines" in found[0]["error"]
    assert "swordfish" not in out.getvalue()
    assert found[2]["message_of_ours"] == 'with "quotes"'


def test_what_ends_a_process_is_a_line_like_any_other() -> None:
    settings = Settings(broker=f"kafka://127.0.0.1:{free_port()}", broker_wait_seconds=0, log_format="json")

    run = subprocess.run(
        [sys.executable, "-m", "streams", "worker"],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert run.returncode == 1
    last = [json.loads(line) for line in run.stderr.splitlines()][-1]
    assert last["level"] == "CRITICAL"
    assert last["message"].startswith("BrokerUnavailable: no Kafka broker at 127.0.0.1")


def test_the_life_of_a_worker_can_be_read_and_names_no_user(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    world = World(embedded_broker.address, tmp_path, log_format="json")
    try:
        world.create_topics()
        world.release(toy_model())
        (worker,) = world.start("only")
        world.wait_for_metric(worker, "efficientrec_partitions_assigned", 4)
        world.interact(*(Interaction("like", f"whoever-{number}", "a1", START + DAY) for number in range(20)))
        poison = [(f"whoever-{number}".encode(), b'{"user_id":"whoever-%d"}' % number) for number in range(500)]
        world.produce(world.topics.interactions, poison)
        world.produce(world.topics.users, [(b"whoever-1", encode(User("whoever-2"))), (b"whoever-3", None)])
        world.release(toy_model("toy-2"), damaged=True)
        world.wait_until_handled()
        world.wait_until(lambda: "toy-2 refused" in worker.output(), "the damaged model is refused")
        assert worker.stop() == 0
    finally:
        world.close()

    lines: list[dict[str, Any]] = [json.loads(line) for line in worker.output().splitlines()]
    said = " | ".join(line["message"] for line in lines)
    at = [
        said.index(what) for what in ("starts; broker", "model toy-1 took", "serving 4 of 4", "ready: rows", "stopped")
    ]
    assert at == sorted(at)
    installed = next(line for line in lines if "took the place" in line["message"])
    assert (installed["model_version"], installed["previous_version"]) == ("toy-1", "popularity")
    refused = next(line for line in lines if "refused" in line["message"])
    assert (refused["model_version"], refused["level"]) == ("toy-2", "ERROR")
    letters = [line for line in lines if line.get("reason") == "incomplete"]
    assert 0 < len(letters) <= OURS_MAX * (len(lines) // OURS_MAX + 1)
    assert letters[0]["topic"] == world.topics.interactions
    assert {"partition", "offset", "records"} <= letters[0].keys()
    assert next(line for line in lines if line.get("reason") == "undecodable")["topic"] == world.topics.users
    assert "whoever" not in worker.output()
    assert all(line["logger"].startswith("streams") for line in lines)
    assert not any(line["message"].startswith("[^") for line in lines)
