"""Find jobs again, list and clean them."""

from __future__ import annotations

import logging
from typing import List, Optional, Union

from ssh_service.commands.command import check_seconds
from ssh_service.commands.sudo import SudoPassword, check_sudo, conceal_password
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshJobError, SshJobNotFound
from ssh_service.jobs import scripts
from ssh_service.jobs.handle import DAMAGED, ELSEWHERE, JobDestination
from ssh_service.jobs.job import Job
from ssh_service.jobs.record import JobState, Seen, check_id
from ssh_service.params import Destination

_log = logging.getLogger(__name__)

# States of jobs that cannot be managed from this host.
OTHERS = ("elsewhere", "damaged")


def find_job(
    destination: Destination,
    id: str,
    *,
    sudo: Union[bool, str] = False,
    sudo_password: Optional[SudoPassword] = None,
    timeout: Optional[float] = None,
    cache: Optional[SshClientCache] = None,
) -> Job:
    """
    Find a job that this or another program started.

    Parameters
    ----------
    destination : Union[str, Mapping[str, Any], Host]
        The host: ``"[user@]host[:port]"``, settings such as
        ``{"host": "web01", "username": "admin"}`` (`ssh_service.params.SETTINGS` lists all), or a
        `Host`.
    id : str
        The job's name on the host.
    sudo, sudo_password
        As for `start_job`; a job that was started by sudo is found only by sudo.
    timeout : Optional[float]
        Seconds from this call, including connecting; None: no limit except that of connecting.
    cache : Optional[SshClientCache]
        The cache that the connection is taken from; None: `default_cache`.

    Returns
    -------
    Job
        The job; its `Job.state` is the host's current answer.

    Raises
    ------
    SshConfigError
        A parameter is invalid (a `ValueError`).
    SshJobNotFound
        The host has no such job (a `LookupError`).
    SshJobError
        The job belongs to another host that shares the home directory, or its record is damaged;
        the message names that host, or the folder.
    SshServiceError
        The host could not be reached; the errors are those of `run`.

    Notes
    -----
    Thread safety.  This may be called from any thread.
    """
    sudo_password = conceal_password(sudo_password)
    check_id(id)
    check_seconds("timeout", timeout, zero=False)
    host = JobDestination(destination, cache, check_sudo(sudo, sudo_password))
    seen = host.query(scripts.look(id), timeout, id).get(id)
    if seen is None or seen.state.name == "missing":
        raise SshJobNotFound(
            f"{host.connection_id}: there is no job {id}",
            connection_id=host.connection_id,
            job_id=id,
            state=None if seen is None else seen.state,
        )
    if seen.state.name in OTHERS:
        raise not_ours(host, seen)
    return Job(host, seen)


def find_or_finish_removal(
    destination: Destination,
    job_id: str,
    *,
    sudo: Union[bool, str] = False,
    sudo_password: Optional[SudoPassword] = None,
    timeout: Optional[float] = None,
    cache: Optional[SshClientCache] = None,
) -> Job:
    """Find a job; if there is none, remove what an interrupted removal has left, and raise."""
    options = check_sudo(sudo, conceal_password(sudo_password))
    password = None if options is None else options.password
    try:
        return find_job(
            destination, job_id, sudo=sudo, sudo_password=password, timeout=timeout, cache=cache
        )
    except SshJobNotFound:
        gone = Seen(job_id, JobState("missing"), token="0" * 16)
        Job(JobDestination(destination, cache, options), gone).remove(timeout=timeout)
        raise


def list_jobs(
    destination: Destination,
    *,
    sudo: Union[bool, str] = False,
    sudo_password: Optional[SudoPassword] = None,
    timeout: Optional[float] = None,
    cache: Optional[SshClientCache] = None,
) -> List[Job]:
    """
    List the jobs of a host, including those that are over.

    Parameters
    ----------
    destination : Union[str, Mapping[str, Any], Host]
        The host: ``"[user@]host[:port]"``, settings such as
        ``{"host": "web01", "username": "admin"}`` (`ssh_service.params.SETTINGS` lists all), or a
        `Host`.
    sudo, sudo_password
        As for `start_job`; jobs that were started by sudo are found only by sudo.
    timeout : Optional[float]
        Seconds from this call, including connecting; None: no limit except that of connecting.
    cache : Optional[SshClientCache]
        The cache that the connection is taken from; None: `default_cache`.

    Returns
    -------
    List[Job]
        The jobs, sorted by id; the `Job.state` of each is the host's current answer.  Jobs of
        other hosts that share the home directory, and jobs with a damaged record, are left out and
        named in a log record.

    Raises
    ------
    SshConfigError
        A parameter is invalid (a `ValueError`).
    SshServiceError
        The host could not be reached; the errors are those of `run`.

    Notes
    -----
    Thread safety.  This may be called from any thread.
    """
    sudo_password = conceal_password(sudo_password)
    check_seconds("timeout", timeout, zero=False)
    host = JobDestination(destination, cache, check_sudo(sudo, sudo_password))
    found = _look_at_all(host, timeout)
    others = [seen for seen in found if seen.state.name in OTHERS]
    for seen in others:
        _log.info("%s", not_ours(host, seen))
    return [Job(host, seen) for seen in found if seen not in others]


def look_at_all(
    destination: Destination,
    timeout: Optional[float],
    cache: Optional[SshClientCache],
    *,
    sudo: Union[bool, str] = False,
    sudo_password: Optional[SudoPassword] = None,
) -> List[Seen]:
    """Return the states of all jobs in a home directory, including those of other hosts."""
    options = check_sudo(sudo, conceal_password(sudo_password))
    return _look_at_all(JobDestination(destination, cache, options), timeout)


def _look_at_all(host: JobDestination, timeout: Optional[float]) -> List[Seen]:
    return sorted(host.query(scripts.list_all(), timeout).values())


def clean_jobs(
    destination: Destination,
    older: float,
    *,
    sudo: Union[bool, str] = False,
    sudo_password: Optional[SudoPassword] = None,
    timeout: Optional[float] = None,
    cache: Optional[SshClientCache] = None,
) -> List[str]:
    """
    Remove jobs that ended some time ago, and what failed starts and removals left.

    A running job is never removed.

    Parameters
    ----------
    destination : Union[str, Mapping[str, Any], Host]
        The host: ``"[user@]host[:port]"``, settings such as
        ``{"host": "web01", "username": "admin"}`` (`ssh_service.params.SETTINGS` lists all), or a
        `Host`.
    older : float
        The minimum number of seconds since a job's end, by the host's clock; if the end is
        unknown, since its start.
    sudo, sudo_password
        As for `start_job`; jobs that were started by sudo are removed only by sudo.
    timeout : Optional[float]
        Seconds from this call, including connecting; None: no limit except that of connecting.
    cache : Optional[SshClientCache]
        The cache that the connection is taken from; None: `default_cache`.

    Returns
    -------
    List[str]
        The ids of the jobs that were removed.

    Raises
    ------
    SshConfigError
        A parameter is invalid (a `ValueError`).
    SshJobError
        The folder of a job cannot be removed; the message names it.
    SshServiceError
        The host could not be reached; the errors are those of `run`.  The call may be repeated.
    """
    options = check_sudo(sudo, conceal_password(sudo_password))
    check_seconds("older", older)
    check_seconds("timeout", timeout, zero=False)
    host = JobDestination(destination, cache, options)
    return sorted(host.query(scripts.clean(older), timeout))


def not_ours(host: JobDestination, seen: Seen) -> SshJobError:
    """Return the error for a job that cannot be managed from this host."""
    what = DAMAGED.format(seen.job_id)
    if seen.state.name == "elsewhere":
        what = ELSEWHERE.format(seen.job_id, seen.state.host)
    return SshJobError(
        f"{host.connection_id}: job {seen.job_id} {what}",
        connection_id=host.connection_id,
        job_id=seen.job_id,
        state=seen.state,
    )
