"""A paramiko whose private parts moved fails at first use, and says where."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any, List, Tuple, Type

import paramiko
import pytest
from paramiko.channel import Channel
from paramiko.packet import Packetizer

from ssh_service.transport import SshChannel, SshTransport, paramiko_check
from ssh_service.transport.packets import SshPacketizer
from ssh_service.transport.paramiko_check import _NEEDED, _REPLACED, check_paramiko

check = check_paramiko.__wrapped__  # the check itself, without the memory of its result


def needed() -> List[Tuple[Any, str]]:
    # Without `run`, each transport would still have a thread's.
    return [(owner, name) for owner, names in _NEEDED.items() for name in names if name != "run"]


def test_the_installed_paramiko_passes() -> None:
    check()
    check_paramiko()


@pytest.mark.parametrize(
    "owner, name", needed(), ids=[f"{owner.__name__}.{name}" for owner, name in needed()]
)
def test_a_part_that_is_gone_is_named(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = next(cls for cls in owner.__mro__ if name in vars(cls))
    monkeypatch.delattr(holder, name)
    with pytest.raises(ImportError, match=f"does not support.*{name}"):
        check()


@pytest.mark.parametrize(
    "owner, name", [(owner, name) for owner, names in _REPLACED.items() for name in names]
)
def test_an_attribute_that_is_gone_is_named(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = owner.__init__

    def without(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        delattr(self, name)

    monkeypatch.setattr(owner, "__init__", without)
    with pytest.raises(ImportError, match=f"does not support.*{name} is gone"):
        check()


@pytest.mark.parametrize(
    "ours, theirs",
    [(SshTransport, paramiko.Transport), (SshChannel, Channel), (SshPacketizer, Packetizer)],
)
def test_paramiko_check_covers_every_override(ours: Type[Any], theirs: Type[Any]) -> None:
    layers = ours.__mro__[: ours.__mro__.index(theirs)]
    names = {name for layer in layers for name in vars(layer) if not name.startswith("__")}
    overridden = {name for name in names if name.startswith("_") and hasattr(theirs, name)}
    assert overridden <= set(_NEEDED[theirs])


def test_a_channel_has_the_fields_that_paramiko_gives_it() -> None:
    assert vars(Channel(7)).keys() - {"logger"} <= vars(SshChannel(7)).keys()


def test_a_new_object_of_a_channel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel of ours would not have it, as paramiko's ``__init__`` is not called."""
    init = Channel.__init__

    def more(self: Any, chanid: int) -> None:
        init(self, chanid)
        self.further_lock = threading.Lock()

    monkeypatch.setattr(Channel, "__init__", more)
    with pytest.raises(ImportError, match="Channel.further_lock is new"):
        check()


def test_nothing_is_looked_for_that_is_not_used() -> None:
    sources = Path(paramiko_check.__file__).parent.glob("*.py")
    text = "".join(path.read_text() for path in sources)
    names = [name for _, name in needed()] + [
        name for names in _REPLACED.values() for name in names
    ]
    assert not [name for name in names if not re.search(rf'\b{name}\b(?!")', text)]


def test_a_packetizer_that_writes_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Packetizer, "send_message", lambda self, data: None)
    with pytest.raises(ImportError, match="no longer calls write_all"):
        check()


def test_a_packetizer_that_reads_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Packetizer, "read_message", lambda self: (2, paramiko.Message(b"\0\0\0\x01x"))
    )
    with pytest.raises(ImportError, match="no longer calls read_all"):
        check()


def test_paramiko_check_finds_a_channel_that_sends_differently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Channel, "_send", lambda self, s, m: len(s))
    with pytest.raises(ImportError, match="no longer sends through _send_user_message"):
        check()


def test_a_transport_that_calls_other_handlers_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    init = paramiko.Transport.__init__

    def moved(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self._handler_table.pop(80)

    monkeypatch.setattr(paramiko.Transport, "__init__", moved)
    with pytest.raises(ImportError, match="_handler_table"):
        check()


def test_error_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Channel, "_feed")
    with pytest.raises(ImportError, match="install an older paramiko"):
        check()
