"""FIDO keys: a token is played by an agent, and OpenSSH's server judges what it signs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable

import pytest

from ssh_service import params
from ssh_service.connect import dial
from ssh_service.errors import SshAuthError, SshConfigError
from ssh_service.testing.pytest_plugin import Sshd
from ssh_service.transport import SshTransport
from tests.integration.token_agent import TOKEN_KEYS, TokenAgent, TokenKey
from tests.keys import certify, generated


def connect(server: Sshd, **given: Any) -> SshTransport:
    found = params.resolve({**server.connect_params, "client_keys": (), **given})
    return dial(found, time.monotonic() + 10)


@pytest.fixture(params=TOKEN_KEYS)
def key(request: pytest.FixtureRequest) -> TokenKey:
    return TokenKey(request.param)


@pytest.fixture
def path(key: TokenKey, tmp_path: Path) -> Path:
    """Return a key file as ssh-keygen writes it for a token."""
    return key.write(tmp_path / "id_sk")


@pytest.fixture
def server(sshd_factory: Callable[..., Sshd], path: Path) -> Sshd:
    server = sshd_factory()
    Path(server.authorized_keys).write_text(Path(f"{path}.pub").read_text())
    return server


@pytest.fixture
def agent(key: TokenKey, tmp_path: Path) -> Any:
    with TokenAgent(str(tmp_path / "agent"), key) as agent:
        yield agent


def test_a_token_behind_an_agent_logs_in(server: Sshd, key: TokenKey, agent: TokenAgent) -> None:
    connect(server, agent_path=agent.path).close()
    assert agent.signed == [(key.blob, 0)]
    assert server.logins() == 1


def test_security_key_that_was_not_touched_is_refused(
    server: Sshd, key: TokenKey, agent: TokenAgent
) -> None:
    key.flags = 0
    with pytest.raises(SshAuthError, match=r"agent key SHA256:.* \(my token\): refused"):
        connect(server, agent_path=agent.path)
    assert server.logins() == 0


def test_a_key_file_of_a_token_is_served_by_the_agent_that_holds_it(
    server: Sshd, path: Path, agent: TokenAgent
) -> None:
    for given in (path, f"{path}.pub"):
        connect(server, agent_path=agent.path, client_keys=given, identities_only=True).close()
    with pytest.raises(SshConfigError, match=r"id_sk' has the type sk-.*, a FIDO key"):
        connect(server, agent_path=None, client_keys=path)


def test_a_token_with_a_certificate_logs_in(
    server: Sshd, path: Path, agent: TokenAgent, sshd_factory: Callable[..., Sshd]
) -> None:
    """Its file is next to the key's."""
    authority = generated("user-ca")
    shown = certify(path, authority, host=False, principals=server.username)
    (path.parent / "id_sk-cert.pub").write_text(shown.read_text())
    trusting = sshd_factory(
        {"TrustedUserCAKeys": f"{authority}.pub", "AuthorizedKeysFile": "none"}
    )
    connect(trusting, agent_path=agent.path, client_keys=path, identities_only=True).close()
    assert trusting.logins() == 1 and "ID the-id" in trusting.log()
