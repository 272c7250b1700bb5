"""
OpenTelemetry spans and metrics of a cache's connections, commands, copies and forwards.

It needs the extra ``otel``, which installs only the API: the program chooses the SDK and its
exporters.  Nothing else in this package imports it::

    from ssh_service import otel

    otel.instrument()

OpenTelemetry has no semantic conventions for SSH yet.  So attributes have the general names
(``server.address``, ``error.type``, ``process.exit.code``), and metrics are named like those of
database clients.  Spans and metrics contain no script, variable, output or secret, and no file
names, except in the description of an error about a file.
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
    StreamEnded,
    StreamOpened,
)

try:
    from opentelemetry import metrics, trace
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"No module named {error.name!r}; install it with: pip install opentelemetry-api"
        " (in a checkout: pip install '.[otel]')",
        name=error.name,
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
    Record spans and metrics of a cache's connections, commands, copies and forwards.

    Parameters
    ----------
    cache : Optional[SshClientCache]
        The cache to observe; None: the one that `run`, `start`, `upload` and `download` share.
        `SshService.client_cache` returns that of the services.
    tracer_provider : Optional[opentelemetry.trace.TracerProvider]
        None: the global one.
    meter_provider : Optional[opentelemetry.metrics.MeterProvider]
        None: the global one.

    Returns
    -------
    Callable[[], None]
        A function that stops the recording.

    Notes
    -----
    Spans, recorded when they end: ``ssh connect``; ``ssh command``, ``ssh upload`` and
    ``ssh download`` are children of the span that was current when the command or copy was called;
    so is ``ssh stream``, one connection through a forward, of that when the forward was made.

    Metrics: ``ssh.client.connection.count``, ``ssh.client.connection.create_time``,
    ``ssh.client.connection.wait_time`` (until a command was sent, or a copy had its connection),
    ``ssh.client.operation.duration`` (from the call to the outcome), ``ssh.client.copy.io``
    (bytes), ``ssh.client.copy.files``, ``ssh.client.stream.count`` (open streams of forwards) and
    ``ssh.client.stream.io`` (their bytes, by ``network.io.direction``: ``transmit`` is to the
    server).  The attribute ``ssh.operation.name`` is ``command``, ``upload``, ``download`` or
    ``stream``.

    Thread safety.  This may be called from any thread.

    Examples
    --------
    >>> stop = otel.instrument()
    >>> stop = otel.instrument(SshService.client_cache())
    """
    exporter = _Exporter(
        trace.get_tracer(_SCOPE, tracer_provider=tracer_provider),
        metrics.get_meter(_SCOPE, meter_provider=meter_provider),
    )
    return (api.default_cache() if cache is None else cache).subscribe(exporter)


class _Exporter:
    """An adapter: a subscriber that turns events into spans and metrics."""

    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter) -> None:
        self._tracer = tracer
        self._connections = meter.create_up_down_counter(
            "ssh.client.connection.count", "{connection}", "Open connections."
        )
        self._create_time = meter.create_histogram(
            "ssh.client.connection.create_time", "s", "Time to connect and authenticate."
        )
        self._wait_time = meter.create_histogram(
            "ssh.client.connection.wait_time", "s", "Time until an operation had its connection."
        )
        self._duration = meter.create_histogram(
            "ssh.client.operation.duration", "s", "Time from the call to an operation's outcome."
        )
        self._io = meter.create_counter("ssh.client.copy.io", "By", "Bytes copied.")
        self._files = meter.create_counter("ssh.client.copy.files", "{file}", "Files copied.")
        self._streams = meter.create_up_down_counter(
            "ssh.client.stream.count", "{stream}", "Open streams of forwards."
        )
        self._stream_io = meter.create_counter(
            "ssh.client.stream.io", "By", "Bytes carried by forwards."
        )

    def __call__(self, event: Event) -> None:
        server = _server_attributes(event.connection_id)
        if isinstance(event, ConnectionMade):
            self._connections.add(1, server)
            self._create_time.record(event.seconds, server)
            self._span("ssh connect", event, event.seconds, {})
        elif isinstance(event, DialFailed):
            self._create_time.record(event.seconds, {**server, "error.type": event.error})
            self._span("ssh connect", event, event.seconds, {}, event.error, event.reason)
        elif isinstance(event, ConnectionEnded):
            self._connections.add(-1, server)
        elif isinstance(event, CommandSent):
            self._wait_time.record(event.queued, _operation_attributes("command", server))
        elif isinstance(event, CopyStarted):
            self._wait_time.record(event.queued, _operation_attributes(event.way, server))
        elif isinstance(event, CommandEnded):
            self._command(event, server)
        elif isinstance(event, CopyEnded):
            self._copy(event, server)
        elif isinstance(event, StreamOpened):
            self._streams.add(1, server)
            self._wait_time.record(event.queued, _operation_attributes("stream", server))
        elif isinstance(event, StreamEnded):
            self._stream(event, server)

    def _command(self, event: CommandEnded, server: Dict[str, Any]) -> None:
        error = event.error or (str(event.exit_status) if event.exit_status else None)
        attributes: Dict[str, Any] = {
            "ssh.command.outcome": event.outcome,
            "ssh.command.queued": event.queued,
            "ssh.command.stdout.size": event.stdout_bytes,
            "ssh.command.stderr.size": event.stderr_bytes,
        }
        if event.exit_status is not None:
            attributes["process.exit.code"] = event.exit_status
        self._operation("command", event, server, attributes, error)

    def _copy(self, event: CopyEnded, server: Dict[str, Any]) -> None:
        attributes: Dict[str, Any] = {
            "ssh.copy.outcome": event.outcome,
            "ssh.copy.queued": event.queued,
            "ssh.copy.size": event.bytes_done,
            "ssh.copy.files": event.files_done,
        }
        self._io.add(event.bytes_done, _operation_attributes(event.way, server))
        self._files.add(event.files_done, _operation_attributes(event.way, server))
        self._operation(event.way, event, server, attributes, event.error)

    def _stream(self, event: StreamEnded, server: Dict[str, Any]) -> None:
        attributes: Dict[str, Any] = {
            "ssh.stream.outcome": event.outcome,
            "ssh.stream.target": event.to,
            "ssh.stream.size.transmit": event.bytes_to_server,
            "ssh.stream.size.receive": event.bytes_from_server,
        }
        if event.opened:
            self._streams.add(-1, server)
        sizes = {"transmit": event.bytes_to_server, "receive": event.bytes_from_server}
        for direction, size in sizes.items():
            self._stream_io.add(size, {**server, "network.io.direction": direction})
        self._operation("stream", event, server, attributes, event.error)

    def _operation(
        self,
        name: str,
        event: Union[CommandEnded, CopyEnded, StreamEnded],
        server: Dict[str, Any],
        attributes: Dict[str, Any],
        error: Optional[str],
    ) -> None:
        metric_attributes = _operation_attributes(name, server)
        if error is not None:
            metric_attributes["error.type"] = error
        self._duration.record(event.seconds, metric_attributes)
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
        # Events carry monotonic times, and arrive a little later: convert to wall-clock time.
        end = time.time_ns() - int((time.monotonic() - event.at) * 1e9)
        user = event.connection_id.rpartition("@")[0]
        attributes = {**_server_attributes(event.connection_id), "user.name": user, **attributes}
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


def _operation_attributes(operation: str, server: Dict[str, Any]) -> Dict[str, Any]:
    return {**server, "ssh.operation.name": operation}


def _server_attributes(connection_id: str) -> Dict[str, Any]:
    host, _, port = connection_id.rpartition("@")[2].rpartition(":")
    return {
        "server.address": host.strip("[]"),
        "server.port": int(port),
        "network.protocol.name": "ssh",
    }
