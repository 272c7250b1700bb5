"""Keywords of ssh_config that take trust away, at a real server; the referee is ssh itself."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest

from ssh_service import SshClientCache, SshServiceError, run
from ssh_service.errors import SshAuthError
from ssh_service.testing.pytest_plugin import Sshd
from tests.keys import generated, needs_ssh_keygen, public_line

pytestmark = needs_ssh_keygen


def ssh_goes_through(config: Path) -> bool:
    said = subprocess.run(
        ["ssh", "-F", str(config), "web1", "true"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    for complaint in (b"Bad configuration option", b"unsupported option"):
        if complaint in said.stderr:
            pytest.skip(f"this ssh is too old for it: {said.stderr.decode()}")
    return said.returncode == 0


def we_go_through(cache: SshClientCache, config: Path) -> bool:
    given = {"host": "web1", "config": str(config), "agent_path": None}
    try:
        return run(given, "true", cache=cache, timeout=60).exit_status == 0
    except SshServiceError:
        return False


def write(folder: Path, server: Sshd, *lines: str, key: str = "") -> Path:
    path = folder / "config"
    path.write_text(
        f"Host web1\n HostName {server.host}\n Port {server.port}\n User {server.username}\n"
        f" IdentityFile {key or server.client_key}\n IdentitiesOnly yes\n BatchMode yes\n"
        f" UserKnownHostsFile {server.known_hosts}\n GlobalKnownHostsFile none\n"
        + "".join(f" {line}\n" for line in lines)
    )
    return path


LINES = {
    "": True,
    "PubkeyAuthentication no": False,
    "PubkeyAuthentication unbound": True,
    "PasswordAuthentication no": True,
    "KbdInteractiveAuthentication no": True,
    "PubkeyAcceptedAlgorithms ssh-ed25519": True,
    "PubkeyAcceptedAlgorithms rsa-sha2-512,ecdsa-*": False,
    "PubkeyAcceptedAlgorithms -ssh-ed25519": False,
    "RequiredRSASize 4096": True,
    "CASignatureAlgorithms rsa-sha2-512": True,
    "RevokedHostKeys none": True,
    "RevokedHostKeys {folder}/empty": True,
    "RevokedHostKeys {folder}/other": True,
    "RevokedHostKeys {folder}/ours": False,
    "RevokedHostKeys {folder}/broken": False,
    "RevokedHostKeys {folder}/missing": False,
    "StrictHostKeyChecking no\n RevokedHostKeys {folder}/ours": False,
    "StrictHostKeyChecking no\n RevokedHostKeys {folder}/missing": False,
}


@pytest.mark.parametrize("line", LINES)
def test_keyword_does_what_it_does_for_ssh(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path, line: str
) -> None:
    ours = Path(sshd.host_key + ".pub").read_text()
    (tmp_path / "empty").touch()
    (tmp_path / "ours").write_text(f"# revoked\n{ours}")
    (tmp_path / "other").write_text(public_line("host-a") + "\n")
    (tmp_path / "broken").write_text("no key at all\n")
    config = write(tmp_path, sshd, line.format(folder=tmp_path))
    assert ssh_goes_through(config) == LINES[line]
    assert we_go_through(cache, config) == LINES[line]


RSA_LINES = {
    "": True,
    "PubkeyAcceptedAlgorithms rsa-sha2-512": True,
    "PubkeyAcceptedAlgorithms rsa-sha2-256": False,  # the server takes only the other
    "PubkeyAcceptedAlgorithms -rsa-sha2-512": False,
    "RequiredRSASize 2048": True,
    "RequiredRSASize 3000": False,
}


@pytest.mark.parametrize("line", RSA_LINES)
def test_rsa_key_signs_by_what_ssh_would_sign_by(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache, tmp_path: Path, line: str
) -> None:
    key = generated("accepted-rsa", "rsa")
    # The option's name until OpenSSH 8.5, which later releases know, too.
    server = sshd_factory(options={"PubkeyAcceptedKeyTypes": "rsa-sha2-512"})
    Path(server.authorized_keys).write_text(key.with_name(key.name + ".pub").read_text())
    config = write(tmp_path, server, line, key=str(key))
    assert ssh_goes_through(config) == RSA_LINES[line]
    assert we_go_through(cache, config) == RSA_LINES[line]


def test_login_without_keys_says_what_none_means(sshd: Sshd, cache: SshClientCache) -> None:
    """Amendment 6: `client_keys=None` is asyncssh's "no login by key", the agent included."""
    given: Any = {**sshd.connect_params, "client_keys": None}
    with pytest.raises(SshAuthError, match="client_keys=None was given") as caught:
        run(given, "true", cache=cache)
    assert not any(tried.startswith("publickey") for tried in caught.value.tried)


def test_refused_login_names_the_line_that_switched_keys_off(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    config = write(tmp_path, sshd, "PubkeyAuthentication no")
    with pytest.raises(SshAuthError, match=r"publickey is off \(.*config:10: pubkeyauth"):
        run({"host": "web1", "config": str(config)}, "true", cache=cache)
