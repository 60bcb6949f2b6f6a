"""Spans for OpenTelemetry: from the arrival of a traced event at the broker to its list's acknowledgement.

Only with EFFICIENTREC_TRACES=on, and only of events that come in a trace; else nothing of it is even imported. Where
spans go is for OpenTelemetry's own variables to say (OTEL_EXPORTER_OTLP_ENDPOINT and the like).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from efficientrec.errors import SettingInvalid
from streams.cloudevents import TRACEPARENT
from streams.lists import Cause
from streams.outbox import Headers, KeyValue, WithHeaders
from streams.settings import Settings

SERVICE: Final = "efficientrec-worker"
STOP_SECONDS: Final = 5.0
"""How long spans that are not out yet may keep a worker that stops."""


class Traced(WithHeaders):
    """A list on its way, with the span that ends when the broker has it."""

    span: Any


class Traces:
    """Makes the spans of one process."""

    def __init__(self, provider: Any) -> None:
        """provider: a TracerProvider of OpenTelemetry's SDK."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("efficientrec")
        self._context = TraceContextTextMapPropagator()
        self._kind = SpanKind.CONSUMER

    def begun(self, body: bytes, headers: Headers, cause: Cause, version: str | None) -> Traced:
        """The list with the trace context of a new span, which stands below that of the event. No user is named."""
        from opentelemetry.trace import set_span_in_context

        assert cause.trace is not None, "only events that come in a trace have spans"
        place = cause.trigger
        span = self._tracer.start_span(
            "refresh list",
            context=self._context.extract({TRACEPARENT: cause.trace.decode()}),
            kind=self._kind,
            start_time=1_000_000 * max(0, cause.arrived_ms),
            attributes={
                "messaging.system": "kafka",
                "messaging.destination.name": place.topic,
                "messaging.destination.partition.id": str(place.partition),
                "messaging.kafka.offset": place.offset,
                "efficientrec.model_version": version or "popularity",
            },
        )
        onward: dict[str, str] = {}
        self._context.inject(onward, set_span_in_context(span))
        traced = Traced.of(body, [*headers, (TRACEPARENT, onward[TRACEPARENT].encode())])
        traced.span = span
        return traced

    def ended(self, lists: Iterable[KeyValue]) -> None:
        """The broker has these. The spans of a run that is left alone never end, and are not shown."""
        for _, body in lists:
            if isinstance(body, Traced):
                body.span.end()

    async def close(self) -> None:
        """Sends what is left; not for long, as a collector may be away."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._provider.shutdown), STOP_SECONDS)


def traces(settings: Settings) -> Traces | None:
    """None where they are off."""
    if settings.traces == "off":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingInvalid(
            f"EFFICIENTREC_TRACES is on, but {error.name} is missing; expected: pip install 'efficientrec[traces]'"
        ) from error
    resource = Resource.create({"service.name": SERVICE, "service.namespace": settings.installation})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)
