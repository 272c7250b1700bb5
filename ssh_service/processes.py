"""Processes on a server: how they are recognised, found and ended, by POSIX shells."""

from __future__ import annotations

import shlex
from typing import List, NamedTuple, Optional, Sequence, Tuple

# Two processes that began in the same hundredth of a second are told apart by their numbers, which
# grow; where they differ by more, the numbers have begun anew in between.
_MOST_FORKS = 1000
# Of any number in /proc.
_MOST_DIGITS = 20
# What the script below writes when all that it was to end has ended.
ENDED = "ended"

# Tells whether process $1 is there, is no zombie, and began at $2.
_IS = """\
is() {
    IFS= read -r _l <"/proc/$1/stat" || return 1
    _b=$2
    set -- ${_l##*") "}
    [ "$1" != Z ] && [ "${20}" = "$_b" ]
}
"""
# Sets `members` to what is left of the group: all that has its number.
_GROUP = """\
look() {
    members=
    for _d in /proc/[0-9]*; do
        IFS= read -r _l <"$_d/stat" || continue
        set -- ${_l##*") "}
        [ "$3" = {pid} ] && [ "$1" != Z ] && members="$members ${_d#/proc/}"
    done
}
send() { kill -s "$1" -- -{pid}; }
"""
# Sets `members` to the process and what it has begun, and adds what those begin meanwhile; for
# servers whose commands have no process group of their own.
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
send() { kill -s "$1" $members; }
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
# Lists what the server's process for this connection has begun.
_CHILDREN = """\
for d in /proc/[0-9]*; do
    IFS= read -r l <"$d/stat" || continue
    set -- ${l##*") "}
    [ "$2" = "$p" ] && echo "child ${d#/proc/} $*"
done
IFS= read -r b </proc/sys/kernel/random/boot_id
echo "boot $b"
echo "self $$"
"""
# Finds that process for another connection of ours.
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
    case $c in sshd* | dropbear*) has "$d" && ! has "/proc/$2" && p=$2 && break ;; esac
done
[ "$p" ] || exit 0
"""


class Process(NamedTuple):
    """
    A process on a server, told apart from others that will have its number.

    Attributes
    ----------
    pid : int
        Its number.
    leads : bool
        Whether it is the first of a process group of its own.
    started : Optional[int]
        When it began, in clock ticks since the system did; None where there is no ``/proc``.
    boot : str
        The system's boot id; empty where there is none.
    """

    pid: int
    leads: bool
    started: Optional[int] = None
    boot: str = ""


def parse_stat(pid: int, fields: Sequence[str], boot: str = "") -> Optional[Process]:
    """
    Read what ``/proc/PID/stat`` has after the process's name.

    Parameters
    ----------
    pid : int
        The process.
    fields : Sequence[str]
        Its state, its parent, its group, and so on.
    boot : str
        The system's boot id.

    Returns
    -------
    Optional[Process]
        None where they are not what they should be.
    """
    try:
        return Process(pid, int(fields[2]) == pid, int(fields[19]), boot)
    except (IndexError, ValueError):
        return None


def end_script(process: Process, signals: Sequence[str], wait: float = 0.0) -> str:
    """
    Write the script that ends a process and its children.

    Parameters
    ----------
    process : Process
        It must have been seen; a process that has its number by now is left alone.
    signals : Sequence[str]
        What to send, one after the other.
    wait : float
        Seconds to wait after each of them; then the script writes `ENDED` if all have ended.

    Returns
    -------
    str
        For a POSIX shell.
    """
    names = " ".join(map(shlex.quote, signals))
    if process.started is None:  # a system without /proc, whose commands have groups
        kills = [f"kill -s {name} -- -{process.pid}" for name in names.split()]
        return "; ".join(kills)
    text = _IS
    if process.boot:
        text += "IFS= read -r b </proc/sys/kernel/random/boot_id\n"
        text += f'[ "$b" = {shlex.quote(process.boot)} ] || {{ echo {ENDED}; exit; }}\n'
    text += f"is {process.pid} {process.started} || exit 0\n"
    text += _GROUP if process.leads else _TREE
    text += _END.replace("{wait}", str(round(10 * wait))).replace("{signals}", names)
    for name, value in (("pid", process.pid), ("started", process.started), ("ended", ENDED)):
        text = text.replace("{%s}" % name, str(value))
    return f"exec 2>/dev/null\n{text}"


def children_script(connection: Optional[Tuple[str, int]] = None) -> str:
    """
    Write the script that lists what the server runs for a connection.

    Parameters
    ----------
    connection : Optional[Tuple[str, int]]
        Our address and port of the connection that is meant; None: the one it is run over.

    Returns
    -------
    str
        For a POSIX shell.
    """
    find = "p=$PPID\n"
    if connection is not None:
        host, port = connection
        find = _OTHER_CONNECTION.replace("{host}", shlex.quote(host)).replace("{port}", str(port))
    return f"exec 2>/dev/null\n{find}{_CHILDREN}"


def parse_children(output: bytes) -> List[Process]:
    """
    Read what the script of `children_script` wrote.

    Parameters
    ----------
    output : bytes
        Its stdout.

    Returns
    -------
    List[Process]
        The processes that run, in the order in which they were begun, up to the script itself;
        empty where that order is not certain.
    """
    lines = [line.split() for line in output.decode("ascii", "replace").splitlines()]
    named = {line[0]: line[1] for line in lines if len(line) == 2}
    if "self" not in named:
        return []  # it was cut off
    found: List[Process] = []
    for line in lines:
        if line[:1] != ["child"] or line[2:3] == ["Z"]:
            continue
        if len(line) < 3 or not line[1].isdigit() or max(map(len, line)) > _MOST_DIGITS:
            return []
        process = parse_stat(int(line[1]), line[2:], named.get("boot", ""))
        if process is None:
            return []
        found.append(process)
    found.sort(key=lambda process: (process.started or 0, process.pid))
    for one, next_one in zip(found, found[1:]):
        if one.started == next_one.started and next_one.pid - one.pid > _MOST_FORKS:
            return []
    pids = [str(process.pid) for process in found]
    return found[: pids.index(named["self"])] if named["self"] in pids else found


def pick(
    found: Sequence[Process], entries: Sequence[Tuple[int, bool]], wanted: int
) -> Optional[Process]:
    """
    Tell which process belongs to which session, where only one answer is possible.

    Parameters
    ----------
    found : Sequence[Process]
        All that ran, in the order in which they were begun.
    entries : Sequence[Tuple[int, bool]]
        The sessions whose processes may have run then, by the order in which they were begun, and
        whether they did for certain.
    wanted : int
        The session.

    Returns
    -------
    Optional[Process]
        None where another one could be meant.
    """
    entries = sorted(entries)
    if len(found) == len(entries):
        entries = [(number, True) for number, _ in entries]
    places = [at for at, entry in enumerate(entries) if entry == (wanted, True)]
    if len(places) != 1:
        return None
    before = [certain for _, certain in entries[: places[0]]]
    after = [certain for _, certain in entries[places[0] + 1 :]]
    # Of those that are not certain, so many did run.
    uncertain = len(found) - sum(certain for _, certain in entries)
    if not 0 <= uncertain <= before.count(False) + after.count(False):
        return None
    first = before.count(True) + max(0, uncertain - after.count(False))
    last = before.count(True) + min(before.count(False), uncertain)
    return found[first] if first == last else None
