"""The course of the demonstration: the hosts, the cache, the steps, and the exit status."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Optional

from ssh_service.connections.cache import SshClientCache
from ssh_service.demo import hosts, steps
from ssh_service.demo.journal import Journal
from ssh_service.demo.show import CheckFailed, Show
from ssh_service.errors import SshHostKeyError, SshServiceError

__all__ = ["run"]


def run(
    host: Optional[str],
    key: Optional[str],
    host_key: Optional[str],
    *,
    command_name: str = "python -m ssh_service demo",
) -> int:
    """Run the demonstration, and return its exit status."""
    began = time.monotonic()
    show = Show()
    try:
        if host is None:
            stage: hosts.Stage = hosts.MockStage()
        else:
            connect = hosts.connect_params(host, key, host_key)
            hosts.check_connection(connect)
            stage = hosts.RealStage(connect)
    except SshServiceError as error:
        text = " ".join(str(error).split())
        if isinstance(error, SshHostKeyError) and error.expected is None and host_key is None:
            text += "; --host-key accept-new trusts and records it"
        print(f"{command_name}: {text}", file=sys.stderr)
        return 2
    try:
        _run_steps(show, stage)
    except CheckFailed as failure:
        show.failed(f"expected {failure}")
        return 1
    except (SshServiceError, OSError) as error:
        show.failed(f"{type(error).__name__}: {error}")
        return 1
    show.title(f"Every check passed. {time.monotonic() - began:.1f} s in all.")
    return 0


def _run_steps(show: Show, stage: hosts.Stage) -> None:
    journal = Journal()
    cache = SshClientCache(client_factory=journal.client)
    with tempfile.TemporaryDirectory(prefix="ssh-service-demo-") as folder, stage as both:
        scratch = Path(folder)
        show.title(stage.introduction)
        cache.enter()
        try:
            steps.connect(show, cache, journal, both)
            with stage.workspace(cache) as workspace:
                steps.run_many(show, cache, both)
                steps.copy_a_tree(show, cache, both[0], scratch, workspace, stage.keeps_times)
                steps.cut_the_line(show, cache, both[0], workspace)
                steps.forward_a_port(show, cache, both[0])
                steps.run_a_job(show, cache, both[0])
            cuts = cache.stats()["losses"]
        finally:
            cache.exit()  # which calls hooks, too
        steps.show_hook_calls(show, journal, both, cuts)
