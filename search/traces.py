"""Traces for OpenTelemetry: spans around a request, a query's parts, and a build's stages.

Nothing is imported and nothing is measured until `start` is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.errors import SearchError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer
    from starlette.types import Scope

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
SERVER_ERROR = 500
_NOTHING: AbstractContextManager[None] = nullcontext()


class TracesUnavailable(SearchError):
    """Traces are asked for and OpenTelemetry is not installed."""


@dataclass(frozen=True, slots=True)
class _Tracing:
    tracer: Tracer
    provider: Any  # opentelemetry.sdk.trace.TracerProvider


_tracing: _Tracing | None = None


def are_wanted(setting: bool, environment: Mapping[str, str]) -> bool:
    """Whether traces are to be sent: the setting says so, or OpenTelemetry's own variable does."""
    return setting or bool(environment.get(ENDPOINT))


def start(name: str, *, exporter: SpanExporter | None = None) -> None:
    """Begin to trace this process. name: of the process, such as reindexer-serve; OTEL_SERVICE_NAME
    wins. exporter: OTLP over HTTP, as OpenTelemetry's variables say, unless given.

    Raises TracesUnavailable.
    """
    global _tracing
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

        provider = TracerProvider(resource=Resource.create({"service.name": name}))
        if exporter is not None:
            provider.add_span_processor(SimpleSpanProcessor(exporter))
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ImportError as error:
        raise TracesUnavailable(
            "traces are asked for (telemetry.traces, or OTEL_EXPORTER_OTLP_ENDPOINT) and "
            "OpenTelemetry is not installed; run: pip install 'reindexer[otel]'"
        ) from error
    stop()
    _tracing = _Tracing(provider.get_tracer("reindexer"), provider)


def stop() -> None:
    """Send what is left, and trace no more."""
    global _tracing
    if _tracing is not None:
        _tracing.provider.shutdown()
        _tracing = None


def span(
    name: str, parent: Context | None = None, **attributes: str | int | float
) -> AbstractContextManager[Span | None]:
    """A span around a block, below the one that is open in this context, or below parent."""
    if _tracing is None:
        return _NOTHING
    return _tracing.tracer.start_as_current_span(name, context=parent, attributes=attributes)


def here() -> Context | None:
    """The span that is open, for a thread that does part of its work."""
    if _tracing is None:
        return None
    from opentelemetry.context import get_current

    return get_current()


# -- requests --------------------------------------------------------------------------------------


def request_span(scope: Scope) -> AbstractContextManager[Span | None]:
    """The span of an HTTP request, below the caller's if there is a traceparent header."""
    return _NOTHING if _tracing is None else _request_span(_tracing.tracer, scope)


@contextlib.contextmanager
def _request_span(tracer: Tracer, scope: Scope) -> Iterator[Span]:
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    with tracer.start_as_current_span(
        scope["method"],
        context=TraceContextTextMapPropagator().extract(carrier),
        kind=SpanKind.SERVER,
        attributes={"http.request.method": scope["method"], "url.path": scope["path"]},
    ) as found:
        yield found


def end_request(found: Span | None, scope: Scope, route: str, status: int) -> None:
    """What is known of a request once it was answered."""
    if found is None:
        return
    from opentelemetry.trace import StatusCode

    found.update_name(f"{scope['method']} {route}")
    found.set_attribute("http.route", route)
    found.set_attribute("http.response.status_code", status)
    if request_id := scope.get("state", {}).get("request_id"):
        found.set_attribute("reindexer.request_id", request_id)
    if status >= SERVER_ERROR:
        found.set_status(StatusCode.ERROR)
