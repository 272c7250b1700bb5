"""Fixtures of the tests against a real sshd."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from ssh_service import SshClientCache
from ssh_service.testing.pytest_plugin import Sshd
from tests.sshd import jobs


@pytest.fixture
def cache(ssh_cache: SshClientCache) -> SshClientCache:
    """Return a cache of the test's own, by the name that most tests know it by."""
    return ssh_cache


@pytest.fixture(scope="module")
def _job_host(
    _session_sshd: Sshd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[jobs.JobHost]:
    with jobs.job_host(tmp_path_factory.mktemp("jobs")) as host:
        yield host


@pytest.fixture
def job_host(_job_host: jobs.JobHost) -> Iterator[jobs.JobHost]:
    """Return a server whose jobs have a folder of the module's own; jobs may outlive tests."""
    yield _job_host
    if not _job_host.sshd.running:
        _job_host.sshd.restart()
    _job_host.sshd.thaw()
    _job_host.sshd.cut()


def make_home(home: Path, hosts: str, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder the home of a user for whom `hosts`, as in ssh_config, are the server."""
    ssh = home / ".ssh"
    ssh.mkdir()
    key = Path(sshd.known_hosts).read_text().split(" ", 1)[1]
    (ssh / "known_hosts").write_text(f"web1 {key}")
    (ssh / "config").write_text(
        f"Host {hosts}\n HostName {sshd.host}\n Port {sshd.port}\n HostKeyAlias web1\n"
        f" IdentityFile {sshd.client_key}\n IdentitiesOnly yes\n"
    )
    (home / "site").mkdir()
    (home / "site" / "index.html").write_text("hello")
    (home / "setup.sh").write_text('echo "mode $MODE"')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.chdir(home)
