"""A client: made, lost, and the threads that wait for either."""

from __future__ import annotations

import threading
from typing import Any, List

import paramiko
import pytest

from ssh_service.connections.client import SshClient
from ssh_service.errors import SshConfigError
from tests.common import eventually
from tests.unit.engine_fakes import PATIENCE, FakeTransport, connect_params, in_threads


def waiting(client: SshClient, count: int, results: List[Any]) -> List[threading.Thread]:
    """Start threads that wait for a connection, and see to it that they do wait."""
    threads = [
        threading.Thread(target=lambda: results.append(client.connection()), daemon=True)
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: len(client._settled._waiters) == count, f"{count} threads wait")
    return threads


def join(threads: List[threading.Thread]) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "still waiting"


def test_client_repr_shows_init_then_id_then_lost() -> None:
    client = SshClient("anything", is_accepted=True)
    assert repr(client) == "INIT"
    client.connection_made(FakeTransport("me@here:22"))
    assert repr(client) == "me@here:22"
    client.connection_lost(None)
    assert repr(client) == "LOST"


def test_connection_releases_all_who_wait_when_it_is_made() -> None:
    client, transport, results = SshClient(), FakeTransport(), []  # type: ignore[var-annotated]
    threads = waiting(client, 20, results)
    client.made(transport)
    join(threads)
    assert results == [transport] * 20
    assert client.connection() is transport


def test_lost_client_gives_none_to_all_waiters() -> None:
    client, results = SshClient(), []  # type: ignore[var-annotated]
    threads = waiting(client, 20, results)
    client.lost()
    join(threads)
    assert results == [None] * 20
    assert client.connection() is None


def test_connection_waits_no_longer_than_it_may() -> None:
    with pytest.raises(TimeoutError, match="within 0.01 s"):
        SshClient().connection(timeout=0.01)
    for timeout in (0, -1, float("nan")):
        with pytest.raises(TimeoutError):
            SshClient().connection(timeout)
    client = SshClient()
    client.lost()
    assert client.connection(float("inf")) is None


def test_lost_client_is_never_connected_again() -> None:
    """The hook's base class may run after the loss; it must not bring the connection back."""
    client = SshClient()
    client.lost()
    client.made(FakeTransport())
    assert repr(client) == "LOST"
    assert client.connection(timeout=0) is None


def test_second_connection_made_is_ignored() -> None:
    client, first = SshClient(), FakeTransport("me@here:22")
    client.made(first)
    client.made(FakeTransport("me@there:22"))
    assert client.connection() is first
    assert repr(client) == "me@here:22"


def test_made_and_lost_from_many_threads_end_as_lost() -> None:
    for _ in range(200):
        client, transport = SshClient(), FakeTransport()
        results = in_threads(
            lambda: client.made(transport),
            client.lost,
            lambda: client.connection(PATIENCE),
            lambda: client.connection(PATIENCE),
        )
        assert repr(client) == "LOST"
        assert client.connection(timeout=0) is None
        assert all(result in (None, transport) for result in results)


def test_the_id_of_one_of_our_connections_is_what_was_asked_for_even_when_it_ended() -> None:
    transport = FakeTransport("me@alias:2222")
    transport.lose()
    assert SshClient.id_from_connection(transport) == "me@alias:2222"


def test_the_id_of_any_other_transport_is_its_user_and_peer() -> None:
    class Other(paramiko.Transport):
        def __init__(self) -> None:
            pass

        def get_username(self) -> str:
            return "me"

        def getpeername(self) -> Any:
            return ("::1", 2222, 0, 0)

        def __repr__(self) -> str:
            return "<Other>"

    assert SshClient.id_from_connection(Other()) == "me@[::1]:2222"


def test_the_id_of_parameters_has_user_and_port_resolved() -> None:
    assert SshClient.id_from_params(connect_params("alpha")) == "somebody@alpha:22"
    assert SshClient.id_from_params(connect_params("alpha", port=2222)) == "somebody@alpha:2222"
    with pytest.raises(SshConfigError):
        SshClient.id_from_params({"username": "me"})


def test_a_subclass_may_have_parameters_of_its_own() -> None:
    class Mine(SshClient):
        def __init__(self, name: str, **more: Any) -> None:
            super().__init__(name, **more)
            self.name = name

    assert repr(Mine("x", other=1)) == "INIT"
