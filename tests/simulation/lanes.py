"""A broker for one seed after the other."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from streams.broker import EmbeddedBroker
from tests.kafka import native_kafka
from tests.simulation.outcome import Outcome
from tests.simulation.processes import Broker, play


class Lane:
    """Apache Kafka serves all seeds of a lane; the embedded broker, which starts in no time, is a new one for each."""

    def __init__(self, name: str, folder: Path) -> None:
        """name: `kafka` or `embedded`."""
        self._name = name
        self._folder = folder
        self._stack = ExitStack()
        self._kafka: Broker | None = None

    def __enter__(self) -> Lane:
        self._folder.mkdir(parents=True)
        if self._name == "kafka":
            self._kafka = self._stack.enter_context(native_kafka(self._folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def play(self, seed: int, folder: Path) -> Outcome:
        if self._kafka is not None:
            return play(seed, self._kafka, folder / f"seed-{seed}", self._name)
        with EmbeddedBroker(log=self._folder / "broker.log") as broker:
            return play(seed, broker, folder / f"seed-{seed}", self._name)
