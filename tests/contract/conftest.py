"""Fixtures of the contract's tests: services in their context, and a real sshd to talk to."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, Optional, Tuple

import pytest

from ssh_service import SshFileShareService, SshHostService, Status
from ssh_service.testing.pytest_plugin import Sshd

FUTURE = "asyncRemoteExecResultsFuture"
Outcome = Tuple[Status, Dict[str, Any]]


@pytest.fixture
def config(sshd: Sshd) -> Dict[str, Any]:
    """Return what a service needs to know to log in at `sshd`."""
    return config_for(sshd)


def config_for(sshd: Sshd, **more: Any) -> Dict[str, Any]:
    return {
        "ssh_port": sshd.port,
        "ssh_username": sshd.username,
        "ssh_priv_key_path": sshd.client_key,
        "ssh_known_hosts_path": sshd.known_hosts,
        "ssh_config": None,
        **more,
    }


@pytest.fixture
def call(sshd: Sshd) -> Dict[str, Any]:
    """Return a call's parameters."""
    return {"ssh_hostname": sshd.host}


@pytest.fixture
def host(config: Dict[str, Any]) -> Iterator[SshHostService]:
    with SshHostService(config) as service:
        yield service


@pytest.fixture
def share(config: Dict[str, Any]) -> Iterator[SshFileShareService]:
    with SshFileShareService(config) as service:
        yield service


def results(service: SshHostService, info: Dict[str, Any], within: float = 60.0) -> Outcome:
    """Return results, but fail instead of waiting without end."""
    info[FUTURE].exception(timeout=within)
    return service.get_remote_exec_results(info)


def catch_up(host: SshHostService, call: Dict[str, Any]) -> None:
    """See that what commands have written so far has arrived: their server sends it in order."""
    _, info = host.remote_exec("true", call, {})
    assert results(host, info)[0] == Status.SUCCEEDED


Run = Callable[..., Outcome]


@pytest.fixture
def run(host: SshHostService, call: Dict[str, Any]) -> Run:
    """Return a function that runs a script at `sshd` and fetches its results."""

    def run_one(script: Any, env: Optional[Dict[str, Any]] = None, **more: Any) -> Outcome:
        _, info = host.remote_exec(script, {**call, **more}, env or {})
        return results(host, info)

    return run_one
