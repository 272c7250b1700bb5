"""
A connection that threads can share: `paramiko.Transport` with its faults repaired from outside.

Each override names the fault it repairs: F and G numbers are those of the project's reliability
study, ``#`` numbers paramiko's issues.  `ssh_service.transport.paramiko_check` proves at first use
that the installed paramiko still calls what is overridden here.
"""

from __future__ import annotations

import collections
import logging
import os
import socket
import threading
import time
import weakref
from typing import Any, Callable, Deque, Dict, List, Optional, Sequence, Set, Tuple

import paramiko
from paramiko.common import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    cMSG_CHANNEL_OPEN,
    cMSG_CHANNEL_OPEN_FAILURE,
    cMSG_GLOBAL_REQUEST,
    cMSG_REQUEST_FAILURE,
    cMSG_UNIMPLEMENTED,
)
from paramiko.message import Message
from paramiko.ssh_exception import SSHException

from ssh_service.errors import (
    SshConnectError,
    SshConnectionLost,
    SshConnectTimeout,
    SshSessionRefused,
    again,
)
from ssh_service.transport import channel as channels
from ssh_service.transport import gate
from ssh_service.transport.channel import ChannelSink, OpenWaiter, Outbound, SshChannel
from ssh_service.transport.channel_map import ChannelMap, HandedOut, told
from ssh_service.transport.gate import Gate
from ssh_service.transport.latch import Latch
from ssh_service.transport.packets import Inflater, PeerSilent, message
from ssh_service.transport.paramiko_check import check_paramiko
from ssh_service.transport.questions import Question, Questions
from ssh_service.transport.wire import Wire

_log = logging.getLogger("ssh_service.transport")

# Seconds a write may stall where no keepalive says how long the peer may be silent.
_STALL_LIMIT = 120.0
# Answers to the server that may wait for it to take them.
_MOST_ANSWERS = 4096
# Seconds after which the reader looks whether it was given a keepalive meanwhile.
_LOOK_AGAIN = 60.0
# Seconds `close` waits for the reader thread; it ends at once unless the machine is starved.
_CLOSE_LIMIT = 2.0
_OPEN_TIMEOUT = 30.0
# What OpenSSH says in place of its identification to those it drops: for MaxStartups, and for
# PerSourcePenalties and PerSourceMaxStartups (sshd.c).
_THROTTLED = ("Exceeded MaxStartups", "Not allowed at this time")

DoneCallback = Callable[["SshTransport", Optional[SshConnectionLost]], None]


class SshTransport(Gate):
    """
    One SSH connection, safe to share between threads.

    Parameters
    ----------
    sock : socket.socket or paramiko.Channel
        Connected to the server; it belongs to the transport from now on.
    connection_id : str
        ``user@host:port``, for people.
    keepalive_interval : Optional[float]
        Seconds of silence after which the server is asked for a sign of life; None or 0: never.
    keepalive_count_max : int
        After ``interval * count`` seconds without any byte the connection is lost.
    ciphers, kex, macs, key_types, compression : Optional[Sequence[str]]
        Algorithms to offer, best first; None keeps paramiko's.

    Raises
    ------
    ValueError
        An algorithm's name is unknown to the installed paramiko.

    Notes
    -----
    Thread safety.  Every method may be called from any thread, `handshake` once.

    Guarantees.  Messages of one channel leave in order, nothing after its CLOSE.  The reader
    thread never waits for another thread, so a re-key under load ends.  A peer that falls silent
    is noticed in every state, and its loss is told at once to every channel and to the done
    callbacks.  After a fork the child can neither use nor harm the parent's connection.
    """

    _channels: ChannelMap
    _channel_handler_table = {
        MSG_CHANNEL_SUCCESS: told(SshChannel._request_success),
        MSG_CHANNEL_FAILURE: told(SshChannel._request_failed),
        MSG_CHANNEL_DATA: told(SshChannel._feed),
        MSG_CHANNEL_EXTENDED_DATA: told(SshChannel._feed_extended),
        MSG_CHANNEL_WINDOW_ADJUST: told(SshChannel._window_adjust),
        MSG_CHANNEL_REQUEST: told(SshChannel._handle_request),
        MSG_CHANNEL_EOF: told(SshChannel._handle_eof),
        MSG_CHANNEL_CLOSE: told(SshChannel._handle_close),
    }
    # paramiko inflates a packet to whatever size it may have.
    _compression_info = {
        name: (deflater, deflater and Inflater)
        for name, (deflater, _) in paramiko.Transport._compression_info.items()
    }

    def __init__(
        self,
        sock: Any,
        *,
        connection_id: str,
        keepalive_interval: Optional[float] = 15.0,
        keepalive_count_max: int = 3,
        ciphers: Optional[Sequence[str]] = None,
        kex: Optional[Sequence[str]] = None,
        macs: Optional[Sequence[str]] = None,
        key_types: Optional[Sequence[str]] = None,
        compression: Optional[Sequence[str]] = None,
    ) -> None:
        check_paramiko()
        _start_reaper()
        self.connection_id = connection_id
        self._most_silent = keepalive_count_max
        # How often a silent server is asked; a single count asks half-way, so that there is time
        # to answer.
        self._times = max(1, keepalive_count_max - 1)
        # Reader thread only: the last byte we know of, questions since, when the next is due, and
        # whether the socket was looked at after the last answer was due.
        self._heard = 0.0
        self._asked = 0
        self._due = 0.0
        self._looked = False
        self._first_error: Optional[BaseException] = None
        self._answers_due = 0  # reader thread only
        self._answers_sent = 0  # guarded by the gate
        self._rekey_began: Optional[float] = None  # reader thread only
        self._hung_up = False  # the peer has ended the stream; set once, by whoever sees it
        self._goodbye: Optional[str] = None  # reader thread only: the server's DISCONNECT
        self._questions = Questions()
        self._rekeyed: Deque[Latch] = collections.deque()  # of those who wait for new keys
        self._state = threading.Lock()
        self._ending: Optional[SshConnectionLost] = None  # guarded by _state: why we end it
        self._loss: Optional[SshConnectionLost] = None  # guarded by _state
        self._ended = False  # guarded by _state
        self._callbacks: List[DoneCallback] = []  # guarded by _state
        # How many sessions the server admits (None: it never refused one), and how many were open
        # at once; kept by who opens sessions.
        self.session_limit: Optional[int] = None
        self.session_peak = 0
        # Who keeps a session in reserve, and how to ask for it to be given up.
        self.in_reserve: Dict[str, Callable[[], bool]] = {}
        self.beside: Dict[str, Any] = {}  # what others keep for as long as the connection lives
        # The map of channels is weak: what is not yet confirmed, or works for a sink, lives here.
        self._held: Set[SshChannel] = set()  # guarded by lock (paramiko's, for its channels)
        super().__init__(Wire(sock, _STALL_LIMIT))
        self._set_silence(keepalive_interval or 0.0)
        self.name = f"ssh-service-reader-{connection_id}"
        self.set_log_channel(_log.name)
        self._channels, self.channels_seen = ChannelMap(SshChannel.adopt), HandedOut()
        self.packetizer.before_wait = self._before_wait
        self.packetizer.wants_to_write = self._wants_to_write
        self.packetizer.may_begin_rekey = lambda: not self.in_kex
        self.packetizer.unknown_message = self._answer_unimplemented
        self.auth_timeout = _OPEN_TIMEOUT
        _transports.add(self)
        options = self.get_security_options()
        for name, algorithms in (
            ("ciphers", ciphers),
            ("kex", kex),
            ("digests", macs),
            ("key_types", key_types),
            ("compression", compression),
        ):
            if algorithms is not None:
                setattr(options, name, tuple(algorithms))

    # Names for people.

    def __repr__(self) -> str:
        state = "active" if self.is_active() else "ended"
        return f"<{type(self).__name__} {self.connection_id} ({state})>"

    def _log(self, level: int, msg: Any, *args: Any) -> None:
        # paramiko prints 22 lines for one failed connect that its caller catches (fault G25); we
        # raise, and log one line of our own.  What a server says is cut and escaped (S27).
        if _log.isEnabledFor(logging.DEBUG):
            for line in msg if isinstance(msg, list) else [msg % args if args else msg]:
                _log.debug("%s: %s", self.connection_id, printable(str(line)))

    # Beginning and end.

    def handshake(self, deadline: float) -> paramiko.PKey:
        """
        Start the reader thread, identify both sides and exchange keys.

        Parameters
        ----------
        deadline : float
            A monotonic instant.  paramiko's own time-outs restart with each byte, or return as if
            all were well (faults G10, G11).

        Returns
        -------
        paramiko.PKey
            The server's host key, proven to be the server's but not yet trusted.

        Raises
        ------
        SshConnectTimeout
            The deadline passed; `phase` is ``banner`` or ``kex``.
        SshConnectError
            The server is none, speaks another version, or has no algorithm in common.
        """
        self.packetizer.deadline = deadline
        done = Latch()
        began = time.monotonic()
        self.start_client(event=done)
        finished = done.wait(max(0.0, deadline - began))
        if self.initial_kex_done and self.active:
            return self.host_key
        phase = "kex" if self.remote_version else "banner"
        cause = self._first_error
        if not finished or time.monotonic() >= deadline:
            raise SshConnectTimeout(
                f"{self.connection_id}: no SSH session within {deadline - began:.1f} s"
                f" (phase: {phase}){self._server_said()}",
                connection_id=self.connection_id,
                phase=phase,
            ) from cause
        text = printable(str(cause or "the server closed the connection"))
        error = SshConnectError(
            f"{self.connection_id}: {text} (phase: {phase}){self._server_said()}",
            connection_id=self.connection_id,
            phase=phase,
        )
        error.throttled = any(line.startswith(_THROTTLED) for line in self.packetizer.banner)
        raise error from cause

    def _server_said(self) -> str:
        # "Exceeded MaxStartups" comes in place of the identification (fault G20).
        said = " ".join(line for line in self.packetizer.banner if not line.startswith("SSH-"))
        if self._goodbye:
            said = self._goodbye
        return f"; the server said: {printable(said)}" if said else ""

    def is_active(self) -> bool:
        """
        Tell whether the connection can be used, by this process.

        Returns
        -------
        bool
            False once it has ended, is being closed, or belongs to the parent of this process.
        """
        return (
            bool(self.active)
            and self._ending is None
            and not self._hung_up
            and self._pid == os.getpid()
        )

    def is_fit(self) -> bool:
        """
        Tell, by a look at the socket, whether what is sent now could still be answered.

        An end that has come, but that the reader thread has not seen yet, makes the connection
        inactive; what came before it is still read.

        Returns
        -------
        bool
            As `is_active`.
        """
        if self._wire.has_hung_up():
            self._hung_up = True
        return self.is_active()

    @property
    def open_channels(self) -> int:
        """How many channels are open or being opened, those in reserve left out."""
        return sum(not chan.in_reserve for chan in self._channels.values())

    def make_room(self) -> bool:
        """
        Have the sessions closed that nobody uses, for someone who was refused one.

        Returns
        -------
        bool
            Whether there was any.
        """
        return any([give_up() for give_up in list(self.in_reserve.values())])

    @property
    def loss(self) -> Optional[SshConnectionLost]:
        """Why the connection ended; None while it lives and after a clean end."""
        with self._state:
            return self._loss

    def add_done_callback(self, callback: DoneCallback) -> None:
        """
        Call `callback` once when the connection has ended.

        Parameters
        ----------
        callback : Callable[[SshTransport, Optional[SshConnectionLost]], None]
            Called on the reader thread (at once, on the caller's, if it has ended already), with
            the reason of the loss, or None after a clean end.  It must not wait.
        """
        with self._state:
            if not self._ended:
                self._callbacks.append(callback)
                return
            loss = self._loss
        callback(self, loss)

    def close(self) -> None:
        """Say goodbye and end the connection; what is in flight ends with an error at once."""
        self.hang_up()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(_CLOSE_LIMIT)

    def hang_up(self) -> None:
        """Do as `close` does, without waiting for the reader thread to end."""
        self._end(self._lost("closed", "the connection was closed on this side"), polite=True)

    def abort(self, error: SshConnectionLost) -> None:
        """
        Drop the connection for a reason.

        Parameters
        ----------
        error : SshConnectionLost
            What everyone who uses the connection is told.
        """
        self._end(error, polite=False)

    def _end(self, error: SshConnectionLost, polite: bool) -> None:
        if self._pid != os.getpid():  # fault G22: a shutdown would cut the parent's connection
            self._wire.release()
            return
        with self._state:
            first = self._ending is None and not self._ended
            if first:
                self._ending = error
        if first and polite:
            self._say_goodbye()
        self._wire.close()  # wakes the reader, which tells everyone and gives the socket back
        if self.ident is None:  # there is no reader yet
            self._wire.release()
            self._finish()

    def stop_thread(self) -> None:
        """Do nothing: paramiko calls this when the interpreter ends, and so do sockets."""
        # Closing it here would tell everyone, in a process that is about to be gone, that the
        # server closed the connection; daemon threads would print that as they die (fault G24).

    def _disown(self) -> None:
        """Become useless, in a forked child: threads that it has not may hold all of these."""
        super()._disown()
        self._state, self.lock = threading.Lock(), threading.Lock()
        known, self._channels = self._channels.values(), ChannelMap(SshChannel.adopt)
        error = self._lost("fork", "this connection belongs to the parent process", sent=False)
        self._ending = self._loss = error
        self._ended = True
        self._held, self._callbacks = set(), []
        for chan in known:
            chan._disown(error)

    def _lost(self, reason: str, text: str, **attributes: Any) -> SshConnectionLost:
        return SshConnectionLost(
            f"{self.connection_id}: {text}",
            reason=reason,
            connection_id=self.connection_id,
            **attributes,
        )

    # The reader thread.

    def run(self) -> None:
        """Read until the connection ends, then tell everyone; `start_client` starts this."""
        try:
            super().run()
        finally:
            self._finish()
            # paramiko does this only where it was the first to see the end: not if this side hung
            # up at that moment.
            if self.completion_event is not None:
                self.completion_event.set()

    def _finish(self) -> None:
        with self._state:
            if self._ended:
                return
            reason = self._ending or self._why()
            clean = reason.reason in ("closed", "goodbye")
            self._ended, self._loss = True, None if clean else reason
            callbacks, self._callbacks = self._callbacks, []
        self.active = False
        self._wire.close()
        self.clear_to_send.set()  # whoever waits for a key exchange finds the connection ended
        self._tell_rekeyed()
        self._questions.end()
        with self.lock:
            known = self._held.union(self._channels.values())
            self._held.clear()
        for chan in known:
            chan._end(again(reason))
        for callback in callbacks:
            try:
                callback(self, self._loss)
            except Exception:  # the others have to be told all the same
                _log.exception("%s: a done callback failed", self.connection_id)
        # Once the last writer has gone, the number may be re-used.  One that a signal's handler
        # tore away from the gate has left it closed for ever (fault G23).
        self.clear_to_send_lock.acquire(timeout=_CLOSE_LIMIT / 2)
        self._wire.release()
        self.clear_to_send_lock.release()

    def _why(self) -> SshConnectionLost:
        error = self._first_error
        if self._goodbye is not None:
            return self._lost("disconnect", f"the server said goodbye: {self._goodbye}")
        if error is None:
            return self._lost("protocol", "the server sent what no SSH server may send")
        if isinstance(error, SshConnectionLost):
            return error
        if isinstance(error, PeerSilent):
            lost = self._lost("silence", str(error))
        elif isinstance(error, EOFError):
            lost = self._lost("eof", "the server closed the connection")
        elif isinstance(error, OSError):
            lost = self._lost("reset", f"the connection failed: {error}")
        elif isinstance(error, _HostKeyChanged):
            lost = self._lost("host key", str(error))
        else:
            lost = self._lost("protocol", f"protocol violation: {printable(str(error))}")
        lost.__cause__ = error
        return lost

    @property
    def saved_exception(self) -> Optional[BaseException]:
        """What ended the reader, as paramiko keeps it: whoever asks first takes it away."""
        return self._saved

    @saved_exception.setter
    def saved_exception(self, error: Optional[BaseException]) -> None:
        # A property, so that the reason is still known after `get_exception` took it (fault G3).
        self._saved = error
        if error is not None and self._first_error is None:
            self._first_error = error

    def _before_wait(self) -> Optional[float]:
        """Do what is due before the reader waits for bytes; say for how long it may."""
        now = time.monotonic()
        waits = []
        soon = self._time_to_flush(now)
        if soon:
            waits.append(soon)
        else:
            self._flush()
        if self._rekey_began is not None:
            waits.append(self._rekey_began + gate.REKEY_LIMIT - now)
            if waits[-1] <= 0:
                raise SSHException(f"no end of a key exchange in {gate.REKEY_LIMIT:g} s")
        if self._silence_limit and self.authenticated:
            waits.append(self._check_silence(now))
        return max(0.0, min(waits)) if waits else _LOOK_AGAIN

    def _wants_to_write(self) -> bool:
        return self._is_behind() and not self._flush_at and self._may_send()

    def _set_silence(self, interval: float) -> None:
        self._silence_limit = interval * self._most_silent  # 0: for ever
        self._patience = self._silence_limit / (self._times + 1)
        self._wire.stall_limit = self._silence_limit or _STALL_LIMIT

    def _ask_for_a_sign_of_life(self) -> None:
        m = message(cMSG_GLOBAL_REQUEST, "keepalive@openssh.com", True)
        m.on_sent = lambda: self._questions.ask(None)
        self.post(m)

    def _check_silence(self, now: float) -> float:
        # Fault F5: paramiko sends keepalives, but nobody notices that none is answered.  What
        # counts is unanswered questions, not time alone: this process may have been stopped.
        if self._heard != self._wire.last_received:
            self._heard = self._wire.last_received
            self._asked, self._looked = 0, False
            self._due = self._heard + self._patience
        if now >= self._due:
            if self._asked < self._times:
                self._ask_for_a_sign_of_life()
                self._asked += 1
                self._due = now + self._patience
            elif self._looked:
                raise PeerSilent(f"nothing heard from the server for {now - self._heard:.1f} s")
            else:
                self._looked = True  # the answer may have come while we were not running
        return self._due - now

    def _answer_unimplemented(self, seqno: int) -> None:
        self._answer(message(cMSG_UNIMPLEMENTED, seqno))

    def _answer(self, m: Message, outbound: Optional[Outbound] = None) -> None:
        """Answer a message of the server's, whose answers must not pile up for ever."""
        self._answers_due += 1
        if self._answers_due - self._answers_sent > _MOST_ANSWERS:
            raise SSHException("the server asks, but takes no answers")
        m.on_sent = self._answer_leaves
        self.post(m, outbound)

    def _answer_leaves(self) -> None:
        self._answers_sent += 1

    def _no_connection(self) -> SshConnectionLost:
        with self._state:
            reason = self._loss or self._ending
        return again(reason) if reason else self._lost("unknown", "the connection has ended")

    def _send_kex_init(self) -> None:
        if self.initial_kex_done:
            self._rekey_began = time.monotonic()
        super()._send_kex_init()

    def _parse_newkeys(self, m: Message) -> None:
        super()._parse_newkeys(m)
        self._rekey_began = None
        self._tell_rekeyed()

    def _tell_rekeyed(self) -> None:
        while self._rekeyed:
            self._rekeyed.popleft().set()

    def _verify_key(self, host_key: bytes, sig: bytes) -> None:
        trusted = self.host_key
        super()._verify_key(host_key, sig)
        if trusted is not None and trusted.asbytes() != self.host_key.asbytes():
            raise _HostKeyChanged("the server showed another host key at a re-key")

    def _auth_trigger(self) -> None:
        super()._auth_trigger()
        # paramiko keeps the credentials for as long as the connection lives (S11).
        self.auth_handler.password = self.auth_handler.private_key = None
        self.auth_handler.interactive_handler = None

    # Messages that paramiko answers inside a key exchange, which RFC 4253 section 7.1 forbids
    # (fault G34), or with one error for all threads (fault G3).

    def _parse_global_request(self, m: Message) -> None:
        m.get_text()
        if m.get_boolean():
            self._answer(message(cMSG_REQUEST_FAILURE))

    def _parse_request_success(self, m: Message) -> None:
        self._questions.answered(m)

    def _parse_request_failure(self, m: Message) -> None:
        self._questions.answered(None)

    def _parse_disconnect(self, m: Message) -> None:
        code, text = m.get_int(), printable(m.get_string().decode("utf-8", "backslashreplace"))
        self._goodbye = f"{text or 'no reason given'} (code {code})"
        if code == gate.DISCONNECT_BY_APPLICATION:
            with self._state:
                if self._ending is None:
                    self._ending = self._lost("goodbye", f"the server left: {self._goodbye}")

    def _parse_channel_open(self, m: Message) -> None:
        if self._forward_agent_handler or self._x11_handler or self._tcp_handler:
            super()._parse_channel_open(m)  # the user asked for it, by paramiko's own methods
            return
        m.get_text()
        self._answer(
            message(
                cMSG_CHANNEL_OPEN_FAILURE,
                m.get_int(),
                OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
                "",
                "",
            )
        )

    # What paramiko offers besides, in one event for all threads (fault G33).

    def set_keepalive(self, interval: float) -> None:
        """
        Change how long the server may be silent before it is asked for a sign of life.

        How often it is asked stays the same, so it is lost after ``interval * count`` seconds.

        Parameters
        ----------
        interval : float
            Seconds; 0: never.

        Notes
        -----
        It holds from the server's next message on, which is asked for at once.  Where that does
        not come, and there was no keepalive before, it holds within a minute.
        """
        self._set_silence(float(interval))
        self._ask_for_a_sign_of_life()

    def renegotiate_keys(self) -> None:
        """
        Exchange keys anew, and wait until that is done.

        Raises
        ------
        SshConnectionLost
            The connection has ended, or the server did not take part.
        """
        done = Latch()
        self._rekeyed.append(done)
        if self.is_active():  # otherwise, nobody is there to set it
            self.packetizer._trigger_rekey()
            self._ask_for_a_sign_of_life()  # wakes the reader, which begins
            if not done.wait(gate.REKEY_LIMIT):
                self.abort(self._lost("protocol", f"no new keys in {gate.REKEY_LIMIT:g} s"))
        if not self.is_active():
            raise self._no_connection()

    def global_request(
        self, kind: str, data: Optional[Sequence[Any]] = None, wait: bool = True
    ) -> Optional[Message]:
        """
        Make a global request (RFC 4254 section 4), as `paramiko.Transport.global_request`.

        Parameters
        ----------
        kind : str
            Its name.
        data : Optional[Sequence[Any]]
            What belongs to it.
        wait : bool
            Whether to wait for the answer.

        Returns
        -------
        Optional[Message]
            The answer, whichever thread asks what else; None where the server refused, or `wait`
            is False.

        Raises
        ------
        socket.timeout
            The server is alive and did not answer.
        SshConnectionLost
            The connection has ended.
        """
        m = message(cMSG_GLOBAL_REQUEST, kind, wait)
        m.add(*(data or ()))
        question = Question()
        if wait:
            m.on_sent = lambda: self._questions.ask(question)
        self._send_user_message(m)
        if not wait:
            return None
        answered = question.done.wait(_OPEN_TIMEOUT)
        if not self.is_active():
            raise self._no_connection()
        if not answered:
            raise socket.timeout(f"no answer to a global request within {_OPEN_TIMEOUT:g} s")
        return question.answer

    # Channels.

    def start_session(
        self,
        sink: ChannelSink,
        *,
        window_size: Optional[int] = None,
        max_packet_size: Optional[int] = None,
    ) -> SshChannel:
        """
        Ask for a session channel, without waiting.

        Parameters
        ----------
        sink : ChannelSink
            Told what becomes of it, first `ChannelSink.opened` or `ChannelSink.closed`.
        window_size, max_packet_size : Optional[int]
            Bytes; None takes the transport's defaults.

        Returns
        -------
        SshChannel
            Not open yet.

        Raises
        ------
        SshConnectionLost
            The connection has ended; `sent` is False.
        """
        return self._start_channel("session", (), sink, window_size, max_packet_size)

    def _start_channel(
        self,
        kind: str,
        address: Sequence[Any],
        sink: ChannelSink,
        window_size: Optional[int],
        max_packet_size: Optional[int],
    ) -> SshChannel:
        with self.lock:
            number = self._next_channel()
            chan = SshChannel(number, sink)
            chan._set_transport(self)
            chan._set_window(
                self._sanitize_window_size(window_size),
                self._sanitize_packet_size(max_packet_size),
            )
            # Checked where it is published: `_finish` takes the same lock to tell all channels.
            alive = self.is_active()
            if alive:
                self._channels.put(number, chan)
                self.channels_seen[number] = True
                self._held.add(chan)
        if not alive:
            error = self._no_connection()
            error.sent = False
            raise error
        self.post(
            message(
                cMSG_CHANNEL_OPEN,
                kind,
                number,
                chan.in_window_size,
                chan.in_max_packet_size,
                *address,
            )
        )
        return chan

    def open_channel(
        self,
        kind: str,
        dest_addr: Optional[Tuple[str, int]] = None,
        src_addr: Optional[Tuple[str, int]] = None,
        window_size: Optional[int] = None,
        max_packet_size: Optional[int] = None,
        timeout: Optional[float] = None,
    ) -> SshChannel:
        """
        Open a channel and wait for it, as `paramiko.Transport.open_channel`.

        Parameters
        ----------
        kind : str
            ``session`` or ``direct-tcpip``.
        dest_addr, src_addr : Optional[Tuple[str, int]]
            Host and port, for ``direct-tcpip``.
        window_size, max_packet_size : Optional[int]
            Bytes; None takes the transport's defaults.
        timeout : Optional[float]
            Seconds; None means 30.

        Returns
        -------
        SshChannel
            Open.

        Raises
        ------
        SshSessionRefused
            The server refused it.
        SshConnectTimeout
            No answer in time; the server's slot is given back when its answer comes.
        SshConnectionLost
            The connection ended.
        """
        timeout = _OPEN_TIMEOUT if timeout is None else timeout
        deadline = time.monotonic() + timeout
        address: Tuple[Any, ...] = ()
        if kind == "direct-tcpip":
            address = (*(dest_addr or ("", 0)), *(src_addr or ("", 0)))
        try:
            return self._open(kind, address, window_size, max_packet_size, deadline, timeout)
        except SshSessionRefused:
            if not self.make_room():
                raise
        return self._open(kind, address, window_size, max_packet_size, deadline, timeout)

    def _open(
        self,
        kind: str,
        address: Sequence[Any],
        window_size: Optional[int],
        max_packet_size: Optional[int],
        deadline: float,
        timeout: float,
    ) -> SshChannel:
        waiter = OpenWaiter()
        chan = self._start_channel(kind, address, waiter, window_size, max_packet_size)
        try:
            in_time = waiter.wait(deadline)
        except BaseException:
            chan.abandon()
            raise
        if not in_time:
            chan.abandon()
            raise SshConnectTimeout(
                f"{self.connection_id}: no channel within {timeout:g} s",
                connection_id=self.connection_id,
                phase="open",
            )
        if chan.error is not None:
            raise again(chan.error)
        with self.lock:
            self._held.discard(chan)  # from now on it lives as long as the caller wants it
        return chan

    def _parse_channel_open_success(self, m: Message) -> None:
        number, remote, window, packet = m.get_int(), m.get_int(), m.get_int(), m.get_int()
        chan = self._channels.find(number)
        if chan is None or chan.active:
            raise SSHException("the server confirmed a channel nobody asked for")
        chan._confirmed(remote, window, packet)

    def _parse_channel_open_failure(self, m: Message) -> None:
        number, code, text = m.get_int(), m.get_int(), m.get_string()
        chan = self._channels.find(number)
        if chan is None or chan.active:
            raise SSHException("the server refused a channel nobody asked for")
        self._channels.delete(number)
        self._forget_channel(chan)
        said = printable(text.decode("utf-8", "backslashreplace"))
        chan._end(
            SshSessionRefused(
                f"{self.connection_id}: the server refused a channel: {said} (code {code})",
                code=code,
                connection_id=self.connection_id,
            )
        )

    def _forget_channel(self, chan: SshChannel) -> None:
        with self.lock:
            self._held.discard(chan)


class _HostKeyChanged(SSHException):  # type: ignore[misc]
    """The server proved to be another one in the middle of a connection."""


def printable(text: str, limit: int = 300) -> str:
    """
    Make text from a server fit for a log or a message.

    Parameters
    ----------
    text : str
        What the server sent.
    limit : int
        Characters to keep.

    Returns
    -------
    str
        One line, cut, without control characters.
    """
    cut = text if len(text) <= limit else text[:limit] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut.strip())


_reaper_lock = threading.Lock()
_reaper: Optional[threading.Thread] = None  # guarded by _reaper_lock


def _start_reaper() -> None:
    global _reaper
    with _reaper_lock:
        if _reaper is None or not _reaper.is_alive():
            _reaper = threading.Thread(
                target=channels.do_chores, name="ssh-service-reaper", daemon=True
            )
            _reaper.start()


_transports: "weakref.WeakSet[SshTransport]" = weakref.WeakSet()


def _forget_parent() -> None:
    # A forked child has neither the parent's threads nor a sane state of their locks.
    global _reaper, _reaper_lock
    _reaper, _reaper_lock = None, threading.Lock()
    channels.chores = type(channels.chores)()
    for transport in list(_transports):
        transport._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
