"""
Fixtures for tests that need an SSH server; pytest finds them where this package is installed.

``sshd``
    A real OpenSSH server on loopback, shared by the tests of a session.
``sshd_factory``
    Makes servers of your own, with lines for ``sshd_config``.
``mock_sshd``
    A server inside the process; needs the package mock-ssh-server, and no sshd.
``fault_proxy``
    Makes proxies in front of a server, which cut, freeze, delay or corrupt.

A test that needs ``sshd`` is skipped where there is none; ``--require-sshd``, or
``SSH_SERVICE_REQUIRE_SSHD=1`` in the environment, turns that skip into a failure.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Callable, Iterator

import pytest

from ssh_service.fault_proxy import FaultProxy
from ssh_service.local_sshd import Sshd, find_sshd

__all__ = ["FaultProxy", "MockSshd", "Sshd", "find_sshd"]  # noqa: F822

_MISSING = "needs OpenSSH's sshd (Debian: apt install openssh-server)"


def __getattr__(name: str) -> Any:
    if name == "MockSshd":  # only on demand: it needs mock-ssh-server
        from ssh_service.mock_sshd import MockSshd

        return MockSshd
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--require-sshd``."""
    parser.getgroup("ssh_service").addoption(
        "--require-sshd",
        action="store_true",
        default=os.environ.get("SSH_SERVICE_REQUIRE_SSHD", "") not in ("", "0"),
        help="fail, not skip, where a test needs OpenSSH's sshd and there is none"
        " (also: SSH_SERVICE_REQUIRE_SSHD=1)",
    )


@pytest.fixture(scope="session")
def _session_sshd_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Sshd]]:
    """Return what makes servers, stopped when the session ends."""
    with _sshd_factory(request, tmp_path_factory) as factory:
        yield factory


@pytest.fixture(scope="session")
def _session_sshd(_session_sshd_factory: Callable[..., Sshd]) -> Sshd:
    return _session_sshd_factory()


@pytest.fixture
def sshd(_session_sshd: Sshd) -> Iterator[Sshd]:
    """
    Return the session's `Sshd`, up and thawed, its `log` and `logins` beginning with this test.

    Whatever the test does to it is undone: connections that are left are cut afterwards.
    """
    if not _session_sshd.running:
        _session_sshd.restart()
    _session_sshd.mark()
    yield _session_sshd
    _session_sshd.thaw()
    _session_sshd.cut()


@pytest.fixture
def sshd_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Sshd]]:
    """Return a function that makes an `Sshd` of your own; it takes `options` as that does."""
    with _sshd_factory(request, tmp_path_factory) as factory:
        yield factory


@contextlib.contextmanager
def _sshd_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Sshd]]:
    if find_sshd() is None:
        (pytest.fail if request.config.getoption("--require-sshd") else pytest.skip)(_MISSING)
    with contextlib.ExitStack() as stack:
        yield lambda options=None: stack.enter_context(
            Sshd(tmp_path_factory.mktemp("sshd"), options)
        )


@pytest.fixture
def mock_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a `MockSshd` of this test's own."""
    from ssh_service.mock_sshd import MockSshd

    with MockSshd(directory=tmp_path_factory.mktemp("mock_sshd")) as server:
        yield server


@pytest.fixture
def fault_proxy() -> Iterator[Callable[[str, int], FaultProxy]]:
    """Return a function that puts a `FaultProxy` in front of a host and port."""
    with contextlib.ExitStack() as stack:
        yield lambda host, port: stack.enter_context(FaultProxy(host, port))
