"""Which channels a connection has: paramiko's records of them, repaired."""

from __future__ import annotations

import weakref
from typing import Any, Callable, Dict, List, Optional

from paramiko.message import Message

Handler = Callable[[Any, Message], None]


class ChannelMap:
    """
    What paramiko's `ChannelMap` does, so that forgotten channels are let go.

    paramiko's reader is given a reference that keeps no channel alive (see
    docs/paramiko_repairs.md#reader-keeps-a-channel); `resolve_weakref` adapts the
    handlers.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.  There is no lock, as each is a
    single operation on a dict: a signal handler could leave it taken, and a destructor could need
    it while its thread holds it (docs/paramiko_repairs.md#torn-calls and #finalizer-deadlock).
    """

    def __init__(self) -> None:
        self._references: Dict[int, "weakref.ref[Any]"] = {}

    def put(self, number: int, channel: Any) -> None:
        """Remember a channel for as long as somebody else does."""
        references = self._references

        def forget(reference: "weakref.ref[Any]") -> None:
            if references.get(number) is reference:
                references.pop(number, None)

        references[number] = weakref.ref(channel, forget)

    def get(self, number: int) -> "Optional[weakref.ref[Any]]":
        """Find a channel, for paramiko's reader."""
        reference = self._references.get(number)
        return None if reference is None or reference() is None else reference

    def find(self, number: int) -> Any:
        """Find a channel; None where there is none."""
        reference = self._references.get(number)
        return None if reference is None else reference()

    def delete(self, number: int) -> None:
        """Forget a channel."""
        self._references.pop(number, None)

    def values(self) -> List[Any]:
        """List the channels."""
        found = [reference() for reference in list(self._references.values())]
        return [channel for channel in found if channel is not None]

    def __len__(self) -> int:
        return len(self.values())


def resolve_weakref(handler: Handler) -> "Callable[[weakref.ref[Any], Message], None]":
    """
    Make a handler of a channel's messages take what `ChannelMap.get` returns.

    Parameters
    ----------
    handler : Callable[[paramiko.Channel, Message], None]
        Takes the channel.

    Returns
    -------
    Callable[[weakref.ref[paramiko.Channel], Message], None]
        For `paramiko.Transport._channel_handler_table`.
    """

    def tell(reference: "weakref.ref[Any]", m: Message) -> None:
        channel = reference()
        if channel is not None:
            handler(channel, m)

    return tell


class SeenChannels(Dict[int, bool]):
    """paramiko's `channels_seen`, bounded: see docs/paramiko_repairs.md#channels-seen."""

    _end = 0  # numbers are handed out in order, and from 0 again after 16 million

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and number < self._end

    def __setitem__(self, number: int, value: bool) -> None:
        self._end = max(self._end, number + 1)
