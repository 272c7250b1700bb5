"""Logging in: passwords, questions, several steps, and what goes wrong on the way."""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Dict, List, Tuple

import paramiko
import pytest

from ssh_service import SshClientCache, params
from ssh_service.connect import dial
from ssh_service.errors import SshAuthError, SshConfigError, SshConnectError, SshConnectTimeout
from ssh_service.transport import SshTransport
from tests.common import assert_no_frame_knows, eventually
from tests.integration.test_credentials import public_parts_of
from tests.keys import generated

from .auth_server import AuthServer

MARKER = "a-marker-that-must-not-show"


def connect(server: AuthServer, timeout: float = 10, **given: Any) -> SshTransport:
    found = params.resolve({**server.connect_params, **given})
    return dial(found, time.monotonic() + timeout)


def login(server: AuthServer, **given: Any) -> None:
    transport = connect(server, **given)
    assert transport.is_authenticated()
    transport.close()


# --- passwords -------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["secret", b"secret", lambda: "secret"], ids=str)
def test_a_password_logs_in(password: Any) -> None:
    with AuthServer(password="secret") as server:
        login(server, password=password)
        assert server.attempts == [("password", True)]


@pytest.mark.parametrize("step", ["password", "keyboard-interactive"])
@pytest.mark.parametrize("password", [b"secret\xff", lambda: "secret\udcff"], ids=str)
def test_a_password_of_any_bytes_is_shown_as_it_is(password: Any, step: str) -> None:
    """One that is no UTF-8 is sent byte for byte (paramiko's server takes no such answer)."""
    found: List[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        original = paramiko.Message.add_string
        patch.setattr(
            paramiko.Message,
            "add_string",
            lambda self, text: (found.append(text), original(self, text))[1],
        )
        with AuthServer((step,), questions=[("Password: ", False)], answers=["x"]) as server:
            with pytest.raises((SshAuthError, SshConnectError)):
                connect(server, password=password)
    assert b"secret\xff" in found


@pytest.mark.parametrize("name", ["password", "passphrase", "client_keys"])
@pytest.mark.parametrize("is_callable", [False, True], ids=["text", "callable"])
def test_a_secret_that_cannot_be_encoded_is_not_shown(name: str, is_callable: bool) -> None:
    """The codec's own error holds all of the text."""
    secret = MARKER + "\ud800"
    locked = generated("locked-by-a-marker", "ed25519", MARKER)
    rest: Dict[str, Any] = {"client_keys": [locked]} if name == "passphrase" else {}
    if name == "client_keys":
        secret = "-----BEGIN OPENSSH PRIVATE KEY-----\n" + secret
    rest[name] = (lambda: secret) if is_callable else secret
    with AuthServer(("password", "publickey")) as server:
        with pytest.raises(SshConfigError, match=f"{name}: a lone surrogate") as caught:
            connect(server, **rest)
    seen: Any = caught.value
    while seen is not None:
        assert MARKER not in repr(seen)
        seen = seen.__cause__ or seen.__context__


def test_a_connection_keeps_no_credential() -> None:
    with AuthServer(password=MARKER) as server:
        transport = connect(server, password=MARKER)
        try:
            assert MARKER not in repr(vars(transport.auth_handler))
        finally:
            transport.close()


def test_a_wrong_password_is_shown_once_and_refused() -> None:
    with AuthServer(password="secret") as server:
        with pytest.raises(SshAuthError, match="tried password: refused") as caught:
            connect(server, password=MARKER)
        assert server.attempts == [("password", False)]
    assert caught.value.tried == ("password: refused",)
    assert caught.value.phase == "auth" and isinstance(caught.value, PermissionError)


def test_without_any_credential_the_error_says_what_the_server_takes() -> None:
    with AuthServer(("password,publickey",)) as server:
        with pytest.raises(SshAuthError, match="the server takes password, publickey"):
            connect(server)


def test_a_server_that_offers_no_method_is_reported_as_such() -> None:
    with AuthServer(("",)) as server:
        with pytest.raises(SshAuthError, match="the server takes no further method$"):
            connect(server)


def test_without_any_key_the_error_says_where_one_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    looked = r"no private key found \(looked in ~/.ssh/id_rsa, .*, ~/.ssh/id_ed25519_sk"
    with AuthServer(("publickey,password",), password="secret") as server:
        with pytest.raises(SshAuthError, match=f"tried nothing; {looked}, the agent at /no/agent"):
            connect(server, client_keys=(), agent_path="/no/agent")
        with pytest.raises(SshAuthError, match=rf"tried password: refused; {looked}\)$"):
            connect(server, client_keys=(), password="wrong")
        with pytest.raises(
            SshAuthError, match="no password was given; no key was shown, as client_keys="
        ):
            connect(server)


def test_server_algorithm_lists_are_truncated_and_escaped() -> None:
    with AuthServer(("\x1b[31mnobody" + "y" * 5000,)) as server:
        with pytest.raises(SshAuthError, match=r"takes \\x1b\[31mnobodyy+\.\.\.$") as caught:
            connect(server)
    assert len(str(caught.value)) < 600


def test_a_server_that_asks_for_nothing_lets_in() -> None:
    with AuthServer(("none",)) as server:
        login(server)


def test_a_password_is_not_tried_where_preferred_auth_leaves_it_out() -> None:
    with AuthServer(password="secret") as server:
        with pytest.raises(SshAuthError):
            connect(server, password="secret", preferred_auth=["publickey"])
        assert ("password", True) not in server.attempts


# --- questions -------------------------------------------------------------------------------

TOKEN = [("Password: ", False), ("Token: ", True)]


def test_a_callable_answers_questions_off_the_reader_thread() -> None:
    asked: List[Tuple[Any, ...]] = []

    def answer(name: str, instructions: str, prompts: Any) -> List[str]:
        asked.append((name, instructions, prompts, threading.current_thread()))
        return ["secret", "123456"]

    rules = {"questions": TOKEN, "answers": ["secret", "123456"]}
    with AuthServer(("keyboard-interactive",), **rules) as server:
        login(server, kbdint_handler=answer)
    assert asked == [("the name", "the instructions", TOKEN, threading.current_thread())]


def test_a_password_answers_a_single_hidden_question() -> None:
    rules = {"questions": [("Password: ", False)], "answers": ["secret"]}
    with AuthServer(("keyboard-interactive",), **rules) as server:
        login(server, password="secret")


@pytest.mark.parametrize("questions", [TOKEN, [("Your favourite colour? ", True)]])
def test_a_password_answers_nothing_else(questions: Any) -> None:
    with AuthServer(("keyboard-interactive",), questions=questions, answers=[]) as server:
        with pytest.raises(SshAuthError, match="asks for more than a password"):
            connect(server, password=MARKER)
        assert server.attempts[-1] == ("keyboard-interactive", False)


@pytest.mark.parametrize("answers", [None, "ab", ["one"], [1, 2]], ids=str)
def test_answers_that_do_not_fit_the_questions_are_an_error(answers: Any) -> None:
    with AuthServer(("keyboard-interactive",), questions=TOKEN) as server:
        with pytest.raises(SshConfigError, match="must return 2 strings"):
            connect(server, kbdint_handler=lambda *_: answers)


def test_a_callable_that_raises_ends_the_attempt_without_its_text() -> None:
    def fail(*args: Any) -> List[str]:
        raise RuntimeError(MARKER)

    with AuthServer(("keyboard-interactive",), questions=TOKEN) as server:
        with pytest.raises(SshConnectError, match="kbdint_handler raised RuntimeError") as caught:
            connect(server, kbdint_handler=fail)
    assert MARKER not in str(caught.value) and not isinstance(caught.value, SshAuthError)
    assert_no_frame_knows(caught.value, MARKER)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("answers", [[MARKER], [MARKER, MARKER, 3], MARKER])
def test_no_frame_shows_answers_that_do_not_fit(answers: Any) -> None:
    with AuthServer(("keyboard-interactive",), questions=TOKEN) as server:
        with pytest.raises(SshConfigError, match="must return 2 strings") as caught:
            connect(server, kbdint_handler=lambda *_: answers)
    assert_no_frame_knows(caught.value, MARKER)


def test_no_error_shows_answers_that_cannot_be_encoded() -> None:
    """The codec's own error would hold them."""
    with AuthServer(("keyboard-interactive",), questions=TOKEN, answers=["a", "b"]) as server:
        with pytest.raises(SshConfigError, match="must return 2 strings") as caught:
            connect(server, kbdint_handler=lambda *_: ["a", MARKER + "\ud800"])
    assert_no_frame_knows(caught.value, MARKER)
    assert MARKER not in repr(caught.value.__context__)


def test_no_frame_shows_refused_answers() -> None:
    with AuthServer(("keyboard-interactive",), questions=TOKEN, answers=["a", "b"]) as server:
        with pytest.raises(SshAuthError) as caught:
            connect(server, kbdint_handler=lambda *_: [MARKER, MARKER])
    assert_no_frame_knows(caught.value, MARKER)


def test_no_frame_shows_a_password_shown_to_a_server_that_leaves() -> None:
    """The frames of paramiko have it; they are cut off."""
    transports: List[SshTransport] = []

    def ask() -> str:
        server.cut()
        eventually(lambda: not transports[0].is_active())
        return MARKER

    with AuthServer(password="secret") as server:
        found = params.resolve({**server.connect_params, "password": ask})
        with pytest.raises(SshConnectError) as caught:
            dial(found, time.monotonic() + 20, on_started=transports.append)
    assert_no_frame_knows(caught.value, MARKER)


# --- several steps ---------------------------------------------------------------------------


def test_a_key_and_then_a_token() -> None:
    key = paramiko.ECDSAKey.generate()
    rules = {"keys": [key.asbytes()], "questions": [("Token: ", False)], "answers": ["123456"]}
    with AuthServer(("publickey", "keyboard-interactive"), **rules) as server:
        login(server, client_keys=[key], kbdint_handler=lambda *_: ["123456"])
        assert server.attempts == [("publickey", True), ("keyboard-interactive", True)]


def test_two_keys_where_two_are_required() -> None:
    keys = [paramiko.ECDSAKey.generate() for _ in range(3)]
    with AuthServer(("publickey", "publickey"), keys=[k.asbytes() for k in keys[1:]]) as server:
        login(server, client_keys=keys)
        assert server.attempts == [("publickey", ok) for ok in (False, True, True)]


def test_questions_may_come_in_two_rounds() -> None:
    rules = {"questions": [("Code: ", True)], "answers": ["x"]}
    with AuthServer(("keyboard-interactive",) * 2, **rules) as server:
        login(server, kbdint_handler=lambda *_: ["x"])


def test_questions_without_end_are_given_up() -> None:
    """A stored password is not sent thousands of times a second."""
    asked = []

    class Endless(AuthServer):
        def __init__(self) -> None:
            super().__init__(("keyboard-interactive",), questions=[("Password: ", False)])

    def ask_again(self: Any, responses: Any) -> Any:
        return paramiko.InteractiveQuery("", "", ("Password: ", False))

    def answer(*args: Any) -> List[str]:
        asked.append(args)
        return ["secret"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.sshd.auth_server._Rules.check_auth_interactive_response", ask_again)
        with Endless() as server:
            with pytest.raises(SshConnectError, match="asked more than 64 times") as caught:
                connect(server, kbdint_handler=answer)
    assert len(asked) == 64
    assert caught.value.phase == "auth"
    assert not caught.value.retryable


def test_error_of_a_second_step_mentions_the_first() -> None:
    key = paramiko.ECDSAKey.generate()
    with AuthServer(("publickey", "password"), keys=[key.asbytes()], password="x") as server:
        with pytest.raises(SshAuthError) as caught:
            connect(server, client_keys=[key], password=MARKER)
    assert [text.split(": ")[-1] for text in caught.value.tried] == [
        "accepted, more is required",
        "refused",
    ]


# --- the network, not the credentials --------------------------------------------------------


def test_a_server_that_freezes_is_a_timeout_of_authentication() -> None:
    thaw = threading.Event()
    with AuthServer(password="secret", before_answer=lambda: thaw.wait(20)) as server:
        started = time.monotonic()
        with pytest.raises(SshConnectTimeout) as caught:
            connect(server, timeout=1, password="secret")
        assert time.monotonic() - started < 1.5
        thaw.set()
    assert caught.value.phase == "auth" and not isinstance(caught.value, PermissionError)


def test_a_connection_cut_during_authentication_is_a_network_error() -> None:
    server = AuthServer(password="secret")
    with server:
        server.before_answer = server.cut
        with pytest.raises(SshConnectError, match="lost during authentication") as caught:
            connect(server, password="secret")
    assert caught.value.phase == "auth" and not isinstance(caught.value, PermissionError)


def test_a_question_that_nobody_answers_ends_at_the_deadline() -> None:
    thaw = threading.Event()

    def ponder(*args: Any) -> List[str]:
        thaw.wait(1.0)
        return ["too", "late"]

    with AuthServer(("keyboard-interactive",), questions=TOKEN) as server:
        with pytest.raises(SshConnectTimeout):
            connect(server, timeout=0.5, kbdint_handler=ponder)


# --- secrets ---------------------------------------------------------------------------------


def test_no_secret_is_logged_or_kept_in_an_error(caplog: pytest.LogCaptureFixture) -> None:
    rules = {"questions": [("Password: ", False)], "answers": ["x"], "password": "x"}
    with caplog.at_level(logging.DEBUG):
        for steps in (("password",), ("keyboard-interactive",), ("publickey",)):
            with AuthServer(steps, **rules) as server:
                with pytest.raises(SshAuthError) as caught:
                    connect(server, password=MARKER, passphrase=MARKER)
                shown = "".join(traceback.format_exception(None, caught.value, None))
                assert MARKER not in shown + repr(caught.value.__dict__)
                assert_no_frame_knows(caught.value, MARKER)
    assert caplog.records and MARKER not in caplog.text


@pytest.mark.parametrize("right", [True, False])
def test_a_secret_shows_nowhere_whether_it_helps_or_not(
    caplog: pytest.LogCaptureFixture, right: bool
) -> None:
    """Not in logs at DEBUG, reprs, errors, tracebacks or pickles."""
    expected = MARKER if right else "another"
    locked = generated("locked-by-a-marker", "ed25519", MARKER)
    key = public_parts_of(locked)[1] if right else b""
    token: Any = {"questions": TOKEN, "answers": ["x", expected]}
    given: List[Tuple[str, Dict[str, Any], Dict[str, Any]]] = [
        ("password", {"password": expected}, {"password": MARKER}),
        ("password", {"password": expected}, {"password": lambda: MARKER}),
        ("keyboard-interactive", token, {"kbdint_handler": lambda *_: ["x", MARKER]}),
        ("publickey", {"keys": [key]}, {"client_keys": [locked], "passphrase": MARKER}),
        ("publickey", {"keys": [key]}, {"client_keys": locked.read_bytes(), "passphrase": MARKER}),
    ]
    shown: List[str] = []
    with caplog.at_level(logging.DEBUG):
        for step, rules, credentials in given:
            cache = SshClientCache()
            with AuthServer((step,), **rules) as server, contextlib.ExitStack() as stack:
                stack.callback(cache.cleanup)
                wanted = {**server.connect_params, **credentials}
                found = params.resolve(wanted)
                shown += [repr(found), str(found), repr(found.key), repr(tuple(found.key))]
                try:
                    with cache.lease(wanted) as (transport, client):
                        shown += [repr(transport), repr(client), repr(vars(client))]
                        shown += [repr(vars(transport)), repr(vars(transport.auth_handler))]
                        assert right
                except SshAuthError as error:
                    assert not right
                    shown += traceback.format_exception(None, error, error.__traceback__)
                    shown += [repr(error), repr(vars(error)), repr(pickle.dumps(error))]
                shown += [repr(cache), repr(cache.stats()), repr(threading.enumerate())]
    shown += [caplog.text, *(repr(vars(record)) for record in caplog.records)]
    assert "userauth is OK" in caplog.text  # paramiko too told what it does
    for text in shown:
        assert MARKER not in text
