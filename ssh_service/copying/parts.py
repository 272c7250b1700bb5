"""The parts of one large file, of which many are on their way at once."""

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
    Read or write a file part by part, as many at once as there is room for.

    Parameters
    ----------
    budget : Budget
        The bound on bytes that are on their way.
    parts : Iterable[Tuple[int, int]]
        Offset and size of each.
    send : Callable[[int, int], Reply]
        Begins to move a part.
    on_reply : Callable[[Reply, int, int], int]
        Takes what came of a part, and tells how many bytes were moved; called in the order in
        which parts were asked for.  What is missing is asked for as a part of its own.
    in_order : bool
        Whether what is missing is needed before all that comes after it.
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

    try:
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
    finally:
        budget.release(sum(size for _, _, size in in_flight))
