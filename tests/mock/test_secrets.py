"""A caller's secrets show in no frame of a traceback, even if its locals are collected."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from ssh_service import (
    SshClient,
    SshClientCache,
    SshServiceError,
    download,
    fleet,
    operations,
    params,
    run,
    start,
    upload,
)
from ssh_service.errors import SshAuthError, SshConnectError
from ssh_service.fleet import task as tasks
from ssh_service.fleet.worker import HostTask
from ssh_service.testing.mock_sshd import MockSshd
from tests.common import assert_no_frame_knows
from tests.keys import needs_ssh_keygen

MARKER = "a-marker-that-must-not-show"
KEY = f"-----BEGIN PRIVATE KEY-----\n{MARKER}\n-----END PRIVATE KEY-----\n"


def first(results: fleet.Results) -> Any:
    """Raise what the only host came to."""
    (result,) = results
    assert result.error is not None
    raise result.error


def leased(cache: SshClientCache, to: Dict[str, Any]) -> None:
    with cache.lease(to):
        pass


def without_host(to: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in to.items() if name != "host"}


CALLS: Dict[str, Callable[[SshClientCache, Dict[str, Any], str], Any]] = {
    "run": lambda cache, to, path: run(to, "true", cache=cache),
    "start": lambda cache, to, path: start(to, "true", cache=cache).result(),
    "upload": lambda cache, to, path: upload(to, path, "x", cache=cache),
    "download": lambda cache, to, path: download(to, "x", path, cache=cache),
    "lease": lambda cache, to, path: leased(cache, to),
    "get": lambda cache, to, path: cache.get_client_connection(to),
    "id": lambda cache, to, path: SshClient.id_from_params(to),
    "submit": lambda cache, to, path: operations.submit(cache, to, "true").result(),
    "remote.upload": lambda cache, to, path: operations.upload(cache, to, path, "x"),
    "remote.download": lambda cache, to, path: operations.download(cache, to, "x", path),
    "fleet.run": lambda cache, to, path: first(fleet.run([to], "true", cache=cache)),
    "fleet.connect": lambda cache, to, path: first(
        fleet.run([to["host"]], "true", connect=without_host(to), cache=cache)
    ),
    "fleet.upload": lambda cache, to, path: first(fleet.upload([to], path, "x", cache=cache)),
}
SECRETS = {
    "password": MARKER,
    "passphrase": MARKER.encode(),
    "client_keys": KEY,
    "tunnel": {"host": "127.0.0.1", "password": MARKER, "client_keys": [KEY.encode()]},
}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("call", CALLS)
def test_wrong_setting_shows_no_secret(
    ssh_cache: SshClientCache, tmp_path: Path, call: str, name: str
) -> None:
    given = {"host": "127.0.0.1", "config": None, "port": "x", name: SECRETS[name]}
    with pytest.raises(SshServiceError) as caught:
        CALLS[call](ssh_cache, given, str(tmp_path))
    assert_no_frame_knows(caught.value, MARKER)


@pytest.mark.parametrize("call", [call for call in CALLS if call != "id"])
def test_refused_login_shows_no_secret(
    mock_sshd: MockSshd, ssh_cache: SshClientCache, tmp_path: Path, call: str
) -> None:
    given = {**mock_sshd.connect_params, "client_keys": None, "password": MARKER}
    given["agent_path"] = None
    with pytest.raises(SshAuthError) as caught:
        CALLS[call](ssh_cache, given, str(tmp_path))
    assert_no_frame_knows(caught.value, MARKER)


@needs_ssh_keygen
def test_failing_callable_shows_no_secret(mock_sshd: MockSshd, ssh_cache: SshClientCache) -> None:
    def fail() -> str:
        raise RuntimeError(MARKER)

    given = {**mock_sshd.connect_params, "client_keys": None, "password": fail}
    with pytest.raises(SshConnectError, match="RuntimeError") as caught:
        run(given, "true", cache=ssh_cache)
    assert_no_frame_knows(caught.value, MARKER)
    shown = []
    error: Any = caught.value
    while error is not None:
        shown.append(str(error))
        error = error.__cause__ or error.__context__
    assert MARKER not in " ".join(shown)


def test_job_shows_no_secret_and_takes_it_along(caplog: pytest.LogCaptureFixture) -> None:
    """To another process secrets go unencrypted, in a pickle; one warning says so."""
    tasks._warned.clear()
    given = {"host": "a", "password": MARKER, "client_keys": [KEY.encode()], "port": 1}
    fleet_task = tasks.FleetTask("run", {}, params.conceal(given), None)
    task = HostTask("run", 0, params.conceal(given), fleet_task)
    assert MARKER not in repr(task)
    text = pickle.dumps(task)
    assert MARKER.encode() in text
    again = pickle.loads(text)
    assert MARKER not in repr(again)
    assert params.reveal(again.host) == given == params.reveal(again.task.connect)
    assert caplog.text.count("unencrypted, in a pickle") == 1


def test_job_without_secrets_goes_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    tasks._warned.clear()
    task = HostTask("run", 0, "web", tasks.FleetTask("run", {}, {"client_keys": ["/k"]}, None))
    assert pickle.loads(pickle.dumps(task)) == task
    assert not caplog.text
