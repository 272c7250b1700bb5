"""Forked children, which have none of their parent's threads."""

from __future__ import annotations

import os
import threading
from typing import Iterator

import pytest

from ssh_service import background
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshCacheClosed
from tests.common import PATIENCE
from tests.unit.engine_fakes import GatedDialer, callbacks_done, connect_params
from tests.unit.test_background import soon

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]


@pytest.fixture
def dialer() -> GatedDialer:
    return GatedDialer()


@pytest.fixture
def connections(dialer: GatedDialer) -> Iterator[SshClientCache]:
    connections = SshClientCache(dialer=dialer)
    yield connections
    dialer.release()
    connections.cleanup()


def test_a_forked_child_starts_with_an_empty_cache(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    transport, _ = connections.get_client_connection(connect_params())
    connections.enter()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert len(connections) == 0 and connections.stats()["dials"] == 0
            mine, _ = connections.get_client_connection(connect_params())
            assert mine is not transport and mine.is_active()
            with pytest.raises(SshCacheClosed):
                connections.exit()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert transport.is_active()
    connections.exit()


def test_a_forked_child_has_a_clock_and_a_callback_thread_of_its_own() -> None:
    callbacks_done()
    soon(lambda: None)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            called = [threading.Event(), threading.Event()]
            soon(called[0].set)
            background.run_callback(called[1].set)
            status = 0 if all(event.wait(PATIENCE) for event in called) else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
