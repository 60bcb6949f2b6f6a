"""A library that repeats itself is heard once in a while, and we always."""

from __future__ import annotations

import logging

import pytest
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.protocol.admin import SaslAuthenticateRequest

from streams import connection
from streams.logs import REFUSALS, Seldom, without_trace


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


def test_another_thing_another_speaker_and_our_own_words_are_not_kept_back() -> None:
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
    assert {each.__name__ for each in connection.NO_RIGHTS} == set(REFUSALS)


def test_the_clients_request_with_the_password_is_told_without_it(caplog: pytest.LogCaptureFixture) -> None:
    request = SaslAuthenticateRequest(b"\0worker\0swordfish").prepare({36: (0, 0)})
    assert "swordfish" in str(request)

    with caplog.at_level(logging.DEBUG, "aiokafka.conn"):
        logging.getLogger("aiokafka.conn").debug("Request to %s:%d %d: %s", "host", 9092, 1, request)

    assert caplog.messages == ["Request to host:9092 1: <SaslAuthenticateRequest_v0>"]
