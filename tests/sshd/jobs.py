"""A server for tests of jobs."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Iterator, List

from ssh_service.testing import process_tree
from ssh_service.testing.pytest_plugin import Sshd


class JobHost:
    """A server whose jobs have a folder of the test's own."""

    def __init__(self, sshd: Sshd, folder: Path) -> None:
        self.sshd, self.folder = sshd, folder
        self.web = sshd.connect_params

    def folders(self) -> List[str]:
        return sorted(os.listdir(self.folder)) if self.folder.exists() else []


@contextlib.contextmanager
def job_host(folder: Path) -> Iterator[JobHost]:
    """Start a server that ends no jobs with itself; they are ended with the context."""
    mark = f"JOB_TEST={os.getpid()}"
    options = {"SetEnv": f"SHLVL=1 XDG_STATE_HOME={folder}/state {mark}"}
    with Sshd(folder, options) as sshd:
        try:
            yield JobHost(sshd, folder / "state" / "ssh_service" / "jobs")
        finally:
            process_tree.send_signal(process_tree.started_with(mark), signal.SIGKILL)
