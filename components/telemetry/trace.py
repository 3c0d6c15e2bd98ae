"""One trace through prompt -> rollout -> reward -> update, by OpenTelemetry: off unless its variables name a collector.

OTEL_EXPORTER_OTLP_TRACES_ENDPOINT (or OTEL_EXPORTER_OTLP_ENDPOINT) names a collector that takes OTLP over HTTP: Jaeger,
Tempo, or MLflow's `/v1/traces`; headers, certificates and time-outs are set by the other variables of
https://opentelemetry.io/docs/specs/otel/protocol/exporter. Spans hold names, times, counts and verdicts, never a text.

A collector that does not answer costs a warning and its spans, never the run: they leave from a thread of their own,
from a queue of bounded length, and the end waits for them for a bounded time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from components.failures import BadInput

log = logging.getLogger(__name__)

VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
CLOSE_DEADLINE_S = 5.0
Value = str | int | float | bool


class Span:
    """A finished part of a trace, written as soon as it is made. Times in nanoseconds of the clock `time.time_ns`."""

    def __init__(self, tracer: Any, span: Any, end: int) -> None:
        self._tracer, self._span = tracer, span
        span.end(end)

    def child(self, name: str, start: int, end: int, attributes: Mapping[str, Value] | None = None) -> Span:
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(self._span)
        span = self._tracer.start_span(name, context, attributes=dict(attributes or {}), start_time=start)
        return Span(self._tracer, span, end)


class Tracer:
    """Sends spans to `endpoint`, or to where the standard variables say. Use `traced`."""

    def __init__(self, resource: Mapping[str, Value], endpoint: str | None = None) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # A provider of its own: the process's global one belongs to whoever embeds us, MLflow for instance.
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "ringflow", **resource}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("ringflow")

    def trace(self, name: str, start: int, end: int, attributes: Mapping[str, Value] | None = None) -> Span:
        """The root of a new trace."""
        from opentelemetry.context import Context

        span = self._tracer.start_span(name, Context(), attributes=dict(attributes or {}), start_time=start)
        return Span(self._tracer, span, end)

    def close(self) -> None:
        """Sends what waits, for CLOSE_DEADLINE_S at most."""
        if not self._provider.force_flush(int(1000 * CLOSE_DEADLINE_S)):
            log.warning("some spans were not sent within %g s", CLOSE_DEADLINE_S)
        self._provider.shutdown()


@contextmanager
def traced(**resource: Value) -> Iterator[Tracer | None]:
    """A tracer while the block runs, or None when no variable names a collector. resource: what all spans share.

    Raises:
        BadInput: the variable holds no http address.
    """
    named = next(((name, os.environ[name]) for name in VARIABLES if os.environ.get(name)), None)
    if named is None:
        yield None
        return
    where, address = named
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc:
        raise BadInput(
            f"{address!r} is no http address", where=where, remedy="For instance http://127.0.0.1:4318/v1/traces"
        )
    tracer = Tracer(resource)
    try:
        yield tracer
    finally:
        tracer.close()
