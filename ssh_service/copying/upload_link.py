"""Uploads a symbolic link as a link."""

from __future__ import annotations

import errno
import functools

from ssh_service.copying import temporary
from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import Refused, display_path
from ssh_service.copying.paths import basename, sibling
from ssh_service.copying.pipeline import ABORTS
from ssh_service.copying.replacing import replace_by_moving_aside, replace_link
from ssh_service.copying.replies import is_folder, is_link
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.waiting import TaskEvent
from ssh_service.errors import transfer_error

__all__ = ["learn_order", "upload_link"]


async def upload_link(context: CopyContext, text: bytes, target: bytes, is_new: bool) -> None:
    """
    Create a symbolic link with target `text` on the server, at the path `target`.

    Any entry in its place is replaced, except a folder.  `is_new` means that no entry is expected
    there.
    """
    remote = context.remote
    await learn_order(context, target)
    found = None if is_new else await remote.find(target, follow=False)
    if found is None:
        await remote.make_link(text, target)
        return
    if is_link(found) and await remote.text_of_link(target) == text:
        await context.owner.check_target(target, found)
        return
    if await _resolves_links(context, target):
        await _replace_resolved(context, text, target, found)
        return
    await _check(context, target, found)
    name = temporary.names.new(basename(target))
    path = sibling(target, name)
    try:
        await remote.make_link(text, path)
        if remote.can_replace:
            await remote.rename(path, target)
        else:
            check = functools.partial(_check, context, target)
            await replace_by_moving_aside(
                context, target, check, lambda: remote.rename(path, target)
            )
    except Refused as refused:
        await _remove(context, path)
        refused.path = target
        raise
    except ABORTS as abort:
        context.pipeline.record_interrupt(abort)
        await _remove(context, path)
        raise
    finally:
        temporary.names.release(name)


async def _check(context: CopyContext, target: bytes, found: Attributes) -> None:
    """Refuse to replace a folder, or what belongs to another user."""
    if is_folder(found):
        raise transfer_error(errno.EISDIR, display_path(target), side="remote")
    await context.owner.check_target(target, found)


async def _replace_resolved(
    context: CopyContext, text: bytes, target: bytes, found: Attributes
) -> None:
    """Replace an entry on a server that renames what a link leads to, instead of the link."""
    remote = context.remote

    async def put() -> None:
        await remote.make_link(text, target)

    try:
        old = await remote.text_of_link(target)
    except Refused:  # not a link
        await _check(context, target, found)
        check = functools.partial(_check, context, target)
        await replace_by_moving_aside(context, target, check, put)
        return
    if await context.owner.is_in_shared_folder(target):
        detail = "the server does not report whose link this is, in a folder that others may write"
        raise transfer_error(errno.EPERM, display_path(target), detail, side="remote")
    await replace_link(context, target, old, put)


async def _resolves_links(context: CopyContext, target: bytes) -> bool:
    """
    Determine whether the server follows links where it must not, once per session.

    proftpd does, in LSTAT and, which is worse, in RENAME.
    """
    facts = context.remote.facts
    if facts.resolves_links is None:
        name = temporary.names.new(basename(target))
        path = sibling(target, name)
        try:
            await context.remote.make_link(b".", path)
            facts.resolves_links = is_folder(await context.remote.lstat(path))
            await _remove(context, path)
        except Refused as refused:
            await _remove(context, path)
            refused.path = target
            raise
        except ABORTS as abort:
            context.pipeline.record_interrupt(abort)
            await _remove(context, path)
            raise
        finally:
            temporary.names.release(name)
    return facts.resolves_links


async def _remove(context: CopyContext, path: bytes) -> None:
    try:
        await context.remote.remove(path)
    except Refused:
        pass  # it does not exist; or it is stale now, and a later copy removes it


async def learn_order(context: CopyContext, target: bytes) -> None:
    """
    Determine the order in which the server expects the paths of SSH_FXP_SYMLINK, once per session.

    OpenSSH expects them in the opposite order of the protocol.  Most servers do the same; some
    decide by the client's version.  Creating a link between two temporary names shows the order.
    """
    facts = context.remote.facts
    if facts.symlink_path_first is not None:
        return
    probe = facts.symlink_probe
    if isinstance(probe, TaskEvent) and probe.belongs_to(context.pipeline):
        await probe.wait()
        if facts.symlink_path_first is not None:
            return
    probe = facts.symlink_probe = TaskEvent(context.pipeline)
    names = [temporary.names.new(basename(target)) for _ in range(2)]
    one, other = (sibling(target, name) for name in names)
    try:
        await context.remote.make_link(one, other)
        facts.symlink_path_first = await _is_path_first(context, one, other)
    except Refused as refused:
        refused.path = target
        raise
    finally:
        probe.set()
        for name in names:
            temporary.names.release(name)


async def _is_path_first(context: CopyContext, one: bytes, other: bytes) -> bool:
    """Find out which of the two is the link, and remove it."""
    for path, path_first in ((other, False), (one, True)):
        found = await context.remote.find(path, follow=False)
        if found is not None and is_link(found):
            await _remove(context, path)
            return path_first
    raise Refused(0, "the server does not create symbolic links", one)
