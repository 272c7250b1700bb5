"""
Jobs: scripts that run on a host independently of the connection and of the client.

`start_job` starts a job, exactly once per id; `find_job` and `list_jobs` find jobs again, from any
process on any machine with the same login.

The modules, from the bottom up: `start_scripts` and `scripts` contain the shell scripts that run
on the host, and `shell_parts` the functions that they share; `record` parses their output;
`questions`, `session` and `watcher` maintain the one session per destination that all threads
query jobs over; `handle`, `lines` and `job` implement the public class; `finding` finds jobs, and
`starting` starts them.
"""

from ssh_service.jobs.finding import find_job, list_jobs
from ssh_service.jobs.job import Job
from ssh_service.jobs.lines import JobLines
from ssh_service.jobs.record import JobState
from ssh_service.jobs.starting import start_job

__all__ = ["Job", "JobLines", "JobState", "find_job", "list_jobs", "start_job"]
