"""The parameters of sudo: what is accepted, what is hidden, and what is sent."""

from __future__ import annotations

import pickle
import shlex
from typing import Any, Callable, List

import pytest

from ssh_service import Host, download, fleet, run, start, start_job, upload
from ssh_service.commands import sudo_input
from ssh_service.commands.sudo import Sudo, check_sudo
from ssh_service.commands.sudo_input import SudoInput
from ssh_service.errors import SshConfigError
from ssh_service.fleet.task import FleetTask
from ssh_service.secret import Secret
from tests.common import assert_no_frame_knows

SECRET = "hunter2 is it"


@pytest.mark.parametrize("sudo", [None, False])
def test_check_sudo_without_sudo_is_none(sudo: Any) -> None:
    assert check_sudo(sudo, None) is None


@pytest.mark.parametrize("user", ["deploy", "a.b-c+d@example.org", "_x", "#0"])
def test_check_sudo_users_are_accepted(user: str) -> None:
    assert check_sudo(user, None) == Sudo(user)
    assert check_sudo(True, SECRET) == Sudo(None, Secret(SECRET))


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"sudo": "-u root"}, "sudo: expected True, False or a user's name, got '-u root'"),
        ({"sudo": ""}, "sudo: expected True, False or a user's name"),
        ({"sudo": "a;b"}, "sudo: expected"),
        ({"sudo": 1}, "sudo: expected True, False or a user's name, got 1"),
        ({"sudo_password": SECRET}, "sudo_password: needs sudo=True"),
        ({"sudo": True, "sudo_password": ""}, "sudo_password: .*an empty text"),
        ({"sudo": True, "sudo_password": f"{SECRET}\n"}, "a text with a line end or NUL"),
        ({"sudo": True, "sudo_password": f"{SECRET}\0"}, "a text with a line end or NUL"),
        ({"sudo": True, "sudo_password": f"{SECRET}\ud800"}, "a lone surrogate"),
        ({"sudo": True, "sudo_password": 3}, "a value of the type int"),
    ],
)
def test_wrong_sudo_is_refused_before_anything_is_sent(options: Any, complaint: str) -> None:
    """No message shows the password."""
    calls: List[Callable[[], Any]] = [
        lambda: run("nobody@192.0.2.1", "id", **options),
        lambda: start("nobody@192.0.2.1", "id", **options),
        lambda: Host("nobody@192.0.2.1").run("id", **options),
        lambda: fleet.run(["192.0.2.1"], "id", **options),
        lambda: start_job({"host": "192.0.2.1", "username": "nobody"}, "id", **options),
    ]
    for call in calls:
        with pytest.raises(SshConfigError, match=complaint) as caught:
            call()
        assert SECRET not in str(caught.value)
        assert_no_frame_knows(caught.value, SECRET)


def test_shell_of_a_command_of_args_is_refused_with_sudo() -> None:
    with pytest.raises(SshConfigError, match="shell: has no effect with args and sudo"):
        run("nobody@192.0.2.1", args=["id"], shell="/bin/sh", sudo=True)


def test_copies_with_sudo_are_refused_in_a_sentence_that_names_a_way() -> None:
    """Also those of many hosts."""
    uploads: List[Any] = [(upload, "nobody@192.0.2.1"), (fleet.upload, ["192.0.2.1"])]
    downloads: List[Any] = [(download, "nobody@192.0.2.1"), (fleet.download, ["192.0.2.1"])]
    for sudo in (True, "deploy"):
        for copy, hosts in uploads:
            with pytest.raises(SshConfigError, match="'install'.*sudo=True"):
                copy(hosts, "a", "/etc/b", sudo=sudo)
        for copy, hosts in downloads:
            with pytest.raises(SshConfigError, match="log in as another user, or take"):
                copy(hosts, "/etc/b", "a", sudo=sudo)


def test_path_with_sudo_is_refused_in_a_sentence_that_names_a_way() -> None:
    with pytest.raises(SshConfigError, match="sudo: a path has the rights .*'tee'.*sudo=True"):
        Host("nobody@192.0.2.1").path("/etc/shadow", sudo=True)


def test_wrapped_script_is_valid_in_single_quotes_of_any_shell() -> None:
    """In its words for sudo there is nothing but the user, our mark and the shell."""
    command = Sudo("deploy", Secret(SECRET)).wrap('eval "$_ssh_s"', "/bin/ba'sh", "<12:")
    outer, inner, shell = shlex.split(command)[3:]
    for text in (outer, inner):
        assert not set(text) & set("'\\!\n")
    assert shell == "/bin/ba'sh" and SECRET not in command
    assert '-S -p "<12:ask>" -u "deploy" --' in outer and inner.startswith(
        'printf "<12:%s>" begin'
    )


def test_sudo_without_a_password_never_reads_input() -> None:
    sudo = Sudo()
    assert " -n --" in sudo.wrap("true", None, "<12:") and "-S" not in sudo.wrap("", None, "<12:")
    for has_variables, option in ((False, ""), (True, " -E")):
        script = sudo.script("'id'", has_variables, "<12:")
        assert "-S" not in script and "read" not in script and "set -- -n\n" in script
        assert f'_ssh_f "$@"{option} 2>' in script and """{ sudo "$@" -- 'id'; }""" in script


def test_task_of_a_fleet_hides_the_password_except_in_a_pickle() -> None:
    """The warning about plain text in pickles is that of connect parameters."""
    arguments = {"text": "id", "sudo": True, "sudo_password": Secret(SECRET)}
    task = FleetTask("run", arguments, {}, None)
    assert SECRET not in repr(task)
    again = pickle.loads(pickle.dumps(task))
    assert again.arguments == arguments and SECRET not in repr(again)


def test_function_for_the_password_is_called_once_for_all_that_sudo_runs() -> None:
    """The script that ends a command needs the password again."""
    calls: List[int] = []

    def password() -> str:
        calls.append(1)
        return SECRET

    sudo, again = check_sudo(True, password), check_sudo(True, password)
    assert sudo is not None and sudo == again and hash(sudo) == hash(again)
    assert [sudo.secret() for _ in range(2)] == [Secret(SECRET)] * 2 and len(calls) == 1
    assert SECRET not in repr(sudo) and check_sudo(True, sudo.password) == sudo


class Driver:
    """The input under sudo, with what it sends and the errors that it reports."""

    def __init__(self, waits_for_sudo: bool = True) -> None:
        self.sent: List[bytes] = []
        self.errors: List[str] = []
        self.timers: List[Callable[[], None]] = []
        self.input = SudoInput(
            Sudo(None, Secret(SECRET)),
            self,
            None,
            "web1",
            terminal=False,
            waits_for_sudo=waits_for_sudo,
            refuse=lambda error: self.errors.append(str(error)),
            run_callback=lambda function: function(),
            set_timer=lambda seconds, function: self.timers.append(function),
        )
        channel: Any = self
        self.input.start(channel, b"script")

    def mark(self, word: str) -> bytes:
        return f"{self.input.mark_start}{word}>".encode()

    # The source.

    def start(self, channel: Any, preamble: bytes = b"") -> None:
        self.sent.append(preamble)

    def pump(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    # The channel.

    def send_some(self, data: bytes, wait: bool) -> int:
        self.sent.append(bytes(data))
        return len(data)

    def send_eof(self) -> None:
        self.sent.append(b"EOF")


def test_password_is_sent_once_after_the_prompt_and_the_script_after_that() -> None:
    driver = Driver()
    assert driver.sent == []
    assert driver.input.strip(b"lecture\n" + driver.mark("ask")[:5]) == b""
    assert driver.sent == []
    assert driver.input.strip(driver.mark("ask")[5:]) == b""
    assert driver.sent == [f"{SECRET}\n".encode()]
    assert driver.input.strip(driver.mark("begin") + b"out" + driver.mark("ask")) == (
        b"out" + driver.mark("ask")  # nothing of the script's own output is a prompt
    )
    assert driver.sent[1:] == [b"script"] and driver.errors == []
    assert driver.input.strip(driver.mark("ask")) == driver.mark("ask")
    assert len(driver.sent) == 2 and driver.input.flush() == b""


def test_second_prompt_gets_the_end_of_file_and_is_an_error() -> None:
    driver = Driver()
    driver.input.strip(driver.mark("ask"))
    driver.input.strip(b"Sorry, try again.\n" + driver.mark("ask"))
    (error,) = driver.errors
    assert "asked a second time" in error and "'Sorry, try again.'" in error
    driver.input.give_up()
    driver.input.give_up()
    driver.input.strip(driver.mark("ask") + driver.mark("begin"))
    assert driver.sent[1:] == [b"EOF"] and len(driver.errors) == 1


def test_script_is_not_sent_after_sudo_was_given_up() -> None:
    driver = Driver()
    driver.input.give_up()
    driver.input.strip(driver.mark("ask") + driver.mark("begin"))
    assert driver.sent == [b"EOF"]


def test_command_is_not_started_after_sudo_was_given_up() -> None:
    """One that may have been started takes more to end."""
    driver = Driver()
    driver.input.strip(driver.mark("ask"))
    driver.input.give_up()
    driver.input.strip(driver.mark("ready"))
    assert driver.sent[1:] == [b"EOF"] and not driver.input.may_run
    started = Driver()
    started.input.strip(started.mark("ready"))
    started.input.give_up()
    assert started.sent == [b"\n"] and started.input.may_run and not started.input.has_begun
    assert started.input.strip(started.mark("begin") + b"out") == b"out"


def test_silence_is_an_error_unless_sudo_has_asked_or_begun() -> None:
    driver = Driver()
    (first,) = driver.timers
    driver.input.strip(driver.mark("ask"))
    first()
    assert driver.errors == []
    driver.timers[1]()
    assert "did not accept the password" in driver.errors[0]
    begun = Driver()
    begun.input.strip(begun.mark("begin"))
    begun.timers[0]()
    assert begun.errors == []


def test_error_shows_no_argument_and_no_part_of_the_password() -> None:
    """Not even where the output is broken or cut off; the rest of it stays as it is."""
    words = ["/usr/bin/a", "s", "it's\nlong " * 1000]
    for shown in ("a s it's\nlong it's", "a " + " ".join(words[1:])):
        assert sudo_input._without_arguments(
            (b"sudo says as " * 400 + shown.encode()), words
        ).endswith(b"says as a ...")
    for secret, text in ((b"pass word", b"a passwo\r\n  rd b"), (b"  ", b"a   b")):
        assert sudo_input._without_secret(text, secret) in (b"a *** b", b"a*** b")
    assert sudo_input._without_secret(b"x" * 9, b"xxxx") == b"******x"
