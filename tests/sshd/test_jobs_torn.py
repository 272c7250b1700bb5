"""Jobs through lost connections: started once, never lost, each byte of output once."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

from ssh_service import SshClientCache, background, events, find_job, run, start_job
from ssh_service.testing.fault_proxy import FaultProxy
from ssh_service.transport.packets import SshPacketizer
from tests.common import PATIENCE, Outcome, in_threads
from tests.faults.clients import params_for
from tests.sshd.jobs import JobHost


class OneCut(FaultProxy):
    """A proxy that cuts a connection once, after so many bytes; and notes what it forwards."""

    def __init__(self, *server: Any) -> None:
        self.sent: List[Tuple[str, int]] = []
        super().__init__(*server)

    def _write(self, stream: Any) -> None:
        before = stream.queued
        super()._write(stream)
        if stream.queued < before:
            for link in self._links:
                for name, one in link.streams.items():
                    if one is stream:
                        self.sent.append((name, before - stream.queued))

    def _cut(self, link: Any) -> None:
        self._limits.clear()
        super()._cut(link)


@pytest.fixture
def proxy(job_host: JobHost) -> Iterator[OneCut]:
    proxy = OneCut(job_host.sshd.host, job_host.sshd.port)
    with proxy:
        yield proxy


def boundaries(sent: List[Tuple[str, int]], direction: str) -> List[int]:
    """Say after how many bytes each message of a direction was complete."""
    total, found = 0, []
    for name, count in sent:
        if name == direction:
            total += count
            found.append(total)
    return found


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
def test_start_is_made_once_wherever_its_connection_is_cut(
    job_host: JobHost,
    proxy: OneCut,
    cache: SshClientCache,
    tmp_path: Path,
    direction: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cut after each message, and within each, of a start: the job runs, once."""
    web = params_for(job_host.sshd, proxy)
    runs = tmp_path / "runs"

    def start(name: str) -> None:
        job = start_job(web, f"echo {name} >> {runs}", id=name, stdin="x" * 100, cache=cache)
        assert job.wait(PATIENCE).exit_status == 0
        assert (job_host.folder / name).is_dir()
        # The record, and the folder of the one attempt that was made.
        assert len(os.listdir(job_host.folder / name)) == 2

    start(f"warm-{direction}")
    run(web, "true", cache=cache)
    proxy.sent.clear()
    messages: List[Tuple[str, int]] = []
    with monkeypatch.context() as patch:
        write_all = SshPacketizer.write_all

        def note(self: SshPacketizer, out: Any) -> None:
            messages.append(("to_server", len(out)))
            write_all(self, out)

        patch.setattr(SshPacketizer, "write_all", note)
        start_job(web, "true", id=f"seen-{direction}", stdin="x" * 100, cache=cache)
    if direction == "to_server":
        ends = boundaries(messages, direction)
        assert len(ends) >= 4
        cuts = sorted({cut for end in ends for cut in (end, end - 1)})
    else:  # whose messages arrive together, and have 32 bytes and more each
        cuts = list(range(1, boundaries(proxy.sent, direction)[-1] + 48, 48))
    for number, cut in enumerate(cuts):
        run(web, "true", cache=cache)
        proxy.limit_after(cut, direction)
        start(f"cut{number}-{direction}")
        proxy.heal()
    names = ["warm", *(f"cut{number}" for number in range(len(cuts)))]
    assert runs.read_text().split() == [f"{name}-{direction}" for name in names]


# Writes lines of growing numbers, so many bytes of them.
WRITER = "seq 1 1000000000 | head -c $SIZE"


@pytest.mark.parametrize(
    "size, cuts", [(8 << 20, 4), pytest.param(1 << 30, 20, marks=pytest.mark.long)]
)
def test_output_is_followed_through_cuts_byte_for_byte(
    job_host: JobHost, proxy: OneCut, cache: SshClientCache, size: int, cuts: int
) -> None:
    """Each byte comes once, however often the connection is lost."""
    web = params_for(job_host.sshd, proxy)
    job = start_job(web, WRITER, env={"SIZE": size}, cache=cache)
    got, seen, next_cut = hashlib.sha256(), 0, size // (cuts + 1)
    lines = job.lines(encoding=None, timeout=20 * PATIENCE)
    for line in lines:
        assert isinstance(line, bytes)
        got.update(line)
        seen += len(line)
        if seen >= next_cut:
            proxy.cut()
            next_cut += size // (cuts + 1)
    want = hashlib.sha256()
    with subprocess.Popen(
        ["sh", "-c", WRITER], env={**os.environ, "SIZE": str(size)}, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        for piece in iter(lambda: writer.stdout.read(1 << 20), b""):  # type: ignore[union-attr]
            want.update(piece)
    assert (seen, lines.offset, got.hexdigest()) == (size, size, want.hexdigest())
    assert proxy.accepted > cuts
    job.remove()


CONTROLLER = """
import sys
import ssh_service
job = ssh_service.start_job(
    {web!r}, "for i in 1 2 3 4 5 6 7 8 9; do echo $i; echo $i >&2; sleep 0.2; done; exit 6",
    id="controlled",
)
print("started", flush=True)
for line in job.lines():
    print(line, end="", flush=True)
print(job.result().exit_status, flush=True)
"""


def test_killed_controller_finds_its_job_again(
    job_host: JobHost, cache: SshClientCache, tmp_path: Path
) -> None:
    """With -9 in the middle, and started again: output and status are complete."""
    program = CONTROLLER.format(web=job_host.web)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def control() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment,
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )

    with control() as first:
        assert first.stdout is not None
        assert [first.stdout.readline() for _ in range(3)] == ["started\n", "1\n", "2\n"]
        first.kill()
    with control() as second:
        output, _ = second.communicate(timeout=PATIENCE)
    numbers = "".join(f"{number}\n" for number in range(1, 10))
    assert output == f"started\n{numbers}6\n"
    assert find_job(job_host.web, "controlled", cache=cache).result().stderr == numbers


def test_hundred_waits_share_one_session_and_delay_nobody(
    job_host: JobHost, cache: SshClientCache
) -> None:
    """100 jobs at once: one session is used for all waits, and no thread for each."""
    sent: List[Any] = []
    jobs: List[Any] = [None] * 100

    def start(number: int) -> None:
        jobs[number] = start_job(
            job_host.web,
            f"while [ ! -e {job_host.folder}/go ]; do sleep 1; done; exit {number}",
            id=f"many{number}",
            cache=cache,
        )

    in_threads(100, start)
    cache.subscribe(sent.append)
    threads = threading.active_count()
    waits = [Outcome(functools.partial(job.wait, 4 * PATIENCE)) for job in jobs]
    run(job_host.web, "true", cache=cache)
    began = time.monotonic()
    for _ in range(20):
        run(job_host.web, "true", cache=cache)
    assert time.monotonic() - began < 5.0
    assert threading.active_count() - threads - len(waits) < 10
    (job_host.folder / "go").touch()
    assert [str(wait.wait(4 * PATIENCE).value) for wait in waits] == [
        f"ended({number})" for number in range(100)
    ]
    background.drain(PATIENCE)
    assert sum(isinstance(event, events.CommandSent) for event in sent) == 22
    (job_host.folder / "go").unlink()
