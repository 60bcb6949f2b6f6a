"""What several worker processes show, as one: all their series under one port, and whether all of them are well.

Each process serves its own on loopback; whoever asks here is told what they say now, with the number of the process as
a label. Nothing is added up and nothing is kept: so a process that has died has no series until it is back, its
counters begin again at zero in series of their own, and `rate` and `sum` come out right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from streams.health import Pulse
from streams.secret import Secret

ANSWER_SECONDS = 2.0
LABEL = "process"


class Process(Protocol):
    """A place among the workers."""

    @property
    def number(self) -> int: ...

    @property
    def lives(self) -> int:
        """How often a process was started in it."""

    @property
    def port(self) -> int | None:
        """Where the process answers on loopback; None while there is none."""


class Answer(NamedTuple):
    """What a process said."""

    status: int
    """0 where nobody listened, as at its start."""
    text: str


class Processes(Collector):
    """The workers of one supervisor: a collector of their metrics, and their health."""

    def __init__(self, workers: Sequence[Process], pulse: Pulse, token: Secret) -> None:
        """pulse: of the supervisor. token: which each of them wants for /metrics."""
        self._workers = workers
        self._pulse = pulse
        self._token = token

    def registry(self) -> CollectorRegistry:
        """With this alone in it: what the supervisor would show of itself would pass for a worker's."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def collect(self) -> Iterator[Metric]:
        """For the registry, which asks in a thread of the server."""
        answers = self._ask("/metrics")
        up = GaugeMetricFamily("efficientrec_process_up", "Whether a process shows its metrics.", labels=[LABEL])
        starts = CounterMetricFamily(
            "efficientrec_process_starts", "Lives of a process: more than one where it died.", labels=[LABEL]
        )
        for number, answer in answers.items():
            up.add_metric([str(number)], float(answer.status == HTTPStatus.OK))
        for worker in self._workers:
            starts.add_metric([str(worker.number)], worker.lives)
        yield from (up, starts)
        yield from merged({number: text for number, (status, text) in answers.items() if status == HTTPStatus.OK})

    def not_alive(self) -> str:
        """What is wrong with a process that runs: whoever has died is started again from here."""
        return self._pulse.not_alive() or self._told(
            {number: said for number, said in self._ask("/livez").items() if said.status != 0}
        )

    def not_ready(self) -> str:
        return self._pulse.not_alive() or self._told(self._ask("/readyz"))

    def _told(self, answers: Mapping[int, Answer]) -> str:
        bad = (f"worker {number}: {text.strip()}" for number, (status, text) in answers.items() if status != 200)
        return "; ".join(bad)

    def _ask(self, path: str) -> dict[int, Answer]:
        """What each process says, all asked at once."""
        workers = list(self._workers)  # which grows while they are started
        with ThreadPoolExecutor(max(1, len(workers))) as threads:
            answers = threads.map(lambda worker: self._asked(worker.port, path), workers)
            return {worker.number: answer for worker, answer in zip(workers, answers, strict=True)}

    def _asked(self, port: int | None, path: str) -> Answer:
        if port is None:
            return Answer(0, "it is not running")
        connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
        try:
            headers = {"Authorization": f"Bearer {self._token.reveal()}".encode()} if self._token else {}
            connection.request("GET", path, headers=headers)
            reply = connection.getresponse()
            return Answer(reply.status, reply.read().decode())
        except TimeoutError:
            return Answer(HTTPStatus.GATEWAY_TIMEOUT, "it does not answer")
        except (OSError, HTTPException):
            return Answer(0, "it is starting")
        finally:
            connection.close()


def merged(texts: Mapping[int, str]) -> Iterator[Metric]:
    """The families of several processes, each once, with every sample under the number of its process.

    >>> [metric] = merged({0: "# TYPE lag gauge\\nlag 1\\n", 1: "# TYPE lag gauge\\nlag 2\\n"})
    >>> [(sample.labels, sample.value) for sample in metric.samples]
    [({'process': '0'}, 1.0), ({'process': '1'}, 2.0)]
    """
    families: dict[str, Metric] = {}
    for number, text in texts.items():
        for found in text_string_to_metric_families(text):
            if found.name.endswith("_created"):  # when a counter began: the next one to expose them adds its own
                continue
            family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
            for sample in found.samples:
                family.samples.append(sample._replace(labels={LABEL: str(number), **sample.labels}))
    yield from families.values()
