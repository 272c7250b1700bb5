"""
Jobs: scripts that run on a host on their own, whatever happens to the connection and the client.

`start_job` starts one, exactly once for an id; `find_job` and `list_jobs` find it again, from any
process on any machine with the same login.

Inside, from the bottom up: `start_scripts` and `scripts` have the shell scripts that do the work
on the host, and `shell_parts` what these share; `record` reads what they say, `questions` and
`watcher` keep the one session of a destination over which all threads ask, `handle`, `lines` and
`job` are the public class, and `starting` starts and finds jobs.
"""

from ssh_service.jobs.job import Job
from ssh_service.jobs.lines import JobLines
from ssh_service.jobs.record import JobState
from ssh_service.jobs.starting import find_job, list_jobs, start_job

__all__ = ["Job", "JobLines", "JobState", "find_job", "list_jobs", "start_job"]
