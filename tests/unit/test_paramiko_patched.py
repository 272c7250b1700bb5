"""`ssh_service.paramiko`: a program's tests that replace paramiko's parts go on as they are."""

from __future__ import annotations

from unittest import mock

from ssh_service import paramiko as ours


def test_a_mocked_transport_is_used() -> None:
    """As paramiko's own tests have it, the transport is a mock, and so may the socket be."""
    sock, client = mock.Mock(), ours.SSHClient()
    client.set_missing_host_key_policy(mock.Mock())
    with mock.patch("paramiko.client.Transport") as transport:
        transport.return_value.auth_password.return_value = []
        client.connect("host", password="no", sock=sock)
    transport.assert_called_once()
    assert transport.call_args[0] == (sock,)
