"""
The scripts that start, find, signal and remove jobs on a host, for any POSIX shell.

A job has a folder, ``jobs/ID``.  Each attempt to start it makes a folder in there, named by a
random token, and the first one that links its ``record`` into the job's folder is the job: the
link is made once, and whole.  Others clean up after themselves and report the job that they found.

All variables begin with ``_ssh_``, as any other could be one of the user's, and exported.  Open
files are passed on by name (``5>&5``), as ksh closes them otherwise.
"""

from __future__ import annotations

from typing import Mapping, Optional, Sequence

from ssh_service.commands import script

# The line before an answer; a login shell may have written something before it.
MARK = "ssh_service-jobs-1"
# Seconds that no job runs; shells know no numbers of any size.
_MAX_LIMIT = 1e9

# Sets the folder of all jobs.
_FOLDER = """\
case $XDG_STATE_HOME in /*) _ssh_jobs=$XDG_STATE_HOME ;; *) _ssh_jobs=$HOME/.local/state ;; esac
_ssh_jobs=$_ssh_jobs/ssh_service/jobs
"""
# Sets what tells this host, and this boot of it, from others.
_HOST = """\
_ssh_node=$(uname -n)
{
    IFS= read -r _ssh_machine </etc/machine-id ||
        IFS= read -r _ssh_machine </var/lib/dbus/machine-id || _ssh_machine=
    IFS= read -r _ssh_boot </proc/sys/kernel/random/boot_id || _ssh_boot=
} 2>/dev/null
_ssh_node=${_ssh_node:--} _ssh_machine=${_ssh_machine:--} _ssh_boot=${_ssh_boot:--}
"""
# Sets when the process $1 began; "-" where there is no /proc.
_BEGAN = """\
_ssh_began() {
    { IFS= read -r _ssh_l <"/proc/$1/stat"; } 2>/dev/null || { _ssh_b=-; return; }
    set -- ${_ssh_l##*") "}
    _ssh_b=${20:--}
}
"""
# Returns 0 if the process $1 began at $2; without /proc, if there is one with this number.
_IS = """\
_ssh_is() {
    [ "$2" != - ] || { kill -0 "$1"; return; }
    IFS= read -r _ssh_l <"/proc/$1/stat" || return
    _ssh_b=$2
    set -- ${_ssh_l##*") "}
    [ "$1" != Z ] && [ "${20}" = "$_ssh_b" ]
}
"""
# Returns 0, and sets why, if the folder $1 is there but may lead to what is not this user's, or if
# one of those that jobs are kept in may.
_FOREIGN = r"""
_ssh_foreign() {
    [ -e "$1" ] || [ -h "$1" ] || return 1
    [ ! -h "$1" ] || { _ssh_e="$1 is a symbolic link"; return 0; }
    [ ! -O "$1" ] || return 1
    set -- "$1" $(LC_ALL=C ls -ldn -- "$1")
    [ "$4" != "$(id -u)" ] || return 1
    _ssh_e="$1 belongs to the user with the id ${4:--}"
}
_ssh_all_foreign() { _ssh_foreign "${_ssh_jobs%/*}" || _ssh_foreign "$_ssh_jobs"; }
"""
# Writes files to the disk, if dd can: `sync` may write everything.
_SYNC = """\
_ssh_sync() {
    for _ssh_l; do
        [ ! -f "$_ssh_l" ] || dd if=/dev/null of="$_ssh_l" conv=fsync,notrunc
    done 2>/dev/null
}
"""
# Returns 0 if $1 is the folder of an attempt; everything else in a job's folder is left alone.
_ATTEMPT = r"""
_ssh_attempt() {
    case ${1##*/} in
        *[!0123456789abcdef]*) return 1 ;;
        ????????????????) [ ! -h "$1" ] && [ -f "$1/starter" ] ;;
        *) return 1 ;;
    esac
}
"""
# Prints the job that another attempt has started meanwhile, which may be removed again, with this
# attempt's folder; or else an error, in one line.  Removes what this attempt has made.
_FAIL = r"""
_ssh_fail() {
    [ -z "$_ssh_try" ] || [ -d "$_ssh_try" ] || set --
    [ -z "$_ssh_try" ] || { rm -rf -- "$_ssh_try"; rmdir -- "$_ssh_dir"; }
    if IFS= read -r _ssh_l <"$_ssh_dir/record"; then
        printf 'found %s\n' "$_ssh_l"
    elif [ $# = 0 ]; then
        echo 'found '
    else
        set -f
        set -- $*
        printf 'error %s\n' "$*"
    fi
    exit 0
} 2>/dev/null
"""

# The supervisor: it has a session of its own, runs the job in another, and records how it ended.
# (dash, busybox and ksh report on stderr that a signal ended a process.  Where a shell does not,
# a status above 128 stands for a signal.)
_SUPERVISOR = r"""
unset _ssh_w
_ssh_p=$(cat)
exec </dev/null 5>&1 >/dev/null
case $_ssh_p in *"#$_ssh_token") ;; *) rm -rf -- "$_ssh_try"; rmdir -- "$_ssh_dir"; exit ;; esac
_ssh_own() {
    case $_ssh_sessions in
        setsid) exec setsid "$@" ;;
        perl) exec perl -e 'use POSIX; POSIX::setsid(); exec { $ARGV[0] } @ARGV; exit 127' "$@" ;;
        *) exec "$@" ;;
    esac
}
[ "$_ssh_sessions" != - ] || trap : HUP INT QUIT TERM USR1 USR2
_ssh_dog=
if [ "$_ssh_limit" != - ]; then
    : >"$_ssh_try/limit.new"
    _ssh_own /bin/sh -c 'eval "$_ssh_d"' "ssh_service limit $_ssh_id" $$ </dev/null 5>&- &
    _ssh_dog=$!
    _ssh_began $_ssh_dog
    _ssh_g=$_ssh_b
fi
unset _ssh_d
_ssh_o=$({
    [ "$_ssh_sessions" != - ] || trap : HUP INT QUIT TERM USR1 USR2
    printf '%s\n' "$_ssh_p" 2>/dev/null |
        _ssh_own /bin/sh -c 'eval "$_ssh_s"' "ssh_service job $_ssh_id" $$ >&5 2>/dev/null
    echo $?
} 2>&1)
_ssh_p=
case $_ssh_o in *[0123456789]) ;; *) exit ;; esac  # who waited was killed; the job may run
[ -z "$_ssh_dog" ] || [ -e "$_ssh_try/limit" ] || ! _ssh_is "$_ssh_dog" "$_ssh_g" ||
    kill -KILL "-$_ssh_dog" || kill -KILL "$_ssh_dog"
IFS=' ' read -r _ssh_v _ssh_t _ssh_l <"$_ssh_dir/record"
if [ "$_ssh_t" != "$_ssh_token" ]; then
    exec >&5
    _ssh_fail "start the shell of the job could not be started"
fi
exec 5>&-
_ssh_l='
'
_ssh_c=${_ssh_o##*"$_ssh_l"} _ssh_k=ended
case $_ssh_c in
    130 | 141) _ssh_k=signalled ;;
    129 | 1[3-9]? | 2??)
        if [ "$_ssh_c" != "$_ssh_o" ] || [ "$BASH_VERSION$ZSH_VERSION" ]; then
            _ssh_k=signalled
        fi ;;
esac
if [ $_ssh_k = signalled ]; then
    _ssh_l=$(kill -l $((_ssh_c - 128)))
    _ssh_l=${_ssh_l#SIG}
    if [ "$_ssh_l" ]; then _ssh_c=$_ssh_l; else _ssh_k=ended; fi
fi
_ssh_f=-
printf '%8192s' '' >"$_ssh_try/probe"
[ "$(($(wc -c <"$_ssh_try/probe")))" -eq 8192 ] || _ssh_f=${_ssh_f}full
rm -f -- "$_ssh_try/probe" "$_ssh_try/script"
[ ! -e "$_ssh_try/limit" ] || _ssh_f=${_ssh_f}limit
_ssh_sync "$_ssh_try/stdout" "$_ssh_try/stderr"
printf '%-255s\n' "1 $_ssh_k ${_ssh_c:--} $(date +%s) $_ssh_f" 1<>"$_ssh_try/status.new"
_ssh_sync "$_ssh_try/status.new"
mv -f -- "$_ssh_try/status.new" "$_ssh_try/status"
"""
# Ends the job when its time, which begins with the link of its record, is over: TERM, and 5
# seconds later KILL for what is left.  It sleeps in parts, to end soon after a job whose
# supervisor was killed; if its `sleep` is killed, that part begins anew.
_LIMIT = r"""
unset _ssh_d _ssh_s
until IFS=' ' read -r _ssh_v _ssh_t _ssh_r <"$_ssh_dir/record"; do
    kill -0 "$1" || exit
    sleep 0.02 || sleep 1
done
[ "$_ssh_t" = "$_ssh_token" ] || exit
set -- $_ssh_r
case $_ssh_limit in *.*) sleep ".${_ssh_limit#*.}" || sleep 1 ;; esac
_ssh_n=${_ssh_limit%.*}
while [ "$_ssh_n" -gt 0 ] && _ssh_is "$7" "$8"; do
    _ssh_m=60
    [ "$_ssh_n" -gt 60 ] || _ssh_m=$_ssh_n
    sleep "$_ssh_m" || sleep "$_ssh_m" || exit
    _ssh_n=$((_ssh_n - _ssh_m))
done
[ ! -e "$_ssh_try/status" ] && _ssh_is "$7" "$8" || exit
_ssh_g=$7
[ "$_ssh_sessions" = - ] || _ssh_g=-$7
mv -- "$_ssh_try/limit.new" "$_ssh_try/limit"
kill -TERM "$_ssh_g"
_ssh_n=0
while [ $_ssh_n -lt 50 ]; do
    kill -0 "$_ssh_g" || exit
    sleep 0.1 || { sleep 1; _ssh_n=$((_ssh_n + 9)); }
    _ssh_n=$((_ssh_n + 1))
done
kill -KILL "$_ssh_g"
"""
# Becomes the job's shell; before that, it links the record.
_JOB = r"""
unset _ssh_s
exec 5>&1 6>>"$_ssh_try/stdout" 7>>"$_ssh_try/stderr" >/dev/null 2>/dev/null
[ "$_ssh_cwd" = . ] || cd -- "$_ssh_cwd" || { _ssh_fail "cwd $_ssh_cwd is gone" >&5; }
_ssh_began "$1"
_ssh_r="1 $_ssh_token $_ssh_digest $_ssh_node $_ssh_machine $_ssh_boot $1 $_ssh_b"
_ssh_began $$
_ssh_r="$_ssh_r $$ $_ssh_b $(date +%s) $_ssh_limit $_ssh_sessions"
printf '%s\n' "$_ssh_r" >"$_ssh_try/record" ||
    { _ssh_fail "folder $_ssh_try cannot be written" >&5; }
_ssh_sync "$_ssh_try/record"
ln -- "$_ssh_try/record" "$_ssh_dir/record" || ln -s -- "$_ssh_token/record" "$_ssh_dir/record"
IFS= read -r _ssh_l <"$_ssh_dir/record" ||
    { _ssh_fail "folder $_ssh_dir cannot be written" >&5; }
[ "$_ssh_l" = "$_ssh_r" ] || { _ssh_fail >&5; }
_ssh_sync "$_ssh_try/record"  # and with it, its second name
(trap '' PIPE; printf 'started %s\n' "$_ssh_r" >&5)
exec 5>&- 4</dev/null
if [ -e "$_ssh_try/stdin" ]; then
    exec 4<"$_ssh_try/stdin"
    rm -f -- "$_ssh_try/stdin"
fi
for _ssh_l in "$_ssh_dir"/*; do
    [ "$_ssh_l" = "$_ssh_try" ] || ! _ssh_attempt "$_ssh_l" || rm -rf -- "$_ssh_l"
done
umask "$_ssh_umask"
[ -z "$_ssh_level" ] || export SHLVL="$_ssh_level"
set -- "$_ssh_login" "$_ssh_read" "$_ssh_try/script" "$_ssh_form"
unset {names} _ssh_l _ssh_b _ssh_r
exec >&6 2>&7 6>&- 7>&-
if [ "$4" = file ]; then
    _ssh_shell=$1 _ssh_file=$3
    eval "$2"
fi
exec "$1" -c "$2" 4<&4
"""
# What the supervisor and the job's shell get by their environment.
_EXPORTED = (
    "_ssh_w _ssh_s _ssh_d _ssh_id _ssh_token _ssh_digest _ssh_limit _ssh_cwd _ssh_login _ssh_form"
    " _ssh_read _ssh_umask _ssh_level _ssh_dir _ssh_try _ssh_node _ssh_machine _ssh_boot"
    " _ssh_sessions"
)
# Where logind ends all processes of a user with the last session, a job needs a scope of the
# user's service manager, which outlives sessions if the user lingers.
_LOGIND = r"""
_ssh_logind() {
    busctl get-property org.freedesktop.login1 /org/freedesktop/login1 \
        org.freedesktop.login1.Manager "$1" 2>/dev/null
}
_ssh_scope=
if [ "$XDG_SESSION_ID" ] && [ "$(_ssh_logind KillUserProcesses)" = "b true" ]; then
    _ssh_l=$(id -un) _ssh_e=1
    case $(_ssh_logind KillExcludeUsers) in *"\"$_ssh_l\""*) _ssh_e= ;; esac
    case $(_ssh_logind KillOnlyUsers) in '' | 'as 0' | *"\"$_ssh_l\""*) ;; *) _ssh_e= ;; esac
    if [ "$_ssh_e" ]; then
        [ "$(loginctl show-user "$_ssh_l" --property=Linger 2>/dev/null)" = Linger=yes ] &&
            command -v systemd-run >/dev/null ||
            _ssh_fail "linger logind ends all processes of $_ssh_l with the last session" \
                "(KillUserProcesses); allow them to go on with: loginctl enable-linger $_ssh_l"
        _ssh_scope=1
    fi
fi
"""
# Checks everything, stores stdin, hands over to the supervisor, and reports its answer.
_START = r"""
exec 3<&0
_ssh_try= _ssh_dir=$_ssh_jobs/$_ssh_id
if _ssh_all_foreign || _ssh_foreign "$_ssh_dir"; then
    printf 'error folder %s\n' "$_ssh_e"
    exit 0
fi
if [ -e "$_ssh_dir/record" ]; then
    { IFS= read -r _ssh_l <"$_ssh_dir/record"; } 2>/dev/null
    printf 'found %s\n' "$_ssh_l"
    exit 0
fi
_ssh_umask=$(umask) _ssh_level=$SHLVL
umask 077
_ssh_login=${_ssh_login:-${SHELL:-/bin/sh}}
case $_ssh_form:${_ssh_login##*/} in
    file:*) ;;
    *:*csh | *:fish*) echo "file ${_ssh_login##*/}"; exit 0 ;;
esac
_ssh_l=$(command -v -- "$_ssh_login")
case $_ssh_l in
    */*) [ -x "$_ssh_l" ] && [ ! -d "$_ssh_l" ] || _ssh_l= ;;
esac
if [ ! "$_ssh_l" ]; then
    _ssh_e='does not exist'
    [ ! -e "$_ssh_login" ] || _ssh_e='is not a program'
    _ssh_fail "shell $_ssh_login $_ssh_e"
fi
case $_ssh_cwd in
    '') _ssh_cwd=. ;;
    '~') _ssh_cwd=$HOME ;;
    '~/'*) _ssh_cwd=$HOME/${_ssh_cwd#??} ;;
    /*) ;;
    *) _ssh_cwd=./$_ssh_cwd ;;
esac
(cd -- "$_ssh_cwd") 2>/dev/null || {
    _ssh_e='may not be entered'
    [ -e "$_ssh_cwd" ] || _ssh_e='does not exist'
    [ ! -e "$_ssh_cwd" ] || [ -d "$_ssh_cwd" ] || _ssh_e='is not a folder'
    _ssh_fail "cwd $_ssh_cwd $_ssh_e"
}
_ssh_e=$({ mkdir -p -- "$_ssh_jobs" && chmod 700 -- "${_ssh_jobs%/*}" "$_ssh_jobs"; } 2>&1) ||
    _ssh_fail "folder $_ssh_e"
{logind}if command -v setsid >/dev/null; then
    _ssh_sessions=setsid
elif command -v perl >/dev/null; then
    _ssh_sessions=perl
else
    _ssh_sessions=-
fi
# (Again, if a start that failed has removed the empty folder between the two that this makes.)
_ssh_e=$(mkdir -p -- "$_ssh_dir/$_ssh_token" 2>&1) ||
    _ssh_e=$(mkdir -p -- "$_ssh_dir/$_ssh_token" 2>&1) || _ssh_fail "folder $_ssh_e"
_ssh_try=$_ssh_dir/$_ssh_token
trap 'rm -rf -- "$_ssh_try"; rmdir -- "$_ssh_dir" 2>/dev/null; exit 1' HUP INT QUIT TERM
_ssh_began $$
_ssh_e=$({
    # (By cat, which says that the disk is full; shells do not.)
    printf '%s\n' "$_ssh_node $_ssh_machine $_ssh_boot $$ $_ssh_b" | cat >"$_ssh_try/starter" &&
        printf '%-255s\n' '' | cat >"$_ssh_try/status.new" &&
        : >"$_ssh_try/stdout" && : >"$_ssh_try/stderr"
} 2>&1) || _ssh_fail "folder $_ssh_e"
if [ "$_ssh_size" != 0 ]; then
    _ssh_e=$({ cat <&3 >"$_ssh_try/stdin"; } 2>&1) || _ssh_fail "stdin $_ssh_e"
    [ "$(($(wc -c <"$_ssh_try/stdin")))" -eq "$_ssh_size" ] ||
        _ssh_fail "stdin it did not arrive whole"
fi
export {names}
_ssh_detach() {
    case $_ssh_sessions in
        setsid) exec setsid setsid "$@" ;;
        perl) exec perl -e 'use POSIX; exit if fork; POSIX::setsid();
            exec { $ARGV[0] } @ARGV; exit 127' "$@" ;;
        *) exec 8<&0; ("$@" <&8 8<&- &) ;;
    esac
}
trap - HUP INT QUIT TERM
set -- /bin/sh -c 'eval "$_ssh_w"' "ssh_service job $_ssh_id"
[ -z "$_ssh_scope" ] || set -- systemd-run --user --scope --quiet -- "$@"
printf '%s\n' "$_ssh_p" |
    (unset _ssh_p; _ssh_detach "$@") 3<&- 2>/dev/null |
    { IFS= read -r _ssh_l || _ssh_l='error start the job could not be started'; echo "$_ssh_l"; }
"""

# Prints what is known of job $1, in one line: its id, its state, and its record.
_LOOK = r"""
_ssh_look() {
    _ssh_id=$1 _ssh_r= _ssh_alive=
    IFS= read -r _ssh_r <"$_ssh_jobs/$1/record"
    if [ ! "$_ssh_r" ]; then  # not linked yet, or never written to the disk: power was lost
        [ -e "$_ssh_jobs/$1/record" ] || { echo "$1 missing - - -"; return; }
        IFS= read -r _ssh_r <"$_ssh_jobs/$1/record"
    fi
    set -- $_ssh_r
    [ $# = 13 ] || { echo "$_ssh_id damaged - - -"; return; }
    if [ "$4" != "$_ssh_node" ] || [ "$5" != "$_ssh_machine" ]; then
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
cd -- "$_ssh_jobs" || exit 0
for _ssh_j in *; do
    [ -e "$_ssh_j/record" ] && _ssh_look "$_ssh_j"
done
exit 0
"""
# Answers requests on stdin, one line each, until its end.  What is read of a file that shrinks
# meanwhile is filled up, so that an answer always has the length that it announced.
_SERVE = r"""
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
            _ssh_f=$_ssh_jobs/$2/$3/$4 _ssh_k=$5 _ssh_m=$6 _ssh_z=-1
            [ ! -e "$_ssh_f" ] || { set -- $(LC_ALL=C ls -nL "$_ssh_f"); _ssh_z=$5; }
            _ssh_n=$((_ssh_z - _ssh_k * 65536))
            [ "$_ssh_n" -gt 0 ] || _ssh_n=0
            [ "$_ssh_n" -lt "$((_ssh_m * 65536))" ] || _ssh_n=$((_ssh_m * 65536))
            echo "$_ssh_z $_ssh_n"
            [ "$_ssh_n" = 0 ] || {
                dd "if=$_ssh_f" bs=65536 "skip=$_ssh_k" "count=$_ssh_m" | head -c "$_ssh_n"
                cat /dev/zero
            } | head -c "$_ssh_n"
            [ ! -e "$_ssh_f" ] || { set -- $(LC_ALL=C ls -nL "$_ssh_f"); _ssh_z=$5; }
            echo "$_ssh_z" ;;
    esac
done
"""
# (No `kill -s`, and no `--`: dash wants both for a group, and busybox takes neither.)
# Signals a running job, waits for its processes, and prints what has become of it.
_KILL = r"""
if _ssh_foreign "$_ssh_jobs/{id}"; then
    echo "! $_ssh_e"
    exit 0
fi
set -- $(_ssh_look {id})
if [ "$2" = running ] && [ "$7" = {token} ] && _ssh_is "${14}" "${15}"; then
    _ssh_g=-${14}
    [ "${18}" != - ] || _ssh_g=${14}
    for _ssh_s in {signals}; do
        kill "-$_ssh_s" "$_ssh_g" || {
            ! kill -0 "$_ssh_g" || { echo "! the host cannot send it the signal $_ssh_s"; exit 0; }
            break
        }
        _ssh_n=0
        while [ "$_ssh_n" -lt {wait} ]; do
            kill -0 "$_ssh_g" || break 2
            sleep 0.1 || { sleep 1; _ssh_n=$((_ssh_n + 9)); }
            _ssh_n=$((_ssh_n + 1))
        done
    done
    _ssh_n=0
    while [ {wait} != 0 ] && [ "$_ssh_n" -lt 20 ] && _ssh_is "${12}" "${13}"; do
        sleep 0.1 || { sleep 1; _ssh_n=$((_ssh_n + 9)); }
        _ssh_n=$((_ssh_n + 1))
    done
fi
_ssh_look {id}
"""
# Removes the folder of a job, unless it holds anything else; or else sets why not.
_REMOVE = r"""
_ssh_remove() {
    _ssh_foreign "$_ssh_jobs/$1" && return 1
    for _ssh_l in "$_ssh_jobs/$1"/*; do
        [ "${_ssh_l##*/}" = record ] || _ssh_attempt "$_ssh_l" ||
            { _ssh_e="$_ssh_l is not of a job"; return 1; }
    done
    _ssh_e=$({ mv -- "$_ssh_jobs/$1" "$_ssh_jobs/.$1.$$" &&
        rm -rf -- "$_ssh_jobs/.$1.$$"; } 2>&1)
}
"""
# Removes a job that does not run, and prints what it was.
_REMOVE_ONE = r"""
set -- $(_ssh_look {id})
set +f
case $2 in
    running | elsewhere | missing) ;;
    *)
        if [ "$7" = {token} ] && ! _ssh_remove {id}; then
            _ssh_r=$(_ssh_look {id})
            case $_ssh_r in
                *" missing "*) ;;
                *)
                    set -f
                    set -- "! the job cannot be removed:" $_ssh_e ;;
            esac
        fi ;;
esac
echo "$*"
"""
# Removes the jobs that ended some time ago, and attempts whose shells are gone; prints the jobs.
_CLEAN = r"""
cd -- "$_ssh_jobs" || exit 0
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
            IFS=' ' read -r _ssh_h _ssh_m _ssh_c _ssh_p _ssh_s <"$_ssh_d/starter" || continue
            [ "$_ssh_h $_ssh_m" = "$_ssh_node $_ssh_machine" ] || continue
            [ "$_ssh_c" = "$_ssh_boot" ] && _ssh_is "$_ssh_p" "$_ssh_s" && continue
            rm -rf -- "$_ssh_d"
            rmdir -- "$_ssh_j"
        done
    fi
done
exit 0
"""


def start(
    job_id: str,
    token: str,
    digest: str,
    payload: str,
    *,
    stdin_size: int,
    shell: Optional[str],
    cwd: Optional[str],
    run_timeout: Optional[float],
    in_file: bool,
) -> str:
    """
    Write the script that starts a job, unless it was started; its stdin is the job's.

    Its last line is ``started RECORD``, ``found RECORD``, ``file NAME`` (a shell that can only run
    a script from a file: `in_file`), or ``error WHAT TEXT``.
    """
    values = {
        "_ssh_id": job_id,
        "_ssh_token": token,
        "_ssh_digest": digest,
        "_ssh_size": str(stdin_size),
        "_ssh_login": shell or "",
        "_ssh_cwd": cwd or "",
        "_ssh_limit": _limit(run_timeout),
        "_ssh_form": "file" if in_file else "stdin",
        "_ssh_read": script.READ_AND_RUN,
        "_ssh_w": _BEGAN + _IS + _SYNC + _FAIL + _SUPERVISOR,
        "_ssh_s": _BEGAN + _SYNC + _FAIL + _ATTEMPT + _JOB.replace("{names}", _EXPORTED),
        "_ssh_d": _IS + _LIMIT,
        "_ssh_p": payload,
    }
    assignments = "".join(f"{name}={script.quote(text)}\n" for name, text in values.items())
    return "".join(
        (
            assignments,
            _FOLDER,
            _HOST,
            _BEGAN,
            _FAIL,
            _FOREIGN,
            _START.replace("{names}", _EXPORTED).replace("{logind}", _LOGIND),
        )
    )


def _limit(run_timeout: Optional[float]) -> str:
    if run_timeout is None or run_timeout > _MAX_LIMIT:
        return "-"
    return f"{run_timeout:.3f}".rstrip("0").rstrip(".")


def payload(text: str, env: Mapping[str, str], token: str, in_file: bool) -> str:
    """
    Write the line that the job's shell reads and runs: the variables, and the script.

    It ends with the token, by which the supervisor knows that it is complete.
    """
    if in_file:
        text = (
            """_ssh_l=$(printf '%%s\\n' "$_ssh_file" | sed "s/'/'\\\\\\\\''/g")\n"""
            """(umask 077; { printf '%%s\\n' "rm -f '$_ssh_l';"%s; }"""
            """ >"$_ssh_file")\n"""
            'set -- "$_ssh_shell" "$_ssh_file"; unset _ssh_shell _ssh_file; exec "$1" "$2"'
        ) % script.quote(text)
    line = script.deliver(text, env, None, lambda: "exec <&4 4<&-;", always_stdin=True).preamble
    return f"{line.decode('utf-8', 'surrogateescape')[:-1]} #{token}"


# Refuses to look into folders that may be another user's.
_GUARD = """
if _ssh_all_foreign; then
    echo "! the folder of jobs cannot be used: $_ssh_e"
    exit 0
fi
"""


def _quiet(text: str) -> str:
    return f"exec 2>/dev/null\nset -f\n{_FOLDER}{_HOST}{_IS}{_LOOK}echo {MARK}\n{text}"


def _guarded(text: str) -> str:
    return _quiet(_FOREIGN + _GUARD + text)


def look(job_id: str) -> str:
    """
    Write the script that prints what is known of a job, in the form of `record.parse`.

    Here and below, a line ``! TEXT`` says why nothing was done.
    """
    return _guarded(f"_ssh_look {job_id}\n")


def list_all() -> str:
    """Write the script that prints what is known of every job."""
    return _guarded(f"set +f\n{_LIST}")


def serve() -> str:
    """Write the script that answers requests on its stdin."""
    return _quiet(_SERVE)


def kill(job_id: str, token: str, signals: Sequence[str], wait: float) -> str:
    """Write the script that sends signals, with `wait` seconds after each, and looks."""
    text = _KILL.replace("{signals}", " ".join(signals)).replace("{wait}", str(round(10 * wait)))
    return _guarded(text.replace("{id}", job_id).replace("{token}", token))


def remove(job_id: str, token: str) -> str:
    """Write the script that removes a job which does not run, and prints what it was."""
    text = _ATTEMPT + _REMOVE + _REMOVE_ONE
    return _guarded(text.replace("{id}", job_id).replace("{token}", token))


def clean(older: float) -> str:
    """Write the script that removes the jobs which ended so many seconds ago, and prints them."""
    text = f"set +f\n{_ATTEMPT}{_REMOVE}{_CLEAN}"
    return _guarded(text.replace("{older}", str(round(older))))
