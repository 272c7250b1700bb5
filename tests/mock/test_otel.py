"""Spans and metrics for OpenTelemetry, read back from its in-memory exporters."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from ssh_service import events, operations
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshAuthError
from ssh_service.testing.mock_sshd import MockSshd
from tests.unit.engine_fakes import GatedDialer, callbacks_done, connect_params

BYTES = "ssh.client.copy.io"


def test_nothing_of_it_is_loaded_unless_asked_for() -> None:
    script = (
        "import sys, ssh_service; ssh_service.run, ssh_service.SshHostService;"
        "print([name for name in sys.modules if 'opentelemetry' in name or 'otel' in name])"
    )
    assert subprocess.check_output([sys.executable, "-c", script]).strip() == b"[]"


class Telemetry:
    """The SDK's in-memory ends, and what instruments a cache with them."""

    def __init__(self) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self._meters = MeterProvider(metric_readers=[self._reader])
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))

    def watch(self, cache: SshClientCache) -> None:
        from ssh_service import otel

        otel.instrument(cache, tracer_provider=self.tracers, meter_provider=self._meters)

    def spans(self) -> Dict[str, Any]:
        callbacks_done()
        return {span.name: span for span in self._exporter.get_finished_spans()}

    def metrics(self) -> Dict[str, Any]:
        callbacks_done()
        (resource,) = self._reader.get_metrics_data().resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric.data.data_points for metric in scope.metrics}

    def close(self) -> None:
        self.tracers.shutdown()
        self._meters.shutdown()


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry-sdk (tox -e py312-otel)")
    made = Telemetry()
    yield made
    made.close()


def test_spans_of_a_command_and_its_connection(
    telemetry: Telemetry, mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    telemetry.watch(ssh_cache)
    began = time.time_ns()
    with telemetry.tracers.get_tracer("test").start_as_current_span("caller") as caller:
        operations.submit(ssh_cache, mock_sshd.connect_params, "printf hi; exit 3").result()
    spans = telemetry.spans()
    command = spans["ssh command"]
    where = {
        "server.address": "127.0.0.1",
        "server.port": mock_sshd.port,
        "network.protocol.name": "ssh",
        "user.name": "mock",
    }
    assert where.items() <= spans["ssh connect"].attributes.items()
    assert where.items() <= command.attributes.items()
    assert command.attributes["process.exit.code"] == 3
    assert command.attributes["error.type"] == "3"
    assert command.attributes["ssh.command.stdout.size"] == 2
    assert command.parent.span_id == caller.get_span_context().span_id
    assert not command.status.is_ok and spans["ssh connect"].status.is_ok
    slack = 10**8  # the two clocks do not agree to the nanosecond
    assert began - slack <= command.start_time < command.end_time <= time.time_ns() + slack
    assert "printf" not in command.to_json()


def test_metrics_of_commands_and_connections(
    telemetry: Telemetry, mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    telemetry.watch(ssh_cache)
    for _ in range(2):
        operations.submit(ssh_cache, mock_sshd.connect_params, "true").result()
    points = telemetry.metrics()
    assert points["ssh.client.connection.count"][0].value == 1
    assert points["ssh.client.connection.create_time"][0].count == 1
    assert points["ssh.client.connection.wait_time"][0].count == 2
    assert points["ssh.client.operation.duration"][0].count == 2
    ssh_cache.cleanup()
    assert telemetry.metrics()["ssh.client.connection.count"][0].value == 0


def test_copies_are_spans_and_metrics(
    telemetry: Telemetry, mock_sshd: MockSshd, ssh_cache: SshClientCache, tmp_path: Path
) -> None:
    telemetry.watch(ssh_cache)
    (tmp_path / "here").write_bytes(b"x" * 1000)
    there = tmp_path / "there"
    with telemetry.tracers.get_tracer("test").start_as_current_span("caller") as caller:
        operations.upload(ssh_cache, mock_sshd.connect_params, tmp_path / "here", there)
        with pytest.raises(FileNotFoundError):
            operations.download(
                ssh_cache, mock_sshd.connect_params, tmp_path / "no", tmp_path / "x"
            )
    up, down = (telemetry.spans()[f"ssh {way}"] for way in ("upload", "download"))
    assert (up.attributes["ssh.copy.size"], up.attributes["ssh.copy.files"]) == (1000, 1)
    assert up.status.is_ok and not down.status.is_ok
    assert down.attributes["error.type"] == "SshFileNotFoundError"
    assert up.parent.span_id == down.parent.span_id == caller.get_span_context().span_id
    points = telemetry.metrics()
    copied = {point.attributes["ssh.operation.name"]: point.value for point in points[BYTES]}
    assert copied == {"upload": 1000, "download": 0}
    assert sum(point.value for point in points["ssh.client.copy.files"]) == 1
    durations = points["ssh.client.operation.duration"]
    assert {point.attributes["ssh.operation.name"] for point in durations} == set(copied)


def test_streams_of_forwards_are_spans_and_metrics(
    telemetry: Telemetry, ssh_cache: SshClientCache
) -> None:
    telemetry.watch(ssh_cache)
    where, now = "me@web1:22", time.monotonic()
    good = events.StreamEnded(
        where, now, 1, 1, "db:5432", True, "completed", 1.5, 10, 20, None, None
    )
    refused = events.StreamEnded(
        where, now, 1, 2, "db:1", False, "refused", 0.1, 0, 0, "SshSessionRefused", "not today"
    )
    with telemetry.tracers.get_tracer("test").start_as_current_span("caller") as caller:
        for event in (events.StreamOpened(where, now, 1, 1, "db:5432", 0.2), good, refused):
            events.publish(ssh_cache.subscribers, event)
    span = telemetry.spans()["ssh stream"]
    assert span.attributes["ssh.stream.target"] == "db:1"
    assert span.attributes["error.type"] == "SshSessionRefused"
    assert span.status.description == "not today"
    assert span.parent.span_id == caller.get_span_context().span_id
    points = telemetry.metrics()
    assert points["ssh.client.stream.count"][0].value == 0
    io = {p.attributes["network.io.direction"]: p.value for p in points["ssh.client.stream.io"]}
    assert io == {"transmit": 10, "receive": 20}
    assert sum(point.count for point in points["ssh.client.operation.duration"]) == 2


def test_ipv6_address_attribute_has_no_brackets(
    telemetry: Telemetry,
) -> None:
    dialer = GatedDialer()
    dialer.errors["::1"] = [SshAuthError("refused all there was")]
    cache = SshClientCache(dialer=dialer)
    telemetry.watch(cache)
    assert operations.submit(cache, connect_params("::1"), "true").exception(10) is not None
    attributes = telemetry.spans()["ssh connect"].attributes
    assert (attributes["server.address"], attributes["server.port"]) == ("::1", 22)


def test_a_dial_that_failed(telemetry: Telemetry) -> None:
    dialer = GatedDialer()
    dialer.errors["alpha"] = [SshAuthError("alpha: refused all there was")]
    cache = SshClientCache(dialer=dialer)
    telemetry.watch(cache)
    assert operations.submit(cache, connect_params(), "true").exception(10) is not None
    span = telemetry.spans()["ssh connect"]
    assert span.attributes["error.type"] == "SshAuthError"
    assert span.status.description == "alpha: refused all there was"
