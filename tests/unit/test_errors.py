"""The tree of errors: what each one also is, and what of it survives."""

from __future__ import annotations

import concurrent.futures
import copy
import errno
import inspect
import pickle
import re
import traceback
from pathlib import Path
from typing import Any, Dict, List, Type

import paramiko
import pytest

from ssh_service import errors
from ssh_service.commands.result import CompletedProcess
from ssh_service.errors import SshServiceError, copy_for_raise, transfer_error

LEAVES: List[Type[SshServiceError]] = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, SshServiceError) and cls.__module__ == errors.__name__
]
EXTRAS: Dict[str, Any] = {
    "connection_id": "me@here:22",
    "phase": "some phase",
    "expected": "SHA256:a",
    "received": "SHA256:b",
    "tried": ("publickey", "password"),
    "process": {"output": "so far"},
    "sent": False,
    "reason": "silence",
    "code": 4,
    "text": "no room",
    "ended": True,
}


def full(cls: Type[SshServiceError]) -> SshServiceError:
    """Make an error with every attribute it can have."""
    names = inspect.signature(cls.__init__).parameters
    error = cls("what happened", **{name: EXTRAS[name] for name in EXTRAS if name in names})
    if isinstance(error, OSError):
        error.errno, error.strerror, error.filename = errno.EIO, "broken", "/a/path"
    setattr(error, "__notes__", ["a note"])
    return error


def facts(error: BaseException) -> Dict[str, Any]:
    found = {**error.__dict__, "args": error.args, "text": str(error), "class": type(error)}
    for name in ("errno", "strerror", "filename"):
        found[name] = getattr(error, name, None)
    return found


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickling_with_its_attributes(
    cls: Type[SshServiceError], protocol: int
) -> None:
    error = full(cls)
    assert facts(pickle.loads(pickle.dumps(error, protocol))) == facts(error)
    assert facts(copy.copy(error)) == facts(error)


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_copy_for_raise_makes_an_equal_new_error(cls: Type[SshServiceError]) -> None:
    error = full(cls)
    try:
        raise error
    except SshServiceError:
        before = len(traceback.extract_tb(error.__traceback__))
    for _ in range(3):
        own = copy_for_raise(error)
        assert own is not error
        assert facts(own) == facts(error)
        assert own.__traceback__ is None
        with pytest.raises(cls):
            raise own from error
    assert len(traceback.extract_tb(error.__traceback__)) == before


@pytest.mark.parametrize(
    "cls, builtin",
    [
        (errors.SshConfigError, ValueError),
        (errors.SshConnectError, ConnectionError),
        (errors.SshHostKeyError, ConnectionError),
        (errors.SshAuthError, ConnectionError),
        (errors.SshAuthError, PermissionError),
        (errors.SshConnectTimeout, ConnectionError),
        (errors.SshConnectTimeout, TimeoutError),
        (errors.SshConnectionLost, ConnectionError),
        (errors.SshSessionRefused, ConnectionError),
        (errors.SshConnectError, paramiko.SSHException),
        (errors.SshHostKeyError, paramiko.SSHException),
        (errors.SshAuthError, paramiko.AuthenticationException),
        (errors.SshConnectTimeout, paramiko.SSHException),
        (errors.SshConnectionLost, paramiko.SSHException),
        (errors.SshSessionRefused, paramiko.ChannelException),
        (errors.SshCommandTimeout, TimeoutError),
        (errors.SshCommandCancelled, concurrent.futures.CancelledError),
        (errors.SshCacheClosed, RuntimeError),
        (errors.SshTransferError, OSError),
        (errors.SshFileNotFoundError, FileNotFoundError),
        (errors.SshFileExistsError, FileExistsError),
        (errors.SshTransferPermissionError, PermissionError),
        (errors.SshIsADirectoryError, IsADirectoryError),
        (errors.SshNotADirectoryError, NotADirectoryError),
    ],
)
def test_each_leaf_is_what_others_would_catch(
    cls: Type[SshServiceError], builtin: Type[BaseException]
) -> None:
    assert issubclass(cls, builtin)
    with pytest.raises(builtin, match="^what happened$"):
        raise cls("what happened")


def test_every_error_can_be_made_of_a_text_alone() -> None:
    assert len(LEAVES) >= 18
    for cls in LEAVES:
        assert str(cls("what happened")) == "what happened"
        assert str(cls()) == ""
        assert cls().args == ("",)


@pytest.mark.parametrize(
    "code, cls",
    [
        (errno.ENOENT, errors.SshFileNotFoundError),
        (errno.EEXIST, errors.SshFileExistsError),
        (errno.EACCES, errors.SshTransferPermissionError),
        (errno.EPERM, errors.SshTransferPermissionError),
        (errno.EISDIR, errors.SshIsADirectoryError),
        (errno.ENOTDIR, errors.SshNotADirectoryError),
        (errno.ENOSPC, errors.SshTransferError),
    ],
)
def test_a_transfer_error_has_the_leaf_of_its_errno(code: int, cls: Type[Exception]) -> None:
    error = transfer_error(code, "/some/file", connection_id="me@here:22")
    assert type(error) is cls
    assert (error.errno, error.filename) == (code, "/some/file")
    assert str(error).startswith("me@here:22: '/some/file': ")
    assert facts(pickle.loads(pickle.dumps(error))) == facts(error)


def test_the_output_so_far_survives_pickling_with_its_error() -> None:
    process = CompletedProcess("echo", {"A": "b"}, b"out\xff", b"", -1, ("KILL", False, "", ""))
    error = errors.SshCommandTimeout("too long", process=process, ended=True)
    copied = pickle.loads(pickle.dumps(error))
    assert copied.process.stdout == "out\\xff"
    assert copied.process.returncode == -9
    assert copied.ended is True


class Untold(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_reason_of_gives_a_text_for_every_error() -> None:
    assert errors.reason_of(ValueError("why")) == "why"
    assert errors.reason_of(ValueError()) == "ValueError"
    assert errors.reason_of(Untold()) == "Untold (its text is not available: RuntimeError)"


def test_a_refused_session_has_the_fields_of_paramikos_exception() -> None:
    error = errors.SshSessionRefused("refused: no room", code=4, text="no room")
    assert (error.code, error.text, str(error)) == (4, "no room", "refused: no room")


# Which may be tried again.


def permanent() -> errors.SshConnectError:
    error = errors.SshConnectError("no algorithm in common", phase="kex")
    error.permanent = True
    return error


EXAMPLES: Dict[str, SshServiceError] = {
    "`SshConnectError`": errors.SshConnectError("refused", phase="tcp"),
    "`SshConnectError`, `permanent`": permanent(),
    "`SshConnectTimeout`": errors.SshConnectTimeout("too long", phase="tcp"),
    "`SshHostKeyError`": errors.SshHostKeyError("changed"),
    "`SshAuthError`": errors.SshAuthError("refused"),
    "`SshSessionRefused`, `code` 2 or 4": errors.SshSessionRefused("full", code=4),
    "`SshSessionRefused`, other `code`": errors.SshSessionRefused("never", code=1),
    "`SshConnectionLost`, not `sent`": errors.SshConnectionLost("lost", sent=False),
    "`SshConnectionLost`, `sent`": errors.SshConnectionLost("lost", sent=True),
    "`SshConnectionLost`, `phase` `file`": errors.SshConnectionLost("lost", phase="file"),
    "`SshConnectionLost`, `phase` `copy`": errors.SshConnectionLost("lost", phase="copy"),
    "`SshCommandTimeout`, `phase` `queue`": errors.SshCommandTimeout("late", phase="queue"),
    "`SshCommandTimeout`, `phase` `run`": errors.SshCommandTimeout("late"),
    "`SshJobTimeout`": errors.SshJobTimeout("late"),
    "`SshTransferTimeout`": errors.SshTransferTimeout("late"),
}


def table_of_retryable() -> Dict[str, bool]:
    text = (Path(__file__).resolve().parents[2] / "docs" / "errors.md").read_text("utf-8")
    section = text.partition("## May I try again?")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (yes|no) \| .+ \|$", section, re.MULTILINE)
    return {error: answer == "yes" for error, answer in rows}


def test_the_page_says_of_each_error_whether_to_try_again() -> None:
    """The page contradicted itself and the code."""
    table = table_of_retryable()
    assert table.pop("every other error") is False
    assert table == {name: error.retryable for name, error in EXAMPLES.items()}
    named = {type(error) for error in EXAMPLES.values()}
    for cls in set(LEAVES) - named:
        assert not cls("what happened").retryable, cls


def test_retryable_survives_pickling() -> None:
    for error in EXAMPLES.values():
        assert pickle.loads(pickle.dumps(error)).retryable == error.retryable
        assert copy_for_raise(error).retryable == error.retryable


def test_another_host_key_is_never_retryable() -> None:
    assert not errors.SshConnectionLost("lost", sent=False, reason="host key").retryable
    assert errors.SshSessionRefused("refused", code=2).retryable
