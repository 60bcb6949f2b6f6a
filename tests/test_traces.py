"""A traced event becomes a span that ends with its list, and the list goes on in that span's context."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from efficientrec.errors import SettingInvalid
from streams import traces
from streams.broker import EmbeddedBroker
from streams.outbox import WithHeaders
from streams.records import encode
from streams.settings import Settings
from streams.traces import Traces
from streams.transport import Run
from tests.integration.harness import World as Processes
from tests.test_cloudevents import TRACE
from tests.test_worker import PARTITION, TOPICS, World, like, run_of
from tests.toy import START, toy_model


class TracedWorld(World):
    """A worker whose spans are kept in memory."""

    def __init__(self, **settings: Any) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.traces = Traces(provider)
        super().__init__(toy_model(), **settings)

    def headers(self) -> dict[bytes, dict[str, bytes]]:
        """User → headers of the last list."""
        lists = self.broker.records[TOPICS.lists]
        return {key: dict(body.headers) if isinstance(body, WithHeaders) else {} for key, body in lists}


def traced(run: Run) -> Run:
    """The run, of which the first record comes in a trace."""
    first, *others = run.records
    return replace(run, records=[replace(first, headers=(("traceparent", TRACE),)), *others])


def test_a_span_lasts_from_the_arrival_of_the_event_to_its_list() -> None:
    world = TracedWorld()

    world.handle(traced(run_of(like("anna", "a1"), like("bert", "b1"))))

    (span,) = world.exporter.get_finished_spans()
    assert span.parent is not None
    assert span.context is not None
    assert span.attributes is not None
    assert f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}" == TRACE[3:52].decode()
    assert span.start_time == START * 1_000_000
    assert span.end_time is not None
    assert span.end_time > span.start_time
    assert dict(span.attributes) == {
        "messaging.system": "kafka",
        "messaging.destination.name": TOPICS.interactions,
        "messaging.destination.partition.id": str(PARTITION),
        "messaging.kafka.offset": 0,
        "efficientrec.model_version": "toy-1",
    }
    assert "anna" not in span.to_json()
    onward = f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01".encode()
    assert world.headers() == {b"anna": {"traceparent": onward}, b"bert": {}}


def test_the_span_of_a_list_that_did_not_get_out_is_not_shown() -> None:
    world = TracedWorld()
    world.loop._writers.leave()
    world.loop._writers.keep(())

    world.handle(traced(run_of(like("anna", "a1"))))

    assert world.exporter.get_finished_spans() == ()


def test_without_the_setting_the_trace_goes_on_as_it_came() -> None:
    world = World(toy_model(), cloudevents="on")

    world.handle(traced(run_of(like("anna", "a1"))))

    (body,) = (body for _, body in world.broker.records[TOPICS.lists])
    assert isinstance(body, WithHeaders)
    assert dict(body.headers)["traceparent"] == TRACE
    assert dict(body.headers)["ce_subject"] == b"anna"
    assert traces.traces(Settings()) is None


def test_without_the_library_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)

    with pytest.raises(SettingInvalid, match=r"pip install 'efficientrec\[traces\]'"):
        traces.traces(Settings(traces="on"))


def test_a_collector_that_is_away_does_not_keep_a_worker_that_stops() -> None:
    program = """
import asyncio, time
from streams import traces
from streams.lists import Cause
from streams.records import Trigger
from streams.settings import Settings

spans = traces.traces(Settings(traces="on"))
cause = Cause("anna", Trigger("t", 0, 1, None, "x"), 1, b"TRACE")
spans.ended([(b"anna", spans.begun(b"{}", [], cause, None))])
asyncio.run(spans.close())
""".replace("TRACE", TRACE.decode())

    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert run.returncode == 0, run.stderr


class Collector(BaseHTTPRequestHandler):
    """Takes spans as an OpenTelemetry collector does."""

    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def test_a_worker_sends_its_spans_to_the_collector(
    embedded_broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        world = Processes(embedded_broker.address, tmp_path, traces="on")
        try:
            world.create_topics()
            world.release(toy_model())
            (worker,) = world.start("only")
            event = encode(like("anna", "a1"))
            world.produce(world.topics.interactions, [(b"anna", event)], [("traceparent", TRACE)])
            world.wait_until_handled()
            assert worker.stop() == 0, worker.output()
        finally:
            world.close()
            server.shutdown()

    sent = b"".join(Collector.bodies)
    assert b"refresh list" in sent
    assert bytes.fromhex(TRACE[3:35].decode()) in sent
    assert b"anna" not in sent
