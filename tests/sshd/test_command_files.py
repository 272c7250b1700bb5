"""Files as a command's stdin, stdout and stderr."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, List

import pytest

from ssh_service import (
    SshClientCache,
    SshConfigError,
    SshServiceError,
    SshStdioError,
    run,
    start,
    threads,
)
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import PATIENCE, eventually


@pytest.fixture
def options(cache: SshClientCache) -> Any:
    """The options of all commands here."""
    return {"cache": cache, "timeout": PATIENCE}


def test_binary_files_get_the_bytes_of_the_output(
    sshd: Sshd, options: Any, tmp_path: Path
) -> None:
    with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
        done = run(
            sshd.connect_params,
            "head -c 3000000 /dev/zero; printf '\\377' >&2; exit 3",
            stdout=out,
            stderr=err,
            **options,
        )
        assert (out.tell(), err.tell()) == (3_000_000, 1)  # all of it, when `run` returns
    assert (done.exit_status, done.stdout, done.stderr) == (3, "", "")
    assert (tmp_path / "out").read_bytes() == bytes(3_000_000)
    assert (tmp_path / "err").read_bytes() == b"\xff"


def test_text_files_get_the_text_of_the_output(sshd: Sshd, options: Any) -> None:
    out = io.StringIO()
    run(sshd.connect_params, "printf 'caf\\303\\251\\n'", stdout=out, **options)
    assert out.getvalue() == "café\n"
    out = io.StringIO()
    script = "printf 'caf\\351\\n'"
    with start(sshd.connect_params, script, stdout=out, encoding="latin-1", **options) as process:
        process.result(PATIENCE)
    assert out.getvalue() == "café\n"


def test_temporary_files_are_text_or_binary_as_they_were_opened(sshd: Sshd, options: Any) -> None:
    with tempfile.NamedTemporaryFile("w+", encoding="utf-8") as text:
        run(sshd.connect_params, "printf 'caf\\303\\251\\n'", stdout=text, **options)
        text.seek(0)
        assert run(sshd.connect_params, "cat", stdin=text, **options).stdout == "café\n"
    with tempfile.NamedTemporaryFile() as binary:
        run(sshd.connect_params, "printf '\\377'", stdout=binary, **options)
        binary.seek(0)
        assert run(sshd.connect_params, "wc -c", stdin=binary, **options).stdout.strip() == "1"


@pytest.mark.parametrize("count, why", [(0, "takes no data"), (-1, "says that it has written -1")])
def test_a_file_that_takes_nothing_is_an_error(
    sshd: Sshd, options: Any, count: int, why: str
) -> None:
    class Stuck:
        def write(self, data: Any) -> int:
            return count

    out: Any = Stuck()
    with pytest.raises(SshStdioError, match=f"stdout cannot be written: the file {why}"):
        run(sshd.connect_params, "echo hello", stdout=out, **options)


def test_where_no_thread_can_be_had_a_file_as_stdin_is_an_error_of_ours(
    sshd: Sshd, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise threads.NoMoreThreads("can't start new thread")

    run(sshd.connect_params, "true", **options)
    monkeypatch.setattr(threads, "start_thread", refuse)
    with pytest.raises(SshServiceError, match="stdin: .* can't start new thread"):
        run(sshd.connect_params, "cat", stdin=io.StringIO("x"), **options)


def test_a_raw_file_that_takes_a_part_at_a_time_gets_everything(sshd: Sshd, options: Any) -> None:
    class Slow:
        taken = b""

        def write(self, data: Any) -> int:
            self.taken += bytes(data[:1000])
            return min(len(data), 1000)

    out: Any = Slow()
    run(sshd.connect_params, "seq 1 2000", stdout=out, **options)
    assert out.taken.split() == [str(number).encode() for number in range(1, 2001)]


def test_input_comes_from_a_files_position_to_its_end(
    sshd: Sshd, options: Any, tmp_path: Path
) -> None:
    data = os.urandom(5_000_000)
    (tmp_path / "in").write_bytes(data)
    with open(tmp_path / "in", "rb") as file:
        file.seek(1000)
        done = run(sshd.connect_params, "sha256sum", stdin=file, **options)
        assert not file.closed
    assert done.stdout.split()[0] == hashlib.sha256(data[1000:]).hexdigest()


def test_input_comes_from_a_text_file_as_utf_8(sshd: Sshd, options: Any) -> None:
    done = run(sshd.connect_params, "cat", stdin=io.StringIO("café\n" * 3), **options)
    assert done.stdout == "café\n" * 3


@pytest.mark.parametrize("mode", ["r", "rb"])
def test_input_from_a_pipe_is_sent_as_it_comes(sshd: Sshd, options: Any, mode: str) -> None:
    reading, writing = os.pipe()
    with open(reading, mode) as source, open(writing, "wb", buffering=0) as sink:
        with start(sshd.connect_params, "cat", stdin=source, **options) as process:
            lines = process.lines()
            for number in range(3):
                sink.write(b"%d\n" % number)
                assert next(lines) == f"{number}\n"  # before the next one is there
            sink.close()
            assert process.result(PATIENCE).exit_status == 0


def test_a_command_need_not_read_all_of_a_file(sshd: Sshd, options: Any) -> None:
    with open("/dev/zero", "rb") as endless:
        done = run(sshd.connect_params, "head -c 10 | wc -c", stdin=endless, **options)
    assert done.stdout.strip() == "10"


def test_a_full_file_in_non_blocking_mode_is_an_error_and_loses_nothing_in_silence(
    sshd: Sshd, options: Any
) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(reading, "rb"), open(writing, "wb", buffering=0) as full:
        with pytest.raises(
            SshStdioError, match="stdout cannot be written.*non-blocking"
        ) as caught:
            run(sshd.connect_params, "head -c 1000000 /dev/zero", stdout=full, **options)
    assert caught.value.errno == errno.EAGAIN


@pytest.mark.parametrize("name, number, other", [("stdout", 1, 2), ("stderr", 2, 1)])
@pytest.mark.parametrize(
    "script",
    [
        "while echo x >&{other} && echo x >&{number}; do :; done",
        "echo x >&{other}; echo x >&{number}",
    ],
)
def test_a_full_disk_ends_the_command_with_its_error(
    sshd: Sshd, options: Any, name: str, number: int, other: int, script: str
) -> None:
    """Whether the command goes on, or has ended meanwhile."""
    text = script.format(number=number, other=other)
    with open("/dev/full", "wb", buffering=0) as full:
        with pytest.raises(SshStdioError, match=f"{name} cannot be written.*/dev/full") as caught:
            run(sshd.connect_params, text, **{**options, name: full})
    error = caught.value
    assert (error.errno, error.filename, error.ended) == (errno.ENOSPC, "/dev/full", True)
    assert isinstance(error, OSError)
    assert error.process is not None
    kept = error.process.stderr if name == "stdout" else error.process.stdout
    assert kept.startswith("x\n")
    assert run(sshd.connect_params, "echo on", **options).stdout == "on\n"


def test_a_file_that_cannot_be_read_ends_the_command_with_its_error(
    sshd: Sshd, options: Any
) -> None:
    class Failing:
        has_begun = False

        def read(self, size: int = -1) -> bytes:
            if not self.has_begun:
                self.has_begun = True
                return b"begun\n"
            eventually(lambda: received, "the command has read the beginning")
            raise OSError(errno.EIO, "the disk is broken")

    received: List[str] = []
    source: Any = Failing()
    with pytest.raises(SshStdioError, match="stdin cannot be read: the disk is broken") as caught:
        run(
            sshd.connect_params,
            "trap '' TERM; cat; echo whole",
            stdin=source,
            on_stdout=received.append,
            **options,
        )
    assert caught.value.errno == errno.EIO
    assert received == ["begun\n"]  # without an end of file, which looks like the end of the input


def test_a_file_whose_read_exits_ends_the_command_too(sshd: Sshd, options: Any) -> None:
    class Exiting:
        def read(self, size: int = -1) -> bytes:
            raise SystemExit(3)

    source: Any = Exiting()
    with pytest.raises(SshStdioError, match="stdin cannot be read: 3") as caught:
        run(sshd.connect_params, "cat", stdin=source, **options)
    assert isinstance(caught.value.__cause__, SystemExit)


def test_a_file_that_is_open_for_writing_is_no_input(
    sshd: Sshd, options: Any, tmp_path: Path
) -> None:
    with open(tmp_path / "file", "w") as file:
        with pytest.raises(SshStdioError, match=f"stdin cannot be read .*{file.name}.*readable"):
            run(sshd.connect_params, "cat", stdin=file, **options)


def test_constants_of_subprocess_mean_what_they_mean_there(sshd: Sshd, options: Any) -> None:
    nothing, kept = subprocess.DEVNULL, subprocess.PIPE
    script = "cat; echo out; echo error >&2"
    where = sshd.connect_params
    done = run(where, script, stdin=nothing, stdout=nothing, stderr=kept, **options)
    assert (done.stdout, done.stderr) == ("", "error\n")
    assert run(where, script, stdin=kept, stdout=kept, **options).stdout == "out\n"
    with start(where, script, stdin=nothing, **options) as process:
        assert process.result().stdout == "out\n"
    with start(where, script, stdin=kept, **options) as process:
        process.write("in ")
        process.close_stdin()
        assert process.result().stdout == "in out\n"


@pytest.mark.parametrize(
    "given, said",
    [
        ({"stdout": 1}, "stdout: expected a file .* got 1"),
        ({"stderr": subprocess.STDOUT}, "got subprocess.STDOUT; `2>&1`"),
        ({"stdout": subprocess.PIPE, "on_stdout": print}, "give at most one"),
        ({"stdout": "out.txt"}, "stdout: expected a file .* got str"),
        ({"stdin": 0}, "stdin: expected a text, bytes or a file .* got 0"),
        ({"stdin": subprocess.DEVNULL, "input": "x"}, "at most one"),
        ({"stdin": {}}, "stdin: expected a text, bytes or a file .* got dict"),
        ({"stdin": io.StringIO(), "input": "x"}, "at most one"),
        ({"stdout": io.BytesIO(), "on_stdout": print}, "stdout, on_stdout: give at most one"),
        ({"stdout": io.StringIO(), "encoding": None}, "needs an encoding"),
    ],
)
def test_what_is_no_file_is_refused_at_once(given: Any, said: str) -> None:
    with pytest.raises(SshConfigError, match=said):
        run("nowhere.invalid", "true", **given)
