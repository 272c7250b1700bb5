"""The channels of a connection: paramiko's maps of them, repaired."""

from __future__ import annotations

import weakref
from typing import Any, Callable, Dict, List, Optional

from paramiko.message import Message

# Called with a channel, and what follows a message's type.
MessageHandler = Callable[[Any, bytes], None]


class ChannelMap:
    """
    paramiko's `ChannelMap` with weak references, so that unused channels can be collected.

    paramiko's reader gets a weak reference (see
    docs/paramiko_repairs.md#reader-keeps-a-channel); `resolve_weakref` adapts the
    handlers.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.  Each is a single operation on a
    dict and takes no lock: a signal handler could leave a lock taken, and a destructor could need
    it while its own thread holds it (docs/paramiko_repairs.md#torn-calls and #finalizer-deadlock).
    """

    __slots__ = ("_references",)

    def __init__(self) -> None:
        self._references: Dict[int, "weakref.ref[Any]"] = {}

    def put(self, number: int, channel: Any) -> None:
        """Add a channel, until it is collected or deleted."""
        references = self._references

        def forget(reference: "weakref.ref[Any]") -> None:
            if references.get(number) is reference:
                references.pop(number, None)

        references[number] = weakref.ref(channel, forget)

    def get(self, number: int) -> "Optional[weakref.ref[Any]]":
        """Return a weak reference to a channel, for paramiko's reader."""
        reference = self._references.get(number)
        return None if reference is None or reference() is None else reference

    def find(self, number: int) -> Any:
        """Return a channel, or None."""
        reference = self._references.get(number)
        return None if reference is None else reference()

    def delete(self, number: int) -> None:
        """Remove a channel."""
        self._references.pop(number, None)

    def delete_channel(self, channel: Any) -> None:
        """Remove a channel, by whatever number it has here."""
        for number, reference in list(self._references.items()):
            if reference() is channel:
                self._references.pop(number, None)

    def values(self) -> List[Any]:
        """List the channels."""
        found = [reference() for reference in list(self._references.values())]
        return [channel for channel in found if channel is not None]

    def __len__(self) -> int:
        return len(self.values())


def resolve_weakref(handler: MessageHandler) -> "Callable[[weakref.ref[Any], Message], None]":
    """Return a message handler for paramiko's reader, which has a weak reference."""

    def tell(reference: "weakref.ref[Any]", m: Message) -> None:
        channel = reference()
        if channel is not None:
            handler(channel, m.asbytes())

    return tell


class SeenChannels(Dict[int, bool]):
    """paramiko's `channels_seen`, bounded: see docs/paramiko_repairs.md#channels-seen."""

    _end = 0  # numbers are used in order, and from 0 again after 16 million

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and number < self._end

    def __setitem__(self, number: int, value: bool) -> None:
        self._end = max(self._end, number + 1)
