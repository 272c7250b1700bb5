"""
OpenTelemetry spans and metrics of a cache's connections, commands and copies.

It needs the extra ``otel`` (the API alone; the SDK and its exporters are the program's), and is
loaded by nobody but who asks for it::

    from ssh_service import otel

    otel.instrument()

There is no convention for SSH yet: attributes have the conventions' common names
(``server.address``, ``error.type``, ``process.exit.code``), and metrics are named as those of
database clients are.  No script, no variable, no output and no secret is in any of it, and no
file's name but in the description of an error about that file.
"""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, Optional, Union

from ssh_service import api
from ssh_service.connections.cache import SshClientCache
from ssh_service.events import (
    CommandEnded,
    CommandSent,
    ConnectionEnded,
    ConnectionMade,
    CopyEnded,
    CopyStarted,
    DialFailed,
    Event,
)

try:
    from opentelemetry import metrics, trace
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "needs OpenTelemetry (pip install opentelemetry-api)", name=error.name
    ) from error

__all__ = ["instrument"]

_SCOPE = "ssh_service"


def instrument(
    cache: Optional[SshClientCache] = None,
    *,
    tracer_provider: Optional[trace.TracerProvider] = None,
    meter_provider: Optional[metrics.MeterProvider] = None,
) -> Callable[[], None]:
    """
    Make spans and metrics of what happens to a cache's connections, commands and copies.

    Parameters
    ----------
    cache : Optional[SshClientCache]
        Whose; None takes that of `run`, `start`, `upload` and `download`.  The services' is
        `SshService.client_cache`.
    tracer_provider : Optional[opentelemetry.trace.TracerProvider]
        None takes the process's own.
    meter_provider : Optional[opentelemetry.metrics.MeterProvider]
        None takes the process's own.

    Returns
    -------
    Callable[[], None]
        Ends it.

    Notes
    -----
    Spans, when each is over: ``ssh connect``; ``ssh command``, ``ssh upload`` and ``ssh download``
    as children of the span in which the command was submitted, or the copy asked for.

    Metrics: ``ssh.client.connection.count``, ``ssh.client.connection.create_time``,
    ``ssh.client.connection.wait_time`` (until a command was sent, or a copy had its connection),
    ``ssh.client.operation.duration`` (from the call to the outcome), ``ssh.client.copy.io``
    (bytes) and ``ssh.client.copy.files``.  The attribute ``ssh.operation.name`` tells commands,
    uploads and downloads apart.
    """
    exporter = _Exporter(
        trace.get_tracer(_SCOPE, tracer_provider=tracer_provider),
        metrics.get_meter(_SCOPE, meter_provider=meter_provider),
    )
    return (api.default_cache() if cache is None else cache).subscribe(exporter)


class _Exporter:
    """A subscriber that makes spans and metrics; on the callback thread alone."""

    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter) -> None:
        self._tracer = tracer
        self._connections = meter.create_up_down_counter(
            "ssh.client.connection.count", "{connection}", "Connections there are."
        )
        self._create_time = meter.create_histogram(
            "ssh.client.connection.create_time", "s", "From the name to authenticated."
        )
        self._wait_time = meter.create_histogram(
            "ssh.client.connection.wait_time", "s", "Until an operation had its connection."
        )
        self._duration = meter.create_histogram(
            "ssh.client.operation.duration", "s", "From the call to an operation's outcome."
        )
        self._io = meter.create_counter("ssh.client.copy.io", "By", "Bytes that were copied.")
        self._files = meter.create_counter(
            "ssh.client.copy.files", "{file}", "Files that were copied."
        )

    def __call__(self, event: Event) -> None:
        where = _server(event.connection_id)
        if isinstance(event, ConnectionMade):
            self._connections.add(1, where)
            self._create_time.record(event.seconds, where)
            self._span("ssh connect", event, event.seconds, {})
        elif isinstance(event, DialFailed):
            self._create_time.record(event.seconds, {**where, "error.type": event.error})
            self._span("ssh connect", event, event.seconds, {}, event.error, event.reason)
        elif isinstance(event, ConnectionEnded):
            self._connections.add(-1, where)
        elif isinstance(event, CommandSent):
            self._wait_time.record(event.queued, _named("command", where))
        elif isinstance(event, CopyStarted):
            self._wait_time.record(event.queued, _named(event.way, where))
        elif isinstance(event, CommandEnded):
            self._command(event, where)
        elif isinstance(event, CopyEnded):
            self._copy(event, where)

    def _command(self, event: CommandEnded, where: Dict[str, Any]) -> None:
        error = event.error or (str(event.exit_status) if event.exit_status else None)
        attributes: Dict[str, Any] = {
            "ssh.command.outcome": event.outcome,
            "ssh.command.queued": event.queued,
            "ssh.command.stdout.size": event.stdout_bytes,
            "ssh.command.stderr.size": event.stderr_bytes,
        }
        if event.exit_status is not None:
            attributes["process.exit.code"] = event.exit_status
        self._operation("command", event, where, attributes, error)

    def _copy(self, event: CopyEnded, where: Dict[str, Any]) -> None:
        attributes: Dict[str, Any] = {
            "ssh.copy.outcome": event.outcome,
            "ssh.copy.queued": event.queued,
            "ssh.copy.size": event.bytes_done,
            "ssh.copy.files": event.files_done,
        }
        self._io.add(event.bytes_done, _named(event.way, where))
        self._files.add(event.files_done, _named(event.way, where))
        self._operation(event.way, event, where, attributes, event.error)

    def _operation(
        self,
        name: str,
        event: Union[CommandEnded, CopyEnded],
        where: Dict[str, Any],
        attributes: Dict[str, Any],
        error: Optional[str],
    ) -> None:
        measured = _named(name, where)
        if error is not None:
            measured["error.type"] = error
        self._duration.record(event.seconds, measured)
        self._span(f"ssh {name}", event, event.seconds, attributes, error, event.reason)

    def _span(
        self,
        name: str,
        event: Event,
        seconds: float,
        attributes: Dict[str, Any],
        error: Optional[str] = None,
        reason: Optional[str] = None,
    ) -> None:
        # Events have the monotonic clock's time, and are told of a little later.
        end = time.time_ns() - int((time.monotonic() - event.at) * 1e9)
        user = event.connection_id.rpartition("@")[0]
        attributes = {**_server(event.connection_id), "user.name": user, **attributes}
        if error is not None:
            attributes["error.type"] = error
        span = self._tracer.start_span(
            name,
            kind=trace.SpanKind.CLIENT,
            attributes=attributes,
            start_time=end - int(seconds * 1e9),
        )
        if error is not None:
            span.set_status(trace.StatusCode.ERROR, reason)
        span.end(end)


def _named(operation: str, where: Dict[str, Any]) -> Dict[str, Any]:
    return {**where, "ssh.operation.name": operation}


def _server(connection_id: str) -> Dict[str, Any]:
    host, _, port = connection_id.rpartition("@")[2].rpartition(":")
    return {
        "server.address": host.strip("[]"),
        "server.port": int(port),
        "network.protocol.name": "ssh",
    }
