"""Which handles of a session are open: what a server gives again is known to be closed."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import pytest

from ssh_service.copying.sftp.handles import HandleGivenTwice, OpenHandles
from ssh_service.copying.sftp.reply import Reply

INBOX: Any = SimpleQueue()


def reply(arrival: int = 0) -> Reply:
    made = Reply(INBOX, 1)
    made.arrival = arrival
    return made


def test_on_opened_handle_of_an_open_file_is_an_error() -> None:
    handles = OpenHandles()
    handles.on_opened(b"1", b"/a", reply(1))
    with pytest.raises(HandleGivenTwice):
        handles.on_opened(b"1", b"/b", reply(2))


def test_on_opened_handle_of_a_closed_file_is_no_error() -> None:
    """Servers number their open files, and give a number again."""
    handles = OpenHandles()
    handles.on_opened(b"1", b"/a", reply(1))
    handles.on_closing(b"1", reply(2))
    handles.on_opened(b"1", b"/b", reply(3))
    handles.on_granted(2)
    assert handles.count() == 1


def test_on_closing_twice_counts_the_request_that_was_sent() -> None:
    """A signal handler's exception kept the first request from being sent; another closed it."""
    handles = OpenHandles()
    handles.on_opened(b"1", b"/a", reply(1))
    handles.on_closing(b"1", reply())
    handles.on_closing(b"1", reply(2))
    handles.on_opened(b"1", b"/b", reply(3))
    handles.on_granted(2)
    assert handles.count() == 1
