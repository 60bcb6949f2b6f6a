"""A library that repeats itself is heard once in a while, and we always."""

from __future__ import annotations

import logging

from streams.logs import Seldom


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
