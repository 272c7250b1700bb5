"""The verbs for programs, against the server inside the process."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import weakref
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

import ssh_service
from ssh_service import (
    SshCommandTimeout,
    SshConfigError,
    SshConnectError,
    SshConnectTimeout,
    api,
    close_all,
    copies,
    default_cache,
    fleet,
    operations,
    run,
    start,
    upload,
)
from ssh_service.commands.command import Command
from ssh_service.connections.cache import SshClientCache
from ssh_service.testing.mock_sshd import MockSshd
from ssh_service.transport import SshTransport
from tests.common import PATIENCE, eventually


@pytest.mark.parametrize(
    "option, value, complaint",
    [
        ("cache", "mine", "cache: expected an SshClientCache, got str"),
        ("pty", "no", "pty: expected True or False, got 'no'"),
        ("encoding", "no-such", "encoding: expected one that Python knows"),
        ("encoding", "idna", "encoding: expected one that Python knows"),
        ("encoding", None, "take the bytes from stdout_bytes"),
    ],
)
def test_run_wrong_option_is_an_error_at_once(option: str, value: Any, complaint: str) -> None:
    """Nothing is dialled first, and no text counts as true."""
    with pytest.raises(SshConfigError, match=complaint):
        run({"host": "127.0.0.1", "port": 1}, "true", **{option: value})


def test_a_call_that_times_out_while_connecting_says_in_which_phase(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    """Also if only the call has a limit, and the dial goes on."""
    mock_sshd.freeze(listener=True)
    with pytest.raises(
        SshConnectTimeout, match=r"not connected within 0\.3 s \(phase: banner\)"
    ) as caught:
        run(mock_sshd.connect_params, "true", timeout=0.3, cache=ssh_cache)
    assert caught.value.phase == "banner"


@pytest.mark.parametrize("option", ["cache", "progress"])
def test_copy_wrong_option_is_an_error_at_once(option: str) -> None:
    """Nothing is dialled first."""
    with pytest.raises(SshConfigError, match=f"{option}: expected"):
        wrong: Any = {option: "x"}
        upload({"host": "127.0.0.1", "port": 1}, "a", "b", **wrong)


def test_run_leaves_nothing_to_the_garbage_collector(
    mock_sshd: MockSshd, ssh_cache: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command goes with its last reference, its session and its channel with it."""
    made: "List[weakref.ref[Any]]" = []

    class Noted(Command):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(weakref.ref(self))

    monkeypatch.setattr(api, "Command", Noted)
    gc.disable()
    try:
        for _ in range(3):
            run(mock_sshd.connect_params, "true", cache=ssh_cache)
        eventually(lambda: len(made) == 3 and not any(command() for command in made))
    finally:
        gc.enable()


@pytest.mark.parametrize("begin", [run, start])
@pytest.mark.parametrize("encoding, text", [("latin-1", "\xe4"), ("utf-8", "\\xe4")])
def test_outcome_text_has_the_encoding_that_was_given(
    begin: Callable[..., Any],
    encoding: str,
    text: str,
    mock_sshd: MockSshd,
    ssh_cache: SshClientCache,
) -> None:
    """`stdout` and `stderr` are decoded by `encoding`; the bytes are there, too."""
    script = r"printf '\344'; printf '\344' >&2"
    done = begin(mock_sshd.connect_params, script, encoding=encoding, cache=ssh_cache)
    if begin is start:
        done = done.result(PATIENCE)
    assert (done.stdout, done.stderr, done.stdout_bytes) == (text, text, b"\xe4")
    assert pickle.loads(pickle.dumps(done)).stdout == text


def test_start_without_encoding_gives_bytes_and_outcome_text(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    """Lines are bytes; the outcome's text is UTF-8."""
    script = r"echo a; echo b >&2"
    with start(mock_sshd.connect_params, script, encoding=None, cache=ssh_cache) as process:
        assert list(process.lines()) == [b"a\n"]
        assert process.result(PATIENCE).stderr == "b\n"


@pytest.mark.parametrize("call", [run, start])
@pytest.mark.parametrize("value", [None, b"secret"])
def test_environment_value_none_or_bytes_is_an_error(call: Callable[..., Any], value: Any) -> None:
    """The text ``None`` or ``b'secret'`` is never sent; the error names the variable."""
    with pytest.raises(SshConfigError, match="environment variable 'A'") as caught:
        call({"host": "127.0.0.1", "port": 1}, "true", env={"A": value})
    assert "secret" not in str(caught.value)


def test_run_text_option_of_subprocess_is_named_in_the_error() -> None:
    """Not "multiple values": the script has another name."""
    options: Dict[str, Any] = {"text": True}
    with pytest.raises(TypeError, match="unexpected keyword argument 'text'"):
        run({"host": "127.0.0.1", "port": 1}, "true", **options)


@pytest.mark.parametrize(
    "host, hint",
    [
        ("root@nowhere.invalid", "set the user by the parameter username"),
        ("nowhere.invalid:22", "set the port by the parameter port"),
        ("nowhere[1-2].invalid", "fleet.expand"),
    ],
)
def test_run_host_with_user_or_port_in_it_is_explained(host: str, hint: str) -> None:
    """People write user@host:port; here these are three parameters."""
    with pytest.raises(SshConnectError, match=f"cannot be resolved: .*{hint}"):
        run({"host": host, "username": "demo"}, "true")


def test_the_output_of_a_command_that_has_ended_is_not_lost(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    process = start(mock_sshd.connect_params, "echo out; echo err >&2; exit 3", cache=ssh_cache)
    process.future.result(20)  # it ended before anybody asked for its output
    done = process.result()
    assert (done.stdout, done.stderr, done.exit_status) == ("out\n", "err\n", 3)
    assert process.result().stdout == "out\n"


def test_lines_already_read_are_not_in_the_result(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    process = start(mock_sshd.connect_params, "echo one; cat", cache=ssh_cache)
    assert next(process.lines()) == "one\n"
    process.write("two\n")
    process.close_stdin()
    process.future.result(20)
    assert process.result().stdout == "two\n"


def test_a_stream_that_goes_to_a_function_has_no_lines_as_well(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    seen: List[str] = []
    process = start(
        mock_sshd.connect_params, "echo; echo >&2", on_stderr=seen.append, cache=ssh_cache
    )
    assert list(process.lines()) == ["\n"]
    with pytest.raises(SshConfigError, match="not available when on_stderr is set"):
        process.stderr_lines()
    assert process.result(20).exit_status == 0


def test_wait_timeout_names_the_host_and_keeps_the_command(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    process = start(mock_sshd.connect_params, "read it; echo $it", cache=ssh_cache)
    with pytest.raises(TimeoutError, match=f":{mock_sshd.port}: .* a wait of 0.01 s"):
        process.result(0.01)
    process.write("done\n")
    assert process.result(20).stdout == "done\n"


@pytest.mark.usefixtures("short_patience")
def test_the_output_so_far_is_in_the_error(mock_sshd: MockSshd, ssh_cache: SshClientCache) -> None:
    process = start(mock_sshd.connect_params, "echo out; sleep 60", timeout=1, cache=ssh_cache)
    assert isinstance(process.future.exception(20), SshCommandTimeout)
    with pytest.raises(SshCommandTimeout) as caught:
        process.result()
    assert caught.value.process is not None
    assert caught.value.process.stdout == "out\n"


def test_connection_used_only_for_copies_expires(
    mock_sshd: MockSshd,
    ssh_cache: SshClientCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copies, "IDLE_TIMEOUT", 0.05)
    (tmp_path / "here").write_text("text")
    upload(mock_sshd.connect_params, tmp_path / "here", str(tmp_path / "there"), cache=ssh_cache)
    assert (tmp_path / "there").read_text() == "text"
    eventually(lambda: len(ssh_cache) == 0)


def test_an_outcome_waits_for_no_other_callers_function(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    """A callback that waits delays only the outcome of its own command."""
    params, gate = mock_sshd.connect_params, threading.Event()
    blocked = [threading.Event() for _ in range(3)]

    def wait(number: int) -> None:
        blocked[number].set()
        assert gate.wait(PATIENCE)

    unsubscribe = ssh_cache.subscribe(lambda event: wait(0))
    others = [start(params, "echo", on_stdout=lambda piece: wait(1), cache=ssh_cache)]
    others.append(start(params, "true", cache=ssh_cache))
    others[1].future.add_done_callback(lambda future: wait(2))
    for event in blocked:
        assert event.wait(PATIENCE)
    pieces: List[str] = []
    done = run(params, "echo mine", on_stdout=pieces.append, timeout=PATIENCE, cache=ssh_cache)
    assert done.exit_status == 0 and pieces == ["mine\n"]
    output: List[bytes] = []
    with fleet.run(
        [params], "echo many", cache=ssh_cache, on_output=lambda *args: output.append(args[2])
    ) as results:
        assert results.take(PATIENCE).ok and output == [b"many\n"]

    async def wrapped() -> Any:
        future = operations.submit(ssh_cache, params, "echo wrapped")
        return await asyncio.wait_for(asyncio.wrap_future(future), PATIENCE)

    assert asyncio.run(wrapped()).stdout == "wrapped\n"
    assert not others[0].future.done()
    gate.set()
    assert others[0].result(PATIENCE).exit_status == 0
    unsubscribe()


def test_output_pieces_come_in_order_and_one_at_a_time(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    params, inside = mock_sshd.connect_params, threading.Lock()
    seen: List[bytes] = []

    def take(host: str, stream: str, piece: bytes) -> None:
        assert inside.acquire(False), "called by two threads at once"
        seen.append(piece)
        inside.release()

    script = "for n in 1 2 3 4 5; do echo $n; sleep 0.01; done"
    results = list(fleet.run([params] * 4, script, cache=ssh_cache, on_output=take))
    assert [result.error for result in results] == [None] * 4
    assert sorted(b"".join(seen).split()) == sorted(b"1 2 3 4 5".split() * 4)


def test_close_all_closes_only_the_default_cache(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    run(mock_sshd.connect_params, "true")
    run(mock_sshd.connect_params, "true", cache=ssh_cache)
    assert mock_sshd.connect_params["username"] in str(default_cache())
    close_all()
    assert len(default_cache()) == 0 and len(ssh_cache) == 1
    assert run(mock_sshd.connect_params, "exit 3").exit_status == 3
    close_all()


def test_cache_dropped_after_its_commands_leaves_no_connection(
    mock_sshd: MockSshd, tmp_path: Path
) -> None:
    """No pool, spare session, timer or reader thread keeps it."""

    def use() -> "weakref.ref[Any]":
        cache = SshClientCache()
        (tmp_path / "file").write_text("text")
        for _ in range(3):
            run(mock_sshd.connect_params, "true", cache=cache)
        upload(mock_sshd.connect_params, tmp_path / "file", tmp_path / "copy", cache=cache)
        transport, _ = cache.get_client_connection(mock_sshd.connect_params)
        ended = threading.Event()
        transport.add_done_callback(lambda *_: ended.set())
        with pytest.warns(ResourceWarning, match="was not closed"):
            del cache
            gc.collect()
            assert ended.wait(PATIENCE)
        return weakref.ref(transport)

    gone = use()

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    eventually(is_gone, "the connection is collected")


def test_running_command_keeps_its_cache_alive(mock_sshd: MockSshd) -> None:
    """From the call to its end; then the connection goes."""

    def use() -> None:
        process = start(mock_sshd.connect_params, "cat", cache=SshClientCache())
        gc.collect()
        process.write("text")
        process.close_stdin()
        assert process.result(PATIENCE).stdout == "text"

    before = connections()
    with pytest.warns(ResourceWarning, match="was not closed"):
        use()
        gc.collect()
        eventually(lambda: connections() == before, "the connection goes")


def connections() -> int:
    return sum(isinstance(thread, SshTransport) for thread in threading.enumerate())


@pytest.mark.parametrize("wrong", [["a", "b"], None, 7])
def test_copies_of_a_wrong_path_type_name_the_path(
    mock_sshd: MockSshd, ssh_cache: SshClientCache, wrong: Any
) -> None:
    """Before anything is connected, and whichever of the two paths it is."""
    web = mock_sshd.connect_params
    got = f"expected one path, .* got {type(wrong).__name__}"
    verbs: List[Any] = [(upload, web), (fleet.upload, [web])]
    for verb, hosts in verbs:
        with pytest.raises(SshConfigError, match=f"local_path: {got}"):
            verb(hosts, wrong, "/tmp/x", cache=ssh_cache)
        with pytest.raises(SshConfigError, match=f"remote_path: {got}"):
            verb(hosts, "x", wrong, cache=ssh_cache)
    with pytest.raises(SshConfigError, match=f"remote_path: {got}"):
        ssh_service.download(web, wrong, "x", cache=ssh_cache)
    assert mock_sshd.accepted == 0
