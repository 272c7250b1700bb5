"""Fixtures of the tests with the real mlos_bench; without it, nothing is collected."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from ssh_service.testing.pytest_plugin import Sshd

if importlib.util.find_spec("mlos_bench") is None or os.environ.get("SSH_SERVICE_STANDALONE"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def installed() -> Iterator[None]:
    """Have mlos_bench use our services during a test."""
    from ssh_service.mlos_bench import install, uninstall

    install()
    yield
    uninstall()


def settings_for(sshd: Sshd) -> Dict[str, Any]:
    """Return a service's config to log in at a server, in words that the original knows too."""
    return {
        "ssh_port": sshd.port,
        "ssh_username": sshd.username,
        "ssh_priv_key_path": sshd.client_key,
        "ssh_known_hosts_path": sshd.known_hosts,
    }


@pytest.fixture
def settings(sshd: Sshd) -> Dict[str, Any]:
    return settings_for(sshd)


@pytest.fixture
def call(sshd: Sshd) -> Dict[str, Any]:
    """Return a call's parameters."""
    return {"ssh_hostname": sshd.host}


@pytest.fixture(autouse=True)
def nobody_at_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> Path:
    """Let neither the tests nor what they start read files of the user who runs them."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return home


@pytest.fixture(autouse=True)
def not_ours_to_mend() -> None:
    """Ignore warnings that an old mlos_bench gets from newer libraries."""
    warnings.filterwarnings("ignore", "errors='ignore' is deprecated", FutureWarning)
