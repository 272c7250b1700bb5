"""The scripts that find, watch, signal and remove jobs on a host, for any POSIX shell."""

from __future__ import annotations

from typing import Sequence

from ssh_service.jobs.shell_parts import ATTEMPT, END, FOLDER, FOREIGN, HOST, IS

# The line before an answer; a login shell may print something before it.
MARK = "ssh_service-jobs-1"

# Prints the job $1 in one line: its id, its state and its record.  It is missing only if its
# folder does not exist; if that cannot be read, the line says so.
_LOOK = r"""
_ssh_absent() {
    _ssh_l=$(LC_ALL=C ls -- "$1" 2>&1 >/dev/null) && return 1
    case $_ssh_l in *": No such file "* | *": Not a directory"*) return 0 ;; esac
    printf '%s\n' "! the folder of jobs cannot be read: $_ssh_l"
    return 1
}
_ssh_look() {
    _ssh_id=$1 _ssh_r= _ssh_alive=
    IFS= read -r _ssh_r <"$_ssh_jobs/$1/record"
    if [ ! "$_ssh_r" ]; then  # not linked yet, or never written to the disk: power was lost
        [ -e "$_ssh_jobs/$1/record" ] || {
            if _ssh_absent "$_ssh_jobs/$1/record"; then echo "$1 missing - - -"; return; fi
            [ -e "$_ssh_jobs/$1/record" ] || return
        }
        IFS= read -r _ssh_r <"$_ssh_jobs/$1/record"
    fi
    set -- $_ssh_r
    [ $# = 14 ] || { echo "$_ssh_id damaged - - -"; return; }
    if ! _ssh_here "$4" "$5" "$6" "${14}"; then
        echo "$_ssh_id elsewhere - - - $_ssh_r"
        return
    fi
    if [ "$6" = "$_ssh_boot" ]; then
        { _ssh_is "$9" "${10}" || _ssh_is "$7" "$8"; } && _ssh_alive=1
    fi
    if IFS= read -r _ssh_l <"$_ssh_jobs/$_ssh_id/$2/status"; then
        set -- $_ssh_l
        echo "$_ssh_id $2 $3 $4 $5 $_ssh_r"
    elif [ "$_ssh_alive" ]; then
        echo "$_ssh_id running - - - $_ssh_r"
    elif [ "$6" != "$_ssh_boot" ]; then
        echo "$_ssh_id rebooted - - - $_ssh_r"
    else
        echo "$_ssh_id killed - - - $_ssh_r"
    fi
}
"""
_LIST = """
cd -- "$_ssh_jobs" && [ -r . ] || { _ssh_absent "$_ssh_jobs/"; exit 0; }
for _ssh_j in *; do
    [ -e "$_ssh_j/record" ] && _ssh_look "$_ssh_j"
done
exit 0
"""
# Answers requests on stdin, one per line, until the end of the input.  If a file shrinks or is
# removed while it is read, the answer is padded, so that it always has the announced length.
_SERVE = r"""
_ssh_measure() {
    _ssh_z=-1
    if [ -e "$1" ]; then
        set -- $(LC_ALL=C LS_BLOCK_SIZE=1 ls -nL "$1")
        _ssh_z=${5:--1}
    elif [ "$(_ssh_absent "$1")" ]; then
        _ssh_z=-2
    fi
}
while IFS= read -r _ssh_q; do
    set -- $_ssh_q
    case $1 in
        look)
            shift
            for _ssh_j; do _ssh_look "$_ssh_j"; done
            echo . ;;
        poll)
            shift
            while [ $# -gt 2 ]; do
                if [ -e "$_ssh_jobs/$1/$2/status" ] || ! kill -0 "$3"; then _ssh_look "$1"; fi
                shift 3
            done
            echo . ;;
        read)
            _ssh_f=$_ssh_jobs/$2/$3/$4 _ssh_k=$5 _ssh_m=$6
            _ssh_measure "$_ssh_f"
            _ssh_n=$((_ssh_z - _ssh_k * 65536))
            [ "$_ssh_n" -gt 0 ] || _ssh_n=0
            [ "$_ssh_n" -lt "$((_ssh_m * 65536))" ] || _ssh_n=$((_ssh_m * 65536))
            echo "$_ssh_z $_ssh_n"
            [ "$_ssh_n" = 0 ] || {
                dd "if=$_ssh_f" bs=65536 "skip=$_ssh_k" "count=$_ssh_m" | head -c "$_ssh_n"
                cat /dev/zero
            } | head -c "$_ssh_n"
            _ssh_measure "$_ssh_f"
            echo "$_ssh_z" ;;
    esac
done
"""
# Signals a running job, or what it left in its session, waits for the processes, and prints the
# resulting state.  The session is the job's if a process that it left is still in it: as long as
# that is so, no other process gets the session's number.
_KILL = r"""
_ssh_left() {
    IFS= read -r _ssh_l <"$_ssh_jobs/{id}/{token}/status" || return
    _ssh_v=$1
    set -- $_ssh_l
    [ $# -gt 5 ] || return
    shift 5
    for _ssh_p in $*; do
        _ssh_is "${_ssh_p%:*}" "${_ssh_p#*:}" || continue
        set -- ${_ssh_l##*") "}
        [ "$4" != "$_ssh_v" ] || return 0
    done
    return 1
}
if _ssh_foreign "$_ssh_jobs/{id}"; then
    echo "! $_ssh_e"
    exit 0
fi
set -- $(_ssh_look {id})
_ssh_r=
[ "$7" != {token} ] || case $2 in
    running) ! _ssh_is "${14}" "${15}" || _ssh_r=1 ;;
    ended | signalled) [ "${11}" != "$_ssh_boot" ] || ! _ssh_left "${14}" || _ssh_r=1 ;;
esac
if [ "$_ssh_r" ]; then
    _ssh_end "${14}" "${18}" {wait} {signals} ||
        { echo "! the host cannot send it the signal $_ssh_s"; exit 0; }
    _ssh_n=0
    while [ {wait} != 0 ] && [ "$_ssh_n" -lt 20 ] && _ssh_is "${12}" "${13}"; do
        sleep 0.1 || { sleep 1; _ssh_n=$((_ssh_n + 9)); }
        _ssh_n=$((_ssh_n + 1))
    done
fi
_ssh_look {id}
"""
# Removes the folder of a job, unless it contains other files; otherwise sets the reason.  The
# folder is renamed first, so that a removal which is interrupted can be finished by any later one.
_REMOVE = r"""
_ssh_finish() {
    for _ssh_l in "$_ssh_jobs/.$1".*; do
        case ${_ssh_l#"$_ssh_jobs/.$1."} in '' | *[!0123456789]*) continue ;; esac
        _ssh_foreign "$_ssh_l" && return 1
        _ssh_e=$(rm -rf -- "$_ssh_l" 2>&1 | sed -n 1p)
        [ ! -e "$_ssh_l" ] || { _ssh_e="$_ssh_l is left in part: $_ssh_e"; return 1; }
    done
}
_ssh_remove() {
    _ssh_foreign "$_ssh_jobs/$1" && return 1
    for _ssh_l in "$_ssh_jobs/$1"/*; do
        [ "${_ssh_l##*/}" = record ] || _ssh_attempt "$_ssh_l" ||
            { _ssh_e="$_ssh_l is not of a job"; return 1; }
    done
    _ssh_e=$(mv -- "$_ssh_jobs/$1" "$_ssh_jobs/.$1.$$" 2>&1) && _ssh_finish "$1"
}
"""
# Removes a job that does not run, and prints its last state.
_REMOVE_ONE = r"""
set -- $(_ssh_look {id})
set +f
_ssh_k=
case $2 in
    running | elsewhere | missing) ;;
    *)
        if [ "$7" = {token} ] && ! _ssh_remove {id}; then
            case $(_ssh_look {id}) in *" missing "*) ;; *) _ssh_k=1 ;; esac
        fi ;;
esac
case $2:$_ssh_k in
    running: | elsewhere: | *:1) ;;
    *) _ssh_finish {id} || _ssh_k=1 ;;
esac
if [ "$_ssh_k" ]; then
    set -f
    set -- "! the job cannot be removed:" $_ssh_e
fi
echo "$*"
"""
# Removes jobs that ended some time ago, attempts whose shells are gone, and what other removals
# left; prints the jobs.
_CLEAN = r"""
cd -- "$_ssh_jobs" && [ -r . ] || { _ssh_absent "$_ssh_jobs/"; exit 0; }
_ssh_w=
_ssh_now=$(date +%s)  # a clock that was set back makes nothing younger than now
for _ssh_j in *; do
    if [ -e "$_ssh_j/record" ]; then
        set -f
        set -- $(_ssh_look "$_ssh_j")
        set +f
        case $2 in
            ended | signalled) _ssh_t=$4 ;;
            killed | rebooted) _ssh_t=${16} ;;
            *) continue ;;
        esac
        [ "$_ssh_t" -le "$_ssh_now" ] || _ssh_t=$_ssh_now
        [ "$((_ssh_now - _ssh_t))" -ge {older} ] && _ssh_remove "$_ssh_j" && echo "$*"
    elif ! _ssh_foreign "$_ssh_jobs/$_ssh_j"; then
        for _ssh_d in "$_ssh_j"/*; do
            _ssh_attempt "$_ssh_d" || continue
            if ! [ -s "$_ssh_d/starter" ]; then  # a start that is alive writes it at once
                [ "$_ssh_w" ] || sleep 1
                _ssh_w=1
            fi
            if IFS=' ' read -r _ssh_h _ssh_m _ssh_c _ssh_p _ssh_s <"$_ssh_d/starter"; then
                [ "$_ssh_h $_ssh_m" = "$_ssh_node $_ssh_machine" ] || continue
                [ "$_ssh_c" = "$_ssh_boot" ] && _ssh_is "$_ssh_p" "$_ssh_s" && continue
            else
                rmdir -- "$_ssh_d" && continue
                ls -- "$_ssh_d" >/dev/null  # NFS may have cached that it was empty
                IFS= read -r _ssh_h <"$_ssh_d/starter" && continue
            fi
            rm -rf -- "$_ssh_d"
        done
        rmdir -- "$_ssh_j"
    fi
done
_ssh_k=
for _ssh_j in .*.*; do
    _ssh_j=${_ssh_j#.}
    _ssh_j=${_ssh_j%.*}
    [ ! "$_ssh_j" ] || _ssh_finish "$_ssh_j" || _ssh_k=$_ssh_e
done
if [ "$_ssh_k" ]; then
    set -f
    set -- "! a job cannot be removed:" $_ssh_k
    echo "$*"
fi
exit 0
"""
# Refuses to read folders that may belong to another user.
_GUARD = """
if _ssh_all_foreign; then
    echo "! the folder of jobs cannot be used: $_ssh_e"
    exit 0
fi
"""


def _quiet(text: str) -> str:
    return f"exec 2>/dev/null\nset -f\n{FOLDER}{HOST}{IS}{_LOOK}echo {MARK}\n{text}"


def _guarded(text: str) -> str:
    return _quiet(FOREIGN + _GUARD + text)


def look(job_id: str) -> str:
    """
    Return the script that prints the state of a job, in the form that `record.parse` reads.

    This script and those below print a line ``! TEXT`` with the reason if they do nothing.
    """
    return _guarded(f"_ssh_look {job_id}\n")


def list_all() -> str:
    """Return the script that prints the state of every job."""
    return _guarded(f"set +f\n{_LIST}")


def serve() -> str:
    """Return the script that answers requests on its stdin."""
    return _quiet(_SERVE)


def kill(job_id: str, token: str, signals: Sequence[str], wait: float) -> str:
    """Return the script that sends signals, waits after each, and prints the state."""
    text = _KILL.replace("{signals}", " ".join(signals)).replace("{wait}", str(round(10 * wait)))
    return _guarded(END + text.replace("{id}", job_id).replace("{token}", token))


def remove(job_id: str, token: str) -> str:
    """Return the script that removes a job which does not run, and prints its last state."""
    text = ATTEMPT + _REMOVE + _REMOVE_ONE
    return _guarded(text.replace("{id}", job_id).replace("{token}", token))


def clean(older: float) -> str:
    """Return the script that removes and prints the jobs that ended over `older` seconds ago."""
    text = f"set +f\n{ATTEMPT}{_REMOVE}{_CLEAN}"
    return _guarded(text.replace("{older}", str(round(older))))
