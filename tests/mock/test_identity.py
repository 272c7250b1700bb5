"""Who gets whose connection."""

from __future__ import annotations

import paramiko
import pytest

from ssh_service import SshClientCache, SshConfigError
from ssh_service.testing.mock_sshd import MockSshd


def test_public_key_never_gets_its_owners_connection(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    """There is a connection, and a caller with only the public half does not get it."""
    owner = paramiko.PKey.from_path(mock_sshd.client_key)
    given = {**mock_sshd.connect_params, "client_keys": [owner]}
    with ssh_cache.lease(given) as (_, transport):
        again = paramiko.PKey.from_path(mock_sshd.client_key)
        with ssh_cache.lease({**given, "client_keys": [again]}) as (_, shared):
            assert shared is transport
        stranger = paramiko.PKey.from_type_string(owner.get_name(), owner.asbytes())
        with pytest.raises(SshConfigError, match="give the private key, or"):
            ssh_cache.lease({**given, "client_keys": [stranger]}).__enter__()
