"""Which processes are a command's, and how they are ended where the server does not do it."""

from __future__ import annotations

import itertools
import random
from typing import Any, Callable, Dict, List, Optional, Tuple, cast

import pytest

from ssh_service import background
from ssh_service.commands.census import Census
from ssh_service.commands.command import Command
from ssh_service.commands.process_group import RemoteGroup
from ssh_service.commands.processes import Process, assign, end_script, parse_children, pick
from ssh_service.errors import SshCommandTimeout, SshSessionRefused
from tests.common import eventually
from tests.unit.engine_fakes import FakeChannel, FakeTransport, Timers

STAT = "S 1 4711 4711 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 265290 1 2 3"
BOOT = "00000000-c0ff-45b7-a957-1c4835ff55b6"
FOUND = Process(4711, True, 265290, BOOT)


# The mark of a script that goes over stdin.


def mark_of(group: RemoteGroup, word: str = f"4711 {BOOT} {STAT}") -> bytes:
    return group._marks.text(word).encode()


def awaiting() -> RemoteGroup:
    group = RemoteGroup(root=True)
    group._awaits_mark = True
    return group


def test_mark_is_removed_from_any_pieces() -> None:
    rng = random.Random(1)
    noise = [b"", b"<", b"<<", b"< 1", b"<deadbeef:12>", b"err\n", b"\xff\0", b">", b"<1234567"]
    for _ in range(2000):
        group = awaiting()
        start = group._marks.start.encode()
        before, after = rng.choice(noise), b"".join(rng.choices(noise, k=rng.randrange(4)))
        if rng.random() < 0.2:
            before += start[: rng.randrange(len(start))]
        text = before + mark_of(group) + after
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randrange(12)))
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)])]
        shown = b"".join(group.strip(piece) for piece in pieces) + group.flush()
        assert (shown, group.process) == (before + after, FOUND)


def test_unexpected_mark_is_output() -> None:
    group = RemoteGroup(root=True)
    assert group.strip(mark_of(group)) == mark_of(group)
    group = awaiting()
    assert group.strip(mark_of(group)) == b""
    assert group.strip(mark_of(group)) == mark_of(group)


def test_output_is_held_back_no_longer_than_a_mark_may_be() -> None:
    group = awaiting()
    start = group._marks.start.encode()
    assert group.strip(b"text" + start[:5]) == b"text"
    assert group.strip(b"!more") == start[:5] + b"!more"
    assert group.strip(start) == b""
    assert group.strip(b"1" * 1100) == start + b"1" * 1100
    assert group.process is None and group.flush() == b""


@pytest.mark.parametrize(
    "word, expected",
    [
        ("4711 -", Process(4711, True)),  # no /proc there
        (f"4711 {BOOT}", Process(4711, True)),
        (f"4711 {BOOT} {STAT.replace('4711', '12')}", FOUND._replace(leads=False)),
        ("4711", None),
        ("x", None),
        ("1" * 11 + " -", None),
        ("1" * 900 + " -", None),  # Python reads no number of 5,000 digits
        ("-1 -", None),
        (f"4711 {BOOT} S 1 2 3", Process(4711, True)),
        (f"4711 {BOOT} {'x ' * 30}", Process(4711, True)),
    ],
)
def test_mark_with_whatever_a_server_writes_is_no_violation(
    word: str, expected: Optional[Process]
) -> None:
    group = awaiting()
    group.strip(mark_of(group, word))
    assert group.process == expected


def test_mark_of_5000_digits_is_output() -> None:
    group = awaiting()
    text = mark_of(group, "1" * 5000 + " -")
    assert group.strip(text) + group.flush() == text and group.process is None


# Which process is whose.


def test_pick_is_right_or_none() -> None:
    """Every way in which up to five sessions may have ended, seen from every one of them."""
    answers = 0
    for size in range(1, 6):
        for certain in itertools.product((True, False), repeat=size):
            entries = list(enumerate(certain))
            uncertain = [number for number, sure in entries if not sure]
            for ended in itertools.product((True, False), repeat=len(uncertain)):
                gone = {number for number, is_gone in zip(uncertain, ended) if is_gone}
                alive = [number for number in range(size) if number not in gone]
                found = [Process(number + 100, True) for number in alive]
                for number in range(size):
                    picked = pick(found, entries, number)
                    assert picked is None or (number in alive and picked.pid == number + 100)
                    answers += picked is not None
    assert answers > 500
    sure = [(number, True) for number in range(5)]
    assert pick([Process(number, True) for number in range(5)], sure, 3) == Process(3, True)


def test_pick_is_none_if_the_list_does_not_fit() -> None:
    three = [Process(number, True) for number in range(3)]
    assert pick(three, [(0, True), (1, True)], 0) is None  # one that nobody knows
    assert pick(three[:1], [(0, True), (1, True)], 0) is None  # one is missing
    assert pick(three, [(0, True), (1, True), (2, True)], 7) is None
    assert pick([], [], 0) is None


def listing(*children: Tuple[int, int], own: int = 0, state: str = "S") -> bytes:
    lines = [
        f"/proc/{pid}/stat:{pid} (sh) {state} 9 {pid} {pid} " + "0 " * 15 + f"{at} 0"
        for pid, at in children
    ]
    return "\n".join([*lines, f"boot {BOOT}", "parent 9", f"self {own}"]).encode()


def test_children_are_listed_by_age_up_to_the_script_itself() -> None:
    found = parse_children(listing((30, 5), (20, 7), (10, 7), (40, 9), (50, 9), own=40))
    assert [process.pid for process in found.others] == [30, 10, 20]
    assert found.others[0] == Process(30, True, 5, BOOT)
    assert found.own == Process(40, True, 9, BOOT)
    elsewhere = parse_children(listing((30, 5), (40, 4)))
    assert ([p.pid for p in elsewhere.others], elsewhere.own) == ([40, 30], None)


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"% Unknown command",
        listing((30, 5))[:-8],  # cut off
        listing((32_000, 5), (2, 5)),  # the numbers began anew in between
        listing((30, 5), (30, 5)),
        listing((int("1" * 20), int("9" * 21))),
        b"/proc/1/stat:1 (sh) S 9 2\nparent 9\nself 1",
        b"/proc/x/stat:x (sh) y z\nparent 9\nself 1",
    ],
)
def test_ambiguous_children_are_not_returned(output: bytes) -> None:
    assert parse_children(output) == ([], None)


def test_children_that_have_ended_are_left_out() -> None:
    assert parse_children(listing((30, 5), state="Z")).others == []


def test_child_process_is_not_identified_by_name_only() -> None:
    """A program gives itself the name; its parent is another one."""
    for name in (b") S 9 (", b"a\n) S 9 ("):
        line = listing((30, 5)).replace(b" 9 ", b" 8 ", 1).replace(b"sh", name)
        assert parse_children(line) == ([], None)


# What a list says where some processes are known.


def process(pid: int) -> Process:
    return Process(pid, True, pid, BOOT)


def test_assign_uses_what_is_known_to_tell_others_apart() -> None:
    """One of two has ended, nobody knows which: but the known one began in between."""
    entries = [(0, False), (2, False)]
    assert assign([process(30)], entries, {}) == ({}, set())
    assert assign([process(30)], entries, {1: process(20)}) == ({2: process(30)}, {0})
    assert assign([process(10)], entries, {1: process(20)}) == ({0: process(10)}, {2})


def test_assign_reports_which_known_processes_ended() -> None:
    known = {0: process(10), 1: process(20)}
    entries = [(0, True), (1, False), (2, True)]
    assert assign([process(10), process(30)], entries, known) == ({2: process(30)}, {1})


def test_assign_is_empty_if_known_processes_do_not_fit() -> None:
    known = {0: process(20), 1: process(10)}  # the numbers of processes began anew in between
    assert assign([process(30)], [(2, True)], known) == ({}, set())
    again = Process(32_000, True, 30, BOOT)
    assert assign([process(30)], [(2, True)], {1: again}) == ({}, set())


def test_assign_is_right_or_empty() -> None:
    """Random sessions of which some have ended and some are known, in every state."""
    rng = random.Random(3)
    answers = goners = 0
    for _ in range(3000):
        size = rng.randrange(1, 8)
        certain = [rng.random() < 0.4 for _ in range(size)]
        alive = [n for n in range(size) if certain[n] or rng.random() < 0.5]
        known = {n: process(n + 10) for n in range(size) if rng.random() < 0.3}
        entries = [(n, certain[n]) for n in range(size) if n not in known or rng.random() < 0.8]
        found = [process(n + 10) for n in alive if n in dict(entries)]
        picked, gone = assign(found, entries, known)
        assert all(n in alive and picked[n] == process(n + 10) for n in picked)
        assert not gone.intersection(n for n in alive if n in dict(entries))
        answers, goners = answers + len(picked), goners + len(gone)
    assert answers > 1000 and goners > 1000


# The scripts.


def test_end_script_without_proc_is_a_kill_of_the_group() -> None:
    text = end_script(Process(4711, True), ["TERM", "KILL"], 1.0)
    assert text == "kill -TERM -4711; kill -KILL -4711"


# The census.


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    timers = Timers()
    monkeypatch.setattr(background, "call_at", timers.call_at)
    return timers


class Site:
    """A connection with some sessions, and what is asked over it."""

    def __init__(self, count: int = 3, version: str = "SSH-2.0-OpenSSH_9.2p1") -> None:
        self.transport: Any = FakeTransport("root@alpha:22")
        self.transport.remote_version = version
        self.channels = []
        for number in range(count):
            channel = FakeChannel(self.transport, None)
            channel.start_number = number
            self.channels.append(channel)
            self.transport.started[number] = number
        self.beside: List[Tuple[str, Callable[[Optional[bytes]], None]]] = []
        self.found: Dict[int, Optional[Process]] = {}

    def find(self, number: int) -> None:
        Census.of(self.transport).find(
            self.channels[number],
            lambda text, reply: self.beside.append((text, reply)),
            lambda process: self.found.update({number: process}),
        )

    def begin_list(self) -> FakeChannel:
        """Start what makes the list; each takes a number as well."""
        (helper,) = self.transport.channels
        helper.start_number = max(self.transport.started, default=0) + 1
        helper.sink.on_reply(True)
        return cast(FakeChannel, helper)

    def answer(self, *pids: int, own: int = 0) -> None:
        self.end_list(self.begin_list(), *pids, own=own)

    def end_list(self, helper: FakeChannel, *pids: int, own: int = 0) -> None:
        children = [*pids, own] if own else pids
        helper.sink.on_data(listing(*((pid, pid) for pid in children), own=own))
        helper.sink.on_exit_status(0)
        helper.end()


def test_census_asks_once_for_all(timers: Timers) -> None:
    site = Site()
    for number in (1, 0, 2):
        site.find(number)
    assert len(site.transport.opened) == 1
    site.answer(10, 20, 30)
    assert {number: p and p.pid for number, p in site.found.items()} == {0: 10, 1: 20, 2: 30}
    site.find(1)
    assert len(site.transport.opened) == 1  # it is known


def test_census_asks_again_where_a_process_is_missing(timers: Timers) -> None:
    site = Site()
    site.find(1)
    site.answer(10, 30)
    assert site.found == {} and len(site.transport.opened) == 2
    # Its end was on its way: now it is known, and the others can be told apart.
    site.transport.started = {0: 0, 1: 1}
    site.answer(10, 30)
    assert site.found[1] == Process(30, True, 30, BOOT)


def test_census_that_stays_in_doubt_gives_up(timers: Timers) -> None:
    """The lists are further and further apart; as many are made as may help."""
    site = Site()
    site.find(1)
    for _ in range(20):
        if site.found:
            break
        if not site.transport.channels:
            timers.fire()
        site.answer(10, 30)
    assert site.found == {1: None} and len(site.transport.opened) == 1 + 8


def test_census_asks_a_server_without_a_list_only_once(timers: Timers) -> None:
    """It may have no shell, and take what it is sent for something else."""
    site = Site()
    site.find(1)
    site.begin_list().complete(stdout=b"% Unknown command")
    assert site.found == {1: None} and len(site.transport.opened) == 1


def test_census_counts_what_ended_before_the_list_was_begun_as_gone(timers: Timers) -> None:
    """Two others ended, the first before it; whether the list has the second is seen by it."""
    site = Site(4)
    site.find(3)
    del site.transport.started[0]
    helper = site.begin_list()
    del site.transport.started[1]
    site.end_list(helper, 20, 30, 40)
    assert site.found[3] == Process(40, True, 40, BOOT)


def test_census_leaves_out_what_was_begun_after_its_list(timers: Timers) -> None:
    site = Site(3)
    site.find(1)
    helper = site.begin_list()
    del site.transport.started[0]  # it ended; it may be in the list
    for number in (4, 5):  # and these may have ended since
        site.transport.started[number] = None
    site.end_list(helper, 20, 30, own=40)
    assert site.found[1] == Process(20, True, 20, BOOT)


def test_census_answers_later_requests_by_the_next_list(timers: Timers) -> None:
    site = Site(2)
    site.find(0)
    helper = site.begin_list()
    late = FakeChannel(site.transport, None)
    late.start_number = site.transport.started[3] = 3
    site.channels += [late, late]
    site.find(3)
    site.end_list(helper, 10, 20, own=30)
    assert site.found == {0: Process(10, True, 10, BOOT)}
    site.answer(10, 20, 40, own=50)
    assert site.found[3] == Process(40, True, 40, BOOT)


def test_census_forgets_ended_processes_silently(timers: Timers) -> None:
    """The process of a channel that was closed on this side is never reported again."""
    site = Site(2)
    site.transport.started[0] = None
    site.find(1)
    site.answer(20, own=40)
    assert site.found[1] == Process(20, True, 20, BOOT) and site.transport.started == {1: 1}


def test_census_remembers_no_more_than_helps(timers: Timers) -> None:
    site = Site(1)
    for number in range(50):
        site.transport.started = {0: 0, 100 * number + 50: 100 * number + 50}
        channel = FakeChannel(site.transport, None)
        channel.start_number = 100 * number + 50
        site.channels = [channel] * (channel.start_number + 1)
        site.find(channel.start_number)
        site.answer(1, 100 * number + 50, own=100 * number + 60)
        assert site.found[channel.start_number] is not None
    assert len(Census.of(site.transport)._known) < 5


def test_census_of_a_full_connection_is_made_over_another(timers: Timers) -> None:
    site = Site(1)
    site.transport.sock = type("Sock", (), {"getsockname": lambda self: ("127.0.0.1", 5000)})()
    site.transport.max_sessions = 0
    site.find(0)
    eventually(lambda: site.beside, "it is asked for elsewhere")
    ((text, reply),) = site.beside
    assert "127.0.0.1" in text and " 5000 " in text
    reply(listing((10, 1)))
    assert site.found[0] == Process(10, True, 1, BOOT)


def test_census_of_an_old_dropbear_never_opens_a_second_session() -> None:
    site = Site(1, "SSH-2.0-dropbear_2022.83")
    site.find(0)
    assert site.transport.opened == [] and site.found == {0: None}  # it has no address of ours


@pytest.mark.parametrize("spare", [True, False])
def test_census_makes_room_or_waits_where_nothing_else_helps(spare: bool, timers: Timers) -> None:
    """All sessions are taken, and there is no other connection to be had."""
    site = Site(1)
    site.transport.max_sessions, site.transport.others = 2, 2

    def free() -> bool:
        site.transport.others = 1
        return True

    if spare:
        site.transport.reclaimers["spare"] = free
    site.find(0)
    if not spare:
        eventually(lambda: timers.live, "it waits")
        free()
        timers.fire()
    eventually(lambda: site.transport.channels, "it has a session")
    site.answer(10)
    assert site.found[0] == Process(10, True, 10, BOOT)


def test_census_over_a_connection_that_ends_is_answered() -> None:
    site = Site(1)
    site.transport.lose()
    site.find(0)
    assert site.found == {0: None}


# Commands whose server does not signal them.


class Run:
    """A running command whose process is known, and the helper scripts it has run."""

    def __init__(
        self,
        version: str,
        user: str = "root",
        known: bool = True,
        started: bool = True,
        pty: bool = False,
    ) -> None:
        # By what is sent with variables, the process is told; otherwise it is looked for.
        env = {"A": "b"} if started else {}
        self.command = Command("sleep 60", env, None, f"{user}@alpha:22", timeout=5, pty=pty)
        self.future = self.command.future
        self.channel = FakeChannel(FakeTransport(), self.command)
        self.channel.transport.remote_version = version
        self.channel.transport.channels.append(self.channel)
        self.channel.is_open = True
        self.beside: List[Tuple[str, Callable[[Optional[bytes]], None]]] = []
        self.command.run_helper = lambda text, reply: self.beside.append((text, reply))
        assert self.command.start(self.channel)
        if not started:
            return
        self.command.on_reply(True)
        if pty:
            self.command.on_reply(True)
            self.command._group.process = FOUND
        elif known:
            self.command.on_stderr(mark_of(self.command._group) + b"err")

    def error(self) -> SshCommandTimeout:
        error = self.future.exception(0)
        assert isinstance(error, SshCommandTimeout)
        return error


@pytest.mark.parametrize(
    "version, user, signalled",
    [
        ("SSH-2.0-OpenSSH_9.2p1", "somebody", True),
        ("SSH-2.0-OpenSSH_9.7", "root", False),
        ("SSH-2.0-OpenSSH_9.8", "root", True),
        ("SSH-2.0-OpenSSH_7.4", "somebody", False),
        ("SSH-2.0-dropbear_2025.88", "somebody", False),
        ("SSH-2.0-Unknown", "somebody", True),
        ("SSH-2.0-Unknown", "root", False),
    ],
)
def test_time_out_signals_by_a_script_where_the_server_does_not(
    version: str, user: str, signalled: bool, timers: Timers
) -> None:
    run = Run(version, user)
    timers.fire()
    assert run.channel.signals == (["TERM"] if signalled else [])
    assert len(run.beside) == (0 if signalled else 1)
    if not signalled:
        assert run.beside[0][0] == end_script(FOUND, ["TERM", "KILL"], 0.6)
    run.channel.end()
    assert run.channel.transport.opened == []


def test_time_out_on_openssh_is_known_by_the_channels_end(timers: Timers) -> None:
    run = Run("SSH-2.0-OpenSSH_9.2")
    timers.fire()
    run.command.on_exit_signal("TERM", False, "")
    run.channel.end()
    process = run.error().process
    assert run.error().ended is True and process is not None and process.stderr == "err"
    assert timers.live == []


def test_time_out_on_dropbear_waits_for_what_the_script_says(timers: Timers) -> None:
    """The shell has ended, and its children may run on."""
    run = Run("SSH-2.0-dropbear_2025.88")
    timers.fire()
    run.command.on_exit_signal("TERM", False, "")
    run.channel.end()
    assert not run.future.done()
    run.beside[0][1](b"ended\n")
    assert run.error().ended is True and timers.live == []


@pytest.mark.parametrize("output, ended", [(b"ended\n", True), (b"", None), (None, None)])
def test_time_out_with_a_terminal_is_proved_by_the_script_alone(
    output: Optional[bytes], ended: Optional[bool], timers: Timers
) -> None:
    """The server closes the session when the shell has ended; if need be, it sends KILL."""
    run = Run("SSH-2.0-OpenSSH_9.9", pty=True)
    timers.fire()
    assert run.channel.signals == []
    script = end_script(FOUND, ["TERM", "KILL"], 0.6, in_session=True)
    assert [text for text, _ in run.beside] == [script]
    timers.fire()
    assert run.channel.signals == ["KILL"]
    run.channel.end()
    assert not run.future.done()
    run.beside[0][1](output)
    while timers.live:
        timers.fire()
    assert run.error().ended is ended


@pytest.mark.parametrize("output", [None, b""])
def test_time_out_on_dropbear_is_not_known_to_have_ended_children(
    output: Optional[bytes], timers: Timers
) -> None:
    run = Run("SSH-2.0-dropbear_2025.88")
    timers.fire()
    run.channel.end()
    run.beside[0][1](output)
    while timers.live:
        timers.fire()
    assert run.error().ended is None


def test_time_out_without_a_process_signals_the_shell_of_dropbear(timers: Timers) -> None:
    run = Run("SSH-2.0-dropbear_2022.83", known=False)
    run.command._group._awaits_mark = False  # as of a script in the exec request
    timers.fire()
    assert run.channel.signals == ["TERM"]
    run.channel.end()
    while timers.live:
        timers.fire()
    assert run.error().ended is None


def test_time_out_is_tried_again_where_the_script_was_not_run(timers: Timers) -> None:
    run = Run("SSH-2.0-OpenSSH_9.2")
    timers.fire()
    run.beside[0][1](None)
    timers.fire()
    assert len(run.beside) == 2
    run.beside[1][1](b"ended\n")
    timers.fire()  # its output is held open by somebody else
    assert run.error().ended is True


def test_signal_before_the_process_is_known_is_sent_when_it_is() -> None:
    run = Run("SSH-2.0-OpenSSH_9.2", known=False)
    run.command.signal("USR1")
    assert run.beside == []
    run.command.on_stderr(mark_of(run.command._group))
    assert [text for text, _ in run.beside] == [end_script(FOUND, ["USR1"])]
    run.channel.complete()


def test_signal_before_the_server_has_started_the_command_is_sent_when_it_has() -> None:
    """Only then is it on the list by which its process is found."""
    run = Run("SSH-2.0-OpenSSH_9.2", started=False)
    transport = run.channel.transport
    run.command.signal("USR1")
    assert transport.opened == []
    run.command.on_reply(True)
    assert len(transport.opened) == 1, "the list of processes is asked for"
    transport.lose()


def test_exec_request_has_nothing_of_ours(timers: Timers) -> None:
    """A login shell may be none of POSIX's, or know a few words only."""
    for user in ("root", "somebody"):
        command = Command("show version", {}, None, f"{user}@switch:22", timeout=5)
        channel = FakeChannel(FakeTransport(), command)
        channel.transport.channels.append(channel)
        assert command.start(channel)
        assert (channel.command, channel.sent) == (b"show version", b"")
        command.on_reply(False)
        assert isinstance(command.future.exception(0), SshSessionRefused)
