"""What a host reports about a job: its record and state, and the digest that identifies it."""

from __future__ import annotations

import hashlib
import json
import re
from typing import List, Mapping, NamedTuple, Optional

from ssh_service.errors import SshConfigError
from ssh_service.jobs import scripts

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_LINE = re.compile(r"[!-~ ]{1,2000}\Z")
_NUMBER = re.compile(r"[0-9]{1,18}\Z")
_TOKEN = re.compile(r"[0-9a-f]{16}\Z")
_STATES = frozenset(
    ["running", "ended", "signalled", "killed", "rebooted", "missing", "elsewhere", "damaged"]
)
_OVER = frozenset(["ended", "signalled", "killed", "rebooted"])


class JobState(NamedTuple):
    """
    The state of a job, as reported by its host.

    Attributes
    ----------
    name : str
        ``running``; ``ended``: its shell exited; ``signalled``: a signal ended its shell;
        ``killed``: its shell is gone without a status; ``rebooted``: the host was rebooted before
        the job ended; ``missing``: the host has no such job; ``elsewhere``: the job belongs to
        another host that shares the home directory; ``damaged``: its record cannot be read, for
        example because the host lost power during the start.
    exit_status : Optional[int]
        The exit status, if the state is ``ended``.
    signal : Optional[str]
        The signal's name, without ``SIG``, if the state is ``signalled``.
    host : Optional[str]
        The name of the job's host, as the host itself reports it.
    began, ended : Optional[int]
        When the job began and ended, in seconds since 1970 by the host's clock; None if unknown.
    timed_out : bool
        Whether the job was ended because its ``run_timeout`` had expired.
    disk_full : bool
        Whether the disk with its output was full when the job ended: output may be missing.
    certain : bool
        False on a host without ``/proc``.  There, ``running`` may refer to another process with
        the same number, and ``killed`` may mean a reboot.
    """

    name: str
    exit_status: Optional[int] = None
    signal: Optional[str] = None
    host: Optional[str] = None
    began: Optional[int] = None
    ended: Optional[int] = None
    timed_out: bool = False
    disk_full: bool = False
    certain: bool = True

    def __str__(self) -> str:
        what = self.exit_status if self.name == "ended" else self.signal
        text = self.name if what is None else f"{self.name}({what})"
        return text + ", timed out" * self.timed_out + ", disk full" * self.disk_full

    @property
    def is_over(self) -> bool:
        """Whether the job no longer runs."""
        return self.name in _OVER


class Seen(NamedTuple):
    """
    One line of a host's report about a job.

    Attributes
    ----------
    job_id : str
        The id of the job.
    state : JobState
        Its state.
    token : str
        The attempt that started the job; empty if the job is missing.
    digest : str
        The digest of the job's script and settings; see `digest`.
    supervisor : int
        The number of the process that waits for the job's end.
    """

    job_id: str
    state: JobState
    token: str = ""
    digest: str = ""
    supervisor: int = 0


def check_id(job_id: str, name: str = "id") -> str:
    """
    Refuse a text that cannot be the id of a job.

    Raises
    ------
    SshConfigError
        The text is not a valid file name on every system, or is too long.
    """
    if not isinstance(job_id, str) or not _ID.match(job_id):
        raise SshConfigError(
            f"{name}: expected 1 to 128 letters, digits, '.', '_' or '-', the first one a letter"
            f" or a digit, got {job_id!r:.60}"
        )
    return job_id


def digest(
    text: str, env: Mapping[str, str], shell: Optional[str], cwd: Optional[str], stdin: bytes
) -> str:
    """Return a digest that distinguishes a job from another one with the same id."""
    what = [text, sorted(env.items()), shell, cwd, hashlib.sha256(stdin).hexdigest()]
    return hashlib.sha256(json.dumps(what).encode("ascii")).hexdigest()


def parse(line: str) -> Optional[Seen]:
    """Parse a line printed by ``_ssh_look``; None if it is malformed."""
    words = line.split(" ") if _LINE.match(line) else []
    if len(words) < 5 or not _ID.match(words[0]):
        return None
    job_id, name, value, ended, flags = words[:5]
    if name == "missing":
        return Seen(job_id, JobState(name))
    damaged = Seen(job_id, JobState("damaged"))
    if len(words) != 19 or name not in _STATES:
        return damaged
    _, token, job_digest, host, _, boot, supervisor, began_at, pid, _, began, _, _, _ = words[5:]
    if not _TOKEN.match(token) or not all(map(_NUMBER.match, (supervisor, pid, began))):
        return damaged
    if (name == "ended") != bool(_NUMBER.match(value)):
        return damaged
    state = JobState(
        name,
        exit_status=int(value) if name == "ended" else None,
        signal=value if name == "signalled" else None,
        host=host,
        began=int(began),
        ended=int(ended) if _NUMBER.match(ended) else None,
        timed_out="limit" in flags,
        disk_full="full" in flags,
        certain="-" not in (boot, began_at) or name in ("ended", "signalled"),
    )
    return Seen(job_id, state, token, job_digest, int(supervisor))


def parse_record(job_id: str, record: str) -> Optional[Seen]:
    """Parse the record of a job that has just started; None if it is malformed."""
    seen = parse(f"{job_id} running - - - {record}")
    return None if seen is None or seen.state.name == "damaged" else seen


def answer(output: str) -> Optional[List[str]]:
    """Return the lines of a script's answer; None if there is no answer."""
    _, mark, rest = output.rpartition(f"{scripts.MARK}\n")
    return rest.splitlines() if mark else None
