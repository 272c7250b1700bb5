"""A symbolic link from here to the server, as the link it is."""

from __future__ import annotations

import errno

from ssh_service.copying import temporary
from ssh_service.copying.context import Job
from ssh_service.copying.failures import Refused, shown
from ssh_service.copying.paths import beside, last_name
from ssh_service.copying.pipeline import STOPPED
from ssh_service.copying.remote_files import is_folder, is_link
from ssh_service.copying.waiting import Signal
from ssh_service.errors import transfer_error

__all__ = ["upload_link"]


async def upload_link(job: Job, text: bytes, target: bytes, is_new: bool) -> None:
    """
    Make a symbolic link on the server; what stands in its place is replaced, but for a folder.

    Parameters
    ----------
    job : Job
        The copy.
    text : bytes
        What the link says.
    target : bytes
        Its remote path.
    is_new : bool
        Whether it is known that nothing is there.
    """
    remote = job.remote
    await _learn_order(job, target)
    found = None if is_new else await remote.find(target, follow=False)
    if found is None:
        await remote.make_link(text, target)
        return
    if is_folder(found):
        raise transfer_error(errno.EISDIR, shown(target), side="remote")
    await job.owner.check_target(target, found)
    if is_link(found) and await remote.text_of_link(target) == text:
        return
    name = temporary.names.new(last_name(target))
    path = beside(target, name)
    try:
        await remote.make_link(text, path)
        if not remote.can_replace:
            await remote.remove(target)
        await remote.rename(path, target)
    except Refused as refused:
        await _remove(job, path)
        refused.path = target
        raise
    except STOPPED as stopped:
        job.pipeline.note(stopped)
        await _remove(job, path)
        raise
    finally:
        temporary.names.release(name)


async def _remove(job: Job, path: bytes) -> None:
    try:
        await job.remote.remove(path)
    except Refused:
        pass  # it is not there; or it is litter now, and the next run removes it


async def _learn_order(job: Job, target: bytes) -> None:
    """
    Find out in which order the server takes the two paths of a link, once a session.

    OpenSSH takes them in the other order than the protocol says; most servers do as it does, some
    ask who their client is.  Two names of unfinished files tell: whichever becomes a link.
    """
    facts = job.remote.facts
    if "link order" in facts:
        return
    learnt = facts.get("link order being learnt")
    if isinstance(learnt, Signal) and learnt.belongs_to(job.pipeline):
        await learnt.wait()
        if "link order" in facts:
            return
    signal = facts["link order being learnt"] = Signal(job.pipeline)
    names = [temporary.names.new(last_name(target)) for _ in range(2)]
    one, other = (beside(target, name) for name in names)
    try:
        await job.remote.make_link(one, other)
        for path, reverses in ((other, False), (one, True)):
            found = await job.remote.find(path, follow=False)
            if found is not None and is_link(found):
                facts["link order"] = reverses
                await _remove(job, path)
                return
        raise Refused(0, "the server makes no symbolic links", target)
    except Refused as refused:
        refused.path = target
        raise
    finally:
        signal.set()
        for name in names:
            temporary.names.release(name)
