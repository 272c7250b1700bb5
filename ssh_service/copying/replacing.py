"""Replaces an entry on a server whose rename does not do that."""

from __future__ import annotations

from typing import Awaitable, Callable

from ssh_service.copying import temporary
from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import Refused
from ssh_service.copying.paths import basename, sibling
from ssh_service.copying.pipeline import ABORTS
from ssh_service.copying.sftp.protocol import Attributes

__all__ = ["replace_by_moving_aside", "replace_link"]

Put = Callable[[], Awaitable[None]]


async def replace_by_moving_aside(
    context: CopyContext,
    target: bytes,
    check: Callable[[Attributes], Awaitable[None]],
    put: Put,
) -> None:
    """
    Rename the entry at `target`, call `put` to create the new one, and remove the old one.

    `check` gets the attributes of what was renamed, and raises if it must not be replaced.  After
    any failure, the old entry gets its name back.
    """
    name = temporary.names.new(basename(target))
    aside = sibling(target, name)
    may_be_replaced = False
    try:
        await context.remote.rename(target, aside)
        await check(await context.remote.lstat(aside))
        may_be_replaced = True
        await put()
        await _remove(context, aside)
    except ABORTS as abort:
        context.pipeline.record_interrupt(abort)
        await _move_back(context, aside, target, may_be_replaced)
        raise
    finally:
        temporary.names.release(name)


async def _move_back(
    context: CopyContext, aside: bytes, target: bytes, may_be_replaced: bool
) -> None:
    remote = context.remote
    try:
        if not may_be_replaced or await remote.find(target, follow=False) is None:
            await remote.rename(aside, target)
        else:
            await _remove(context, aside)
    except Refused:
        pass  # it was never renamed, or is stale now: a later copy removes it


async def _remove(context: CopyContext, path: bytes) -> None:
    try:
        await context.remote.remove(path)
    except Refused:
        pass  # it is stale now: a later copy removes it


async def replace_link(context: CopyContext, target: bytes, old: bytes, put: Put) -> None:
    """
    Remove a link, and call `put` to create the new entry; after any failure, restore the link.

    This is for servers that cannot rename a link, because they rename what it leads to.  `old` is
    where it leads, as far as the server says.
    """
    try:
        await context.remote.remove(target)
        await put()
    except ABORTS as abort:
        context.pipeline.record_interrupt(abort)
        try:
            await context.remote.make_link(old, target)
        except Refused:
            pass  # it was not removed, or the new entry is there
        raise
