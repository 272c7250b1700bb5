"""The parts of one large file, of which many are on their way at once."""

from __future__ import annotations

from collections import deque
from typing import Callable, Deque, Iterable, Tuple

from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.waiting import Budget

__all__ = ["move_parts"]


async def move_parts(
    flow: Budget,
    parts: Iterable[Tuple[int, int]],
    ask: Callable[[int, int], Reply],
    take: Callable[[Reply, int, int], int],
    in_order: bool = False,
) -> None:
    """
    Read or write a file part by part, as many at once as there is room for.

    Parameters
    ----------
    flow : Budget
        The bound on bytes that are on their way.
    parts : Iterable[Tuple[int, int]]
        Offset and size of each.
    ask : Callable[[int, int], Reply]
        Begins to move a part.
    take : Callable[[Reply, int, int], int]
        Takes what came of a part, and tells how many bytes were moved; called in the order in
        which parts were asked for.  What is missing is asked for as a part of its own.
    in_order : bool
        Whether what is missing is needed before all that comes after it.
    """
    on_way: Deque[Tuple[Reply, int, int]] = deque()
    add = on_way.appendleft if in_order else on_way.append

    async def take_first() -> None:
        reply, offset, size = on_way[0]
        await reply
        on_way.popleft()
        flow.release(size)
        moved = take(reply, offset, size)
        if moved < size:
            offset, size = offset + moved, size - moved
            flow.acquire_over_limit(size)
            add((ask(offset, size), offset, size))

    try:
        for offset, size in parts:
            while not flow.try_acquire(size):
                if on_way:
                    await take_first()
                else:
                    await flow.acquire(size)
                    break
            try:
                reply = ask(offset, size)
            except BaseException:
                flow.release(size)
                raise
            on_way.append((reply, offset, size))
            while on_way and on_way[0][0].kind:
                await take_first()
        while on_way:
            await take_first()
    finally:
        flow.release(sum(size for _, _, size in on_way))
