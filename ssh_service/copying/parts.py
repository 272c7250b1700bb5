"""Reads or writes a large file in parts, many of which are in flight concurrently."""

from __future__ import annotations

from collections import deque
from typing import Callable, Deque, Iterable, Tuple

from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.waiting import Budget

__all__ = ["move_parts"]


async def move_parts(
    budget: Budget,
    parts: Iterable[Tuple[int, int]],
    send: Callable[[int, int], Reply],
    on_reply: Callable[[Reply, int, int], int],
    in_order: bool = False,
) -> None:
    """
    Read or write a file in parts, as many concurrently as the budget allows.

    Parameters
    ----------
    budget : Budget
        The limit on bytes in flight.
    parts : Iterable[Tuple[int, int]]
        The offset and size of each part, in bytes.
    send : Callable[[int, int], Reply]
        Sends the request for a part.
    on_reply : Callable[[Reply, int, int], int]
        Handles the reply to a part, and returns the number of bytes that were transferred.  The
        rest of the part is requested again.
    in_order : bool
        Whether the rest of a part must be handled before the following parts.
    """
    in_flight: Deque[Tuple[Reply, int, int]] = deque()
    requeue = in_flight.appendleft if in_order else in_flight.append

    async def receive_first() -> None:
        reply, offset, size = in_flight[0]
        await reply
        in_flight.popleft()
        budget.release(size)
        moved = on_reply(reply, offset, size)
        if moved < size:
            offset, size = offset + moved, size - moved
            budget.acquire_over_limit(size)
            requeue((send(offset, size), offset, size))

    async def move_all() -> None:
        for offset, size in parts:
            while not budget.try_acquire(size):
                if in_flight:
                    await receive_first()
                else:
                    await budget.acquire(size)
                    break
            try:
                reply = send(offset, size)
            except BaseException:
                budget.release(size)
                raise
            in_flight.append((reply, offset, size))
            while in_flight and in_flight[0][0].kind:
                await receive_first()
        while in_flight:
            await receive_first()

    try:
        await move_all()
    finally:
        budget.release(sum(size for _, _, size in in_flight))
