"""The contract: remote_exec and its results, on a server that behaves."""

from __future__ import annotations

import logging
import os
import pwd
import time
from concurrent.futures import Future
from typing import Any, Dict, Iterator, List

import pytest

from ssh_service import SshHostService, Status
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import eventually

from .conftest import FUTURE, Run, results

OUTPUT = {"stdout", "stderr", "ssh_completed_process_result"}


def test_it_returns_pending_at_once_with_a_real_future(
    host: SshHostService, call: Dict[str, Any], sshd: Sshd
) -> None:
    before = dict(call)
    begin = time.monotonic()
    status, info = host.remote_exec(["sleep 0.5", "echo done"], call, {})
    assert time.monotonic() - begin < 0.4
    assert status == Status.PENDING
    assert isinstance(info[FUTURE], Future)
    assert call == before
    assert results(host, info)[1]["stdout"] == "done\n"


def test_results_can_be_fetched_twice_by_either_name(
    host: SshHostService, call: Dict[str, Any]
) -> None:
    _, info = host.remote_exec("echo out; echo err >&2", call, {})
    first = results(host, info)
    assert host.get_remote_exec_results(info) == first
    assert host.wait_os_operation(info) == first
    assert set(first[1]) == OUTPUT
    assert (first[1]["stdout"], first[1]["stderr"]) == ("out\n", "err\n")


@pytest.mark.parametrize(
    "script, code",
    [
        ("exit 0", 0),
        ("exit 3", 3),
        (["true", "false"], 1),
        (["false", "true"], 0),  # no set -e
        ("no_such_command_here", 127),
        (["exit 255"], 255),
    ],
)
def test_the_exit_status_decides(run: Run, script: Any, code: int) -> None:
    status, result = run(script)
    assert status == (Status.SUCCEEDED if code == 0 else Status.FAILED)
    process = result["ssh_completed_process_result"]
    assert (process.exit_status, process.returncode) == (code, code)
    assert process.exit_signal is None
    assert set(result) == OUTPUT


@pytest.mark.parametrize("name, number", [("KILL", 9), ("TERM", 15), ("SEGV", 11)])
def test_a_signal_keeps_the_output_and_has_its_number(run: Run, name: str, number: int) -> None:
    status, result = run(f"echo before; kill -{name} $$; sleep 5")
    process = result["ssh_completed_process_result"]
    assert status == Status.FAILED
    assert (process.exit_status, process.returncode) == (-1, -number)
    assert process.exit_signal[0] == name
    assert result["stdout"] == "before\n"


def lines() -> Iterator[str]:
    yield "echo a"
    yield "echo b"


@pytest.mark.parametrize(
    "script, stdout",
    [
        ("echo a; echo b", "a\nb\n"),
        ("echo a\necho b\n", "a\nb\n"),
        (["echo a", "echo b"], "a\nb\n"),
        (("echo a", "echo b"), "a\nb\n"),
        (lines(), "a\nb\n"),
        (["if true", "then echo a", "fi", "", "echo b"], "a\nb\n"),
        (["cat <<END", "a", "  b c", "END"], "a\n  b c\n"),
        (["cat <<'END'\n$HOME `x`\nEND"], "$HOME `x`\n"),
        (["echo a \\", "b"], "a b\n"),
        (["cat <<END\n", "a\n", "END\n", "echo b \\\n", "c\n"], "a\nb c\n"),  # as a file gives
        ("if true\r\nthen echo a\r\nfi\r\n", "a\n"),  # as Windows writes
        (["# nothing", "echo a"], "a\n"),
        (["   echo a   ", "\techo b"], "a\nb\n"),
        (["printf '%s' \"it's\""], "it's"),
        (["echo 'x\u2028y\x0bz'"], "x\u2028y\x0bz\n"),  # only real line ends split lines
    ],
)
def test_scripts_come_in_many_forms(run: Run, script: Any, stdout: str) -> None:
    status, result = run(script)
    assert (status, result["stdout"], result["stderr"]) == (Status.SUCCEEDED, stdout, "")


@pytest.mark.parametrize("script", ["", [], "\n", ["", ""], "# only this"])
@pytest.mark.parametrize("env", [{}, {"X": "1"}])
def test_a_script_that_does_nothing_succeeds(run: Run, script: Any, env: Dict[str, Any]) -> None:
    status, result = run(script, env)
    assert (status, result["stdout"], result["stderr"]) == (Status.SUCCEEDED, "", "")
    assert result["ssh_completed_process_result"].exit_status == 0


@pytest.mark.parametrize("script", [None, 5, [5], b"true", [b"true"]])
def test_a_script_of_the_wrong_type_fails_at_once(
    host: SshHostService, call: Dict[str, Any], script: Any
) -> None:
    with pytest.raises(ValueError, match="script"):
        host.remote_exec(script, call, {})


def test_stdin_is_at_its_end_from_the_start(run: Run) -> None:
    for env in ({}, {"X": "1"}):
        assert run("cat; echo end", env)[1]["stdout"] == "end\n"


def test_script_has_no_terminal_and_starts_at_home(run: Run, sshd: Sshd) -> None:
    home = pwd.getpwnam(sshd.username).pw_dir
    script = [
        "tty",
        "pwd",
        'echo "$HOME"',
        'echo "${TERM:-dumb}"',
        'case "$0" in -*) echo login;; *) echo no login;; esac',
    ]
    real_home = os.path.realpath(home)
    expected = ["not a tty", real_home, home, "dumb", "no login"]
    assert run(script)[1]["stdout"].splitlines() == expected


def test_text_is_utf_8(run: Run) -> None:
    text = "grüße, 漢字, 🎉"
    assert run(f"echo '{text}'; echo '{text}' >&2")[1]["stdout"] == text + "\n"


def test_characters_may_arrive_in_pieces(run: Run) -> None:
    assert run(r"printf '\303'; sleep 0.1; printf '\274'")[1]["stdout"] == "ü"


def test_nul_and_carriage_return_arrive_as_they_are(run: Run) -> None:
    assert run(r"printf 'a\000b\rc\r\nd'")[1]["stdout"] == "a\0b\rc\r\nd"


def test_undecodable_output_is_escaped_and_kept_as_bytes(
    host: SshHostService, call: Dict[str, Any], run: Run, sshd: Sshd
) -> None:
    _, slow = host.remote_exec("sleep 0.5; echo unharmed", call, {})
    status, result = run(r"printf 'a\377b'")
    assert (status, result["stdout"]) == (Status.SUCCEEDED, "a\\xffb")
    assert result["ssh_completed_process_result"].stdout_bytes == b"a\xffb"
    assert results(host, slow)[1]["stdout"] == "unharmed\n"
    assert sshd.logins() == 1


def test_much_output_on_both_streams_arrives_whole(run: Run) -> None:
    size = 8 << 20
    script = f"head -c {size} /dev/zero | tr '\\0' x; head -c {size} /dev/zero | tr '\\0' y >&2"
    status, result = run(script)
    assert status == Status.SUCCEEDED
    assert result["stdout"] == "x" * size
    assert result["stderr"] == "y" * size


def test_a_result_waits_for_background_children_that_hold_stdout(run: Run) -> None:
    begin = time.monotonic()
    status, result = run("(sleep 1; echo child) & echo parent")
    assert (status, result["stdout"]) == (Status.SUCCEEDED, "parent\nchild\n")
    assert time.monotonic() - begin >= 0.9


def test_detached_children_do_not_delay_it(run: Run) -> None:
    begin = time.monotonic()
    assert run("sleep 3 >/dev/null 2>&1 & echo parent")[1]["stdout"] == "parent\n"
    assert time.monotonic() - begin < 2.5


@pytest.mark.parametrize("size", [1 << 10, 100_000, 1 << 20])
def test_long_scripts_run_and_leave_the_connection_whole(run: Run, sshd: Sshd, size: int) -> None:
    padding = "\n".join(["# " + "x" * 98] * (size // 100))
    assert run(f"{padding}\necho end")[1]["stdout"] == "end\n"
    assert run("echo still here")[1]["stdout"] == "still here\n"
    assert sshd.logins() == 1


def test_a_script_beyond_16_mib_fails_at_once(host: SshHostService, call: Dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="script"):
        host.remote_exec("#" * ((16 << 20) + 1), call, {})


class TestEnvironment:
    """Environment variables."""

    def test_they_are_exported_and_gone_with_the_script(self, run: Run) -> None:
        _, result = run("echo $X; sh -c 'echo $X'", {"X": "1"})
        assert result["stdout"] == "1\n1\n"
        assert run("echo ${X-unset}")[1]["stdout"] == "unset\n"

    @pytest.mark.parametrize(
        "value",
        [
            "$HOME `id` $(id) ${X}",
            'double " quote',
            "it's",
            "x'; echo INJECTED; V='y",
            "back\\slash \\n",
            "two\nlines\n",
            "* ? [a-z] ; & | < > # ~ !",
            "  spaces  ",
            "",
            "\t\r",
            "grüße 🎉",
            "-n",
        ],
    )
    def test_values_arrive_to_the_letter(self, run: Run, value: str) -> None:
        status, result = run("printf '%s' \"$X\"", {"X": value})
        assert (status, result["stdout"]) == (Status.SUCCEEDED, value)
        assert result["stderr"] == ""

    @pytest.mark.parametrize("value", [1, 1.5, None, True])
    def test_values_of_simple_types_go_through_str(self, run: Run, value: Any) -> None:
        assert run("printf '%s' \"$X\"", {"X": value})[1]["stdout"] == str(value)

    @pytest.mark.parametrize("name", ["A-B", "1A", "", "A B", "A=B", "X;id", "ü", "A\n"])
    def test_invalid_variable_name_raises_at_once(
        self, host: SshHostService, call: Dict[str, Any], name: str
    ) -> None:
        with pytest.raises(ValueError, match="environment"):
            host.remote_exec("true", call, {name: "secret"})

    def test_they_are_in_no_process_list(self, run: Run) -> None:
        _, result = run("ps -eo args | grep -c 'n[o]body-must-see' || :", {"X": "nobody-must-see"})
        assert result["stdout"] == "0\n"

    def test_result_has_the_environment(self, run: Run) -> None:
        process = run("true", {"X": 1})[1]["ssh_completed_process_result"]
        assert process.env == {"X": "1"}
        assert process.command == "true"
        assert process.subsystem is None


def test_neither_script_nor_environment_is_logged_above_debug(
    host: SshHostService, call: Dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(ValueError) as caught:
        host.remote_exec("true", call, {"A-B": "v-a-l-u-e"})
    _, info = host.remote_exec("exit 3 # s-c-r-i-p-t", call, {"NAME_": "v-a-l-u-e"})
    assert results(host, info)[0] == Status.FAILED
    for hidden in ("s-c-r-i-p-t", "NAME_", "v-a-l-u-e"):
        assert hidden not in caplog.text
        assert hidden not in str(caught.value)


def test_callbacks_of_the_future_may_wait_and_call_again(
    host: SshHostService, call: Dict[str, Any]
) -> None:
    seen: List[Any] = []

    def again(future: Any) -> None:
        _, info = host.remote_exec("echo from the callback", call, {})
        seen.append(results(host, info)[1]["stdout"])
        raise ValueError("mine")

    _, info = host.remote_exec("true", call, {})
    info[FUTURE].add_done_callback(again)
    _, other = host.remote_exec("sleep 0.3; echo undisturbed", call, {})
    assert results(host, other)[1]["stdout"] == "undisturbed\n"
    eventually(lambda: bool(seen))
    assert seen == ["from the callback\n"]
