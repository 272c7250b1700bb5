"""Which exceptions came from outside: from a signal handler, or a callback of the user's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest

from ssh_service.copying.local.target_folder import TargetFolder, open_folder
from ssh_service.errors import SshConfigError, SshConnectionLost
from ssh_service.interruptions import find_interruption, is_interruption
from ssh_service.params import resolve


def handler() -> None:
    """Raise what the usual recipe of a time limit raises."""
    raise TimeoutError("time is up")


def caught(function: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as info:
        function()
    return info.value


def test_is_interruption_of_a_users_function_is_true() -> None:
    """Whatever its type: the time limit of a task queue may be an OSError."""
    assert is_interruption(caught(handler))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_is_interruption_of_ctrl_c_is_true(kind: type) -> None:
    assert is_interruption(kind())


def test_is_interruption_of_a_failed_call_is_false() -> None:
    """An exception of the standard library or of our own code is an ordinary failure."""
    found = caught(Path("/no/such/file").read_bytes)
    assert isinstance(found, OSError) and not is_interruption(found)
    ours = caught(lambda: resolve({"host": "web1", "port": "x"}))
    assert isinstance(ours, SshConfigError) and not is_interruption(ours)


def test_find_interruption_follows_the_causes() -> None:
    """An error that followed from an interruption leads back to it."""

    def send() -> None:
        try:
            handler()
        except OSError as error:
            raise SshConnectionLost("writing failed") from error

    error = caught(send)
    assert find_interruption(error, None) is error.__cause__


def test_find_interruption_ends_at_what_the_caller_handles() -> None:
    """A copy that is made in an ``except`` block has nothing to do with what is handled there."""
    try:
        handler()
    except TimeoutError as outer:
        error = caught(Path("/no/such/file").read_bytes)
        assert error.__context__ is outer
        assert find_interruption(error, outer) is None


def test_a_time_limit_ends_the_reading_of_a_key_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an OSError, like the lack of the file, and no reason to do without the file."""
    target = resolve({"host": "web1", "client_keys": ["/nowhere/key"], "config": None})
    assert target.key
    monkeypatch.setattr(os, "stat", lambda *_, **__: handler())
    with pytest.raises(TimeoutError, match="time is up"):
        resolve({"host": "web1", "client_keys": ["/nowhere/key"], "config": None}).key


def test_a_time_limit_ends_the_search_for_unfinished_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an OSError, like the lack of a permission, and no reason to go on without."""
    path = os.fsencode(tmp_path)
    folder = TargetFolder(open_folder(path), path)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", lambda *_, **__: handler())
            with pytest.raises(TimeoutError, match="time is up"):
                folder.remove_stale_files(may_resume=False)
        folder.remove_stale_files(may_resume=False)
    finally:
        folder.close()
