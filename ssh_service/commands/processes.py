"""Processes on a server: POSIX shell scripts that find and end them, and parsers of the output."""

from __future__ import annotations

import re
import shlex
from bisect import bisect
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

# Processes that started in the same clock tick (1/100 s) are ordered by pid, as pids grow.  A
# larger difference of the pids means that they wrapped around in between.
_MAX_FORKS = 1000
# The most digits of any number in /proc.
_MAX_DIGITS = 20
# The script of `end_script` writes this when all processes that it should end have ended.
ENDED = "ended"

# Succeeds if process $1 exists, is not a zombie, and started at $2.
_IS = """\
is() {
    IFS= read -r _l <"/proc/$1/stat" || return 1
    _b=$2
    set -- ${_l##*") "}
    [ "$1" != Z ] && [ "${20}" = "$_b" ]
}
"""
# Sets `members` to the number of processes with the group's id, or to nothing if none is left.
# The count includes the script itself, as proof that /proc could be read.  (`read` is not used: a
# shell reads one byte at a time.)  Signals are sent by `kill -NAME`: with `kill -s NAME`, dash
# requires `--` before the number of a group, which busybox rejects.
_GROUP = """\
look() {
    members=$(cat /proc/[0-9]*/stat |
        LC_ALL=C grep -c -e "^$$ (" -e ") [A-Ya-y] [0-9]* {pid} ")
    [ "$members" = 1 ] && members=
}
send() { kill "-$1" -{pid}; }
"""
# Sets `members` to the process and its descendants, including those that they start meanwhile;
# for servers whose commands have no process group of their own.
_TREE = """\
known=" {pid}:{started} "
look() {
    _all=
    for _d in /proc/[0-9]*; do
        IFS= read -r _l <"$_d/stat" || continue
        set -- ${_l##*") "}
        _all="$_all ${_d#/proc/}:${20}:$2"
    done
    _more=1
    while [ "$_more" ]; do
        _more=
        for _e in $_all; do
            _p=${_e##*:}
            _e=${_e%:*}
            case $known in *" $_e "*) continue ;; esac
            case $known in *" $_p:"*) known="$known$_e " _more=1 ;; esac
        done
    done
    members=
    for _e in $known; do
        is "${_e%:*}" "${_e#*:}" && members="$members ${_e%:*}"
    done
}
send() { kill "-$1" $members; }
"""
# What is left of a session whose leader has ended is signalled, too.
_LEADER = """\
if IFS= read -r _l </proc/{pid}/stat; then
    set -- ${_l##*") "}
    [ "${20}" = {started} ] || exit 0
fi
proof={ended} looked=
"""
# Sets `members` to the processes of the session that the process leads, and of its group; also to
# those of the sessions that sudo has made: with a terminal, sudo may run a command on another one
# (`use_pty`).  sudo passes on all signals but KILL, so `send` sends those to sudo, if it may.  A
# session without members is forgotten, as its number may be reused.  `members` is never empty
# unless all of /proc can be read.  If the leader has ended before a first look was over, nothing
# is proved: a sudo that has ended with it may have left a session that nobody knows.
_SESSION = """\
sessions=" "
look() {
    _all=$(cat /proc/[0-9]*/stat)
    _sudo=" " _more=1
    while [ "$_more" ]; do
        _more= members= own=" " behind=" " _found=" " _self=
        set -- -e "^$$ (" -e ") [A-Ya-y] [0-9]* {pid} " -e ") [A-Ya-y] [0-9]* [0-9]* {pid} "
        for _e in $sessions; do set -- "$@" -e ") [A-Ya-y] [0-9]* [0-9]* $_e "; done
        for _e in $_sudo; do set -- "$@" -e ") [A-Ya-y] $_e "; done
        _few=$(printf '%s\\n' "$_all" | LC_ALL=C grep "$@")
        while IFS= read -r _l; do
            sort_out "${_l%% *}" ${_l##*") "}
        done <<END_OF_LIST
$_few
END_OF_LIST
    done
    sessions=$_found
    IFS= read -r _l </proc/1/stat && [ "$_self" ] || members="hidden $members"
    [ "$looked" ] || is {pid} {started} || proof=
    looked=1
}
sort_out() {
    if [ "$1" = $$ ]; then
        _self=1
        return
    fi
    [ "$4" -gt 1 ] && [ "$5" -gt 1 ] || return
    case "$_sudo|${sessions}{pid} " in
        *" $3 "*"|"*" $5 "*) ;;
        *" $3 "*"|"*) sessions="$sessions$5 " _more=1 ;;
    esac
    if [ "$4" = {pid} ] || [ "$5" = {pid} ]; then
        case $own in *" $4 "*) ;; *) own="$own$4 " ;; esac
    else
        case $sessions in *" $5 "*) ;; *) return ;; esac
        case $behind in *" $4 "*) ;; *) behind="$behind$4 " ;; esac
        case $_found in *" $5 "*) ;; *) _found="$_found$5 " ;; esac
    fi
    members="$members $1"
    case "$_sudo|$_l" in
        *" $1 "*"|"*) ;;
        *"|$1 (sudo) "*) _sudo="$_sudo$1 " _more=1 ;;
    esac
}
send() {
    _sent=
    for _e in $own; do kill "-$1" "-$_e" && _sent=1; done
    [ "$_sent" ] && [ "$1" != KILL ] && return
    for _e in $behind; do kill "-$1" "-$_e"; done
}
"""
_END = """\
for signal in {signals}; do
    look
    [ "$members" ] || { echo {ended}; exit; }
    send "$signal"
    [ {wait} = 0 ] && continue
    n=0
    while [ $n -lt {wait} ]; do
        sleep 0.1 || { sleep 1; n=$((n + 9)); }
        n=$((n + 1))
        look
        [ "$members" ] || { echo {ended}; exit; }
    done
done
"""
# Lists the children of the server's process for this connection.  (`grep` is used because a shell
# reads one byte at a time, which took 40 ms for 170 processes.  It may list other processes, too,
# but misses none.)
_CHILDREN = """\
LC_ALL=C grep -H ") [A-Za-z] $p " /proc/[0-9]*/stat
IFS= read -r b </proc/sys/kernel/random/boot_id
echo "boot $b"
echo "parent $p"
echo "self $$"
"""
# Finds the server's process for another of our connections.
_OTHER_CONNECTION = """\
set -- $SSH_CONNECTION
[ "$1" = {host} ] || exit 0
want="SSH_CONNECTION=$1 {port} $3 $4"
has() { tr '\\0' '\\n' <"$1/environ" | grep -Fqx "$want"; }
p=
for d in /proc/[0-9]*; do
    IFS= read -r l <"$d/stat" || continue
    set -- ${l##*") "}
    [ "$2" -gt 1 ] || continue
    IFS= read -r c <"/proc/$2/comm" || continue
    case $c in sshd* | dropbear* | tinysshd*) has "$d" && ! has "/proc/$2" && p=$2 && break ;; esac
done
[ "$p" ] || exit 0
"""


class Process(NamedTuple):
    """
    A process on a server, distinguished from later processes with the same pid.

    Attributes
    ----------
    pid : int
        The process id.
    leads : bool
        Whether the process is the leader of a process group.
    started : Optional[int]
        The start time in clock ticks since the system's boot; None if there is no ``/proc``.
    boot : str
        The system's boot id; empty if it has no such id.
    """

    pid: int
    leads: bool
    started: Optional[int] = None
    boot: str = ""


def parse_stat(pid: int, fields: Sequence[str], boot: str = "") -> Optional[Process]:
    """
    Parse the fields of ``/proc/PID/stat`` after the process's name.

    Return None if they are malformed.
    """
    try:
        return Process(pid, int(fields[2]) == pid, int(fields[19]), boot)
    except (IndexError, ValueError):
        return None


def end_script(
    process: Process, signals: Sequence[str], wait: float = 0.0, *, in_session: bool = False
) -> str:
    """
    Return a script that sends signals to a process and its children.

    After each signal, the script waits up to `wait` seconds for them to end.  `in_session`:
    whether the process leads a session, all of which gets the signals, with the sessions that sudo
    has made.
    """
    names = " ".join(map(shlex.quote, signals))
    if process.started is None:  # a system without /proc, where commands have process groups
        kills = [f"kill -{name} -{process.pid}" for name in names.split()]
        return "; ".join(kills)
    text = _IS
    if process.boot:
        text += "IFS= read -r b </proc/sys/kernel/random/boot_id\n"
        text += f'[ "$b" = {shlex.quote(process.boot)} ] || {{ echo {ENDED}; exit; }}\n'
    end = _END.replace("{wait}", str(round(10 * wait))).replace("{signals}", names)
    if in_session and process.leads:
        text += _LEADER + _SESSION + end.replace("{ended}", "$proof")
    else:
        text += "is {pid} {started} || exit 0\n"
        text += (_GROUP if process.leads else _TREE) + end
    for name, value in (("pid", process.pid), ("started", process.started), ("ended", ENDED)):
        text = text.replace("{%s}" % name, str(value))
    return f"exec 2>/dev/null\n{text}"


def children_script(connection: Optional[Tuple[str, int]] = None) -> str:
    """
    Return a script that lists the processes that the server runs for a connection.

    `connection` is our address and port of that connection; None: the script's own connection.
    """
    find = "p=$PPID\n"
    if connection is not None:
        host, port = connection
        find = _OTHER_CONNECTION.replace("{host}", shlex.quote(host)).replace("{port}", str(port))
    return f"exec 2>/dev/null\n{find}{_CHILDREN}"


class Children(NamedTuple):
    """
    The processes that the server runs for a connection, as `children_script` listed them.

    Attributes
    ----------
    others : List[Process]
        The processes in the order in which they were started, up to the script itself; empty if
        that order is not certain.
    own : Optional[Process]
        The script itself; None if it was run over another connection.
    """

    others: List[Process]
    own: Optional[Process]


def parse_children(output: bytes) -> Children:
    """Parse the output of `children_script`."""
    nothing = Children([], None)
    text = output.decode("ascii", "replace")
    named = dict(line.partition(" ")[::2] for line in text.splitlines()[-3:])
    if "self" not in named:
        return nothing
    found: Dict[int, Process] = {}
    for path, rest in re.findall(r"^/proc/([0-9]{1,20})/stat:(.*)$", text, re.MULTILINE):
        fields = rest.rpartition(") ")[2].split()
        if len(fields) < 2 or max(map(len, fields)) > _MAX_DIGITS:
            return nothing
        if fields[0] == "Z" or fields[1] != named.get("parent"):
            continue  # a zombie, or a process whose name contains the pattern
        process = parse_stat(int(path), fields, named.get("boot", ""))
        if process is None or process.pid in found:
            return nothing
        found[process.pid] = process
    order = sorted(found.values(), key=_age)
    if not _is_certain(order):
        return nothing
    pids = [str(process.pid) for process in order]
    if named["self"] not in pids:
        return Children(order, None)
    at = pids.index(named["self"])
    return Children(order[:at], order[at])


def _age(process: Process) -> Tuple[int, int]:
    return process.started or 0, process.pid


def _is_certain(order: Sequence[Process]) -> bool:
    """Return whether processes that are sorted by age certainly started in that order."""
    return not any(
        one.started == next_one.started and next_one.pid - one.pid > _MAX_FORKS
        for one, next_one in zip(order, order[1:])
    )


class SessionProcesses(NamedTuple):
    """
    The sessions' processes, as far as a list of processes identifies them.

    Attributes
    ----------
    picked : Dict[int, Process]
        The processes that are certain, by the number of the session.
    gone : Set[int]
        The numbers of the sessions whose processes have ended.
    """

    picked: Dict[int, Process]
    gone: Set[int]


def assign(
    found: Sequence[Process], entries: Sequence[Tuple[int, bool]], known: Mapping[int, Process]
) -> SessionProcesses:
    """
    Assign processes to sessions.

    Parameters
    ----------
    found : Sequence[Process]
        The listed processes.
    entries : Sequence[Tuple[int, bool]]
        The number of each session, and whether its process is certain to be in the list.
    known : Mapping[int, Process]
        The processes that are already known, by the number of the session.

    Returns
    -------
    SessionProcesses
        Only assignments without an alternative.
    """
    numbers = sorted(known)
    marks = [_age(known[number]) for number in numbers]
    every = sorted({*found, *known.values()}, key=_age)
    if marks != sorted(set(marks)) or not _is_certain(every):
        return SessionProcesses({}, set())
    there = set(found)
    result = SessionProcesses({}, {n for n, _ in entries if n in known and known[n] not in there})
    for gap in range(len(numbers) + 1):
        those = [p for p in found if _age(p) not in marks and bisect(marks, _age(p)) == gap]
        sessions = [e for e in entries if e[0] not in known and bisect(numbers, e[0]) == gap]
        for number, _ in sessions:
            process = pick(those, sessions, number)
            if process is not None:
                result.picked[number] = process
        if len(those) == sum(certain for _, certain in sessions):
            result.gone.update(number for number, certain in sessions if not certain)
    return result


def pick(
    found: Sequence[Process], entries: Sequence[Tuple[int, bool]], wanted: int
) -> Optional[Process]:
    """
    Return the process of the session `wanted`; None if more than one assignment is possible.

    `found` and `entries` are as in `assign`.
    """
    entries = sorted(entries)
    if len(found) == len(entries):
        entries = [(number, True) for number, _ in entries]
    places = [at for at, entry in enumerate(entries) if entry == (wanted, True)]
    if len(places) != 1:
        return None
    before = [certain for _, certain in entries[: places[0]]]
    after = [certain for _, certain in entries[places[0] + 1 :]]
    # How many of the sessions that are not certain have a process in the list.
    uncertain = len(found) - sum(certain for _, certain in entries)
    if not 0 <= uncertain <= before.count(False) + after.count(False):
        return None
    first = before.count(True) + max(0, uncertain - after.count(False))
    last = before.count(True) + min(before.count(False), uncertain)
    return found[first] if first == last else None
