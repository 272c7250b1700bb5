"""Leases, connections and caches that are dropped without being released or closed."""

from __future__ import annotations

import os

import pytest

from tests.common import run_python

ATEXIT = """
import atexit, sys, threading
from ssh_service import SshConnectError, SshServiceError, run

def last():
    try:
        run({"host": "127.0.0.1", "port": 9, "username": "me", "config": None}, "true")
    except SshServiceError as error:
        print(type(error).__name__, error)

atexit.register(last)
"""


def test_run_in_an_exit_handler_without_a_thread_of_ours_ends_with_an_error_of_ours() -> None:
    """From Python 3.12 on no thread can be started there any more."""
    done = run_python(ATEXIT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SshConnectError"), done.stdout + done.stderr
    assert done.stderr == ""


NO_DESCRIPTOR = """
import os, resource
from ssh_service import SshConnectError, default_cache, run

target = {"host": "127.0.0.1", "port": 9, "username": "me", "known_hosts": None,
          "client_keys": [], "agent_path": None, "config": None}

def attempt():
    try:
        run(target, "true", timeout=20)
    except SshConnectError as error:
        print("too many" if "Too many open files" in str(error) else "refused")

attempt()
limit = max(map(int, os.listdir("/proc/self/fd")))
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, 4096))
attempt()
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
attempt()
print(default_cache().stats()["leases"])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux's /proc")
def test_run_without_a_descriptor_left_fails_at_once_and_the_next_one_does_not() -> None:
    done = run_python(NO_DESCRIPTOR)
    assert done.stdout.split("\n")[:-1] == ["refused", "too many", "refused", "0"], done.stderr
