"""
pytest fixtures for tests that need an SSH server; loaded if this package is installed.

``sshd``
    A real OpenSSH server on loopback, shared by the tests of a session.
``sshd_factory``
    Starts additional servers, with lines for ``sshd_config``.
``mock_sshd``
    A server inside the process; needs mock-ssh-server (the extra ``testing``) but no sshd.
``fault_proxy``
    Starts proxies in front of a server that cut, freeze, delay or corrupt connections.
``ssh_cache``
    A connection cache for one test.
``ssh_host_service``, ``ssh_fileshare``
    Create services for one of the servers, and enter their context.

A test that needs ``sshd`` is skipped if the machine has none.  ``--require-sshd``, or
``SSH_SERVICE_REQUIRE_SSHD=1`` in the environment, turns this skip into a failure.

Nothing is imported or started before a test uses it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Union

import pytest

if TYPE_CHECKING:
    from ssh_service.connections.cache import SshClientCache
    from ssh_service.ssh_fileshare import SshFileShareService
    from ssh_service.ssh_host_service import SshHostService
    from ssh_service.testing.fault_proxy import FaultProxy
    from ssh_service.testing.local_sshd import Sshd, find_sshd
    from ssh_service.testing.mock_sshd import MockSshd

    Server = Union[Sshd, MockSshd, FaultProxy]

__all__ = ["FaultProxy", "MockSshd", "Sshd", "find_sshd"]

_SSHD_MISSING = "needs OpenSSH's sshd (Debian: apt install openssh-server)"

# Imported on first use, because every pytest run imports this module.
_MODULES: Dict[str, str] = {
    "FaultProxy": "fault_proxy",
    "MockSshd": "mock_sshd",
    "Sshd": "local_sshd",
    "find_sshd": "local_sshd",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__package__}.{_MODULES[name]}"), name)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--require-sshd``."""
    parser.getgroup("ssh_service").addoption(
        "--require-sshd",
        action="store_true",
        default=os.environ.get("SSH_SERVICE_REQUIRE_SSHD", "") not in ("", "0"),
        help="fail instead of skipping if a test needs OpenSSH's sshd and there is none"
        " (also: SSH_SERVICE_REQUIRE_SSHD=1)",
    )


@pytest.fixture(scope="session")
def _session_sshd_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Sshd]]:
    """Return a function that starts servers, which are stopped when the session ends."""
    with _sshd_factory(request, tmp_path_factory) as factory:
        yield factory


@pytest.fixture(scope="session")
def _session_sshd(_session_sshd_factory: Callable[..., Sshd]) -> Sshd:
    return _session_sshd_factory()


@pytest.fixture
def sshd(_session_sshd: Sshd) -> Iterator[Sshd]:
    """
    Return the session's running `Sshd`, with `log` and `logins` starting at this test.

    After the test, the server is thawed, and the remaining connections are cut.
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
    """Return a function that starts an `Sshd` for this test; it takes the same `options`."""
    with _sshd_factory(request, tmp_path_factory) as factory:
        yield factory


@contextlib.contextmanager
def _sshd_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Sshd]]:
    from ssh_service.testing import local_sshd

    if local_sshd.find_sshd() is None:
        (pytest.fail if request.config.getoption("--require-sshd") else pytest.skip)(_SSHD_MISSING)
    with contextlib.ExitStack() as stack:
        yield lambda options=None: stack.enter_context(
            local_sshd.Sshd(tmp_path_factory.mktemp("sshd"), options)
        )


@pytest.fixture
def mock_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockSshd]:
    """Return a `MockSshd` for this test."""
    from ssh_service.testing.mock_sshd import MockSshd

    folder = tmp_path_factory.mktemp("mock_sshd")
    # Jobs are kept there, not in the user's home.
    with MockSshd(directory=folder, env={"XDG_STATE_HOME": str(folder / "state")}) as server:
        yield server


@pytest.fixture
def fault_proxy() -> Iterator[Callable[..., FaultProxy]]:
    """Return a function that starts a `FaultProxy` for a server, or for a host and port."""
    from ssh_service.testing.fault_proxy import FaultProxy

    with contextlib.ExitStack() as stack:
        yield lambda *server: stack.enter_context(FaultProxy(*server))


@pytest.fixture
def ssh_cache() -> Iterator[SshClientCache]:
    """Return an `SshClientCache` for this test; its connections are closed afterwards."""
    from ssh_service.connections.cache import SshClientCache

    cache = SshClientCache()
    yield cache
    cache.cleanup()


@pytest.fixture
def ssh_host_service() -> Iterator[Callable[..., SshHostService]]:
    """
    Return a function that creates an `SshHostService` for a server, or for a proxy before one.

    The function takes the server, and settings that extend or replace those for the server.  The
    service is in its context until the test ends.  Pass the server's `target` to each call.
    """
    from ssh_service.ssh_host_service import SshHostService

    with contextlib.ExitStack() as stack:

        def make(server: Server, **settings: Any) -> SshHostService:
            return stack.enter_context(SshHostService({**server.service_config, **settings}))

        yield make


@pytest.fixture
def ssh_fileshare() -> Iterator[Callable[..., SshFileShareService]]:
    """Return a function that creates an `SshFileShareService`, like `ssh_host_service`."""
    from ssh_service.ssh_fileshare import SshFileShareService

    with contextlib.ExitStack() as stack:

        def make(server: Server, **settings: Any) -> SshFileShareService:
            return stack.enter_context(SshFileShareService({**server.service_config, **settings}))

        yield make
