"""
Shell functions that the scripts of jobs share, for any POSIX shell.

The names of all variables begin with ``_ssh_``: any other name could be an exported variable of
the user's.  Open file descriptors are passed on explicitly (``5>&5``), as ksh closes them
otherwise.
"""

from __future__ import annotations

# Sets the folder of all jobs.
FOLDER = """\
case $XDG_STATE_HOME in /*) _ssh_jobs=$XDG_STATE_HOME ;; *) _ssh_jobs=$HOME/.local/state ;; esac
_ssh_jobs=$_ssh_jobs/ssh_service/jobs
"""
# Sets the identity of this host and of its current boot.  _ssh_here returns 0 if the node $1 with
# the machine id $2 is this host, perhaps under an earlier name: then its boot $3 and the
# namespaces $4 of its processes and its name are this host's.  (Containers of one kernel have one
# boot.)
HOST = """\
_ssh_node=$(uname -n)
{
    IFS= read -r _ssh_machine </etc/machine-id ||
        IFS= read -r _ssh_machine </var/lib/dbus/machine-id || _ssh_machine=
    IFS= read -r _ssh_boot </proc/sys/kernel/random/boot_id || _ssh_boot=
} 2>/dev/null
_ssh_node=${_ssh_node:--} _ssh_machine=${_ssh_machine:--} _ssh_boot=${_ssh_boot:--}
_ssh_namespaces() {
    _ssh_spaces=-
    _ssh_l=$(ls -diL /proc/self/ns/pid /proc/self/ns/uts 2>/dev/null) || return
    set -- $_ssh_l
    _ssh_spaces=$1,$3
}
_ssh_here() {
    [ "$2" = "$_ssh_machine" ] || return
    [ "$1" != "$_ssh_node" ] || return 0
    [ "$3" = "$_ssh_boot" ] && [ "$3" != - ] && [ "$4" != - ] || return
    _ssh_namespaces
    [ "$4" = "$_ssh_spaces" ]
}
"""
# Sets the start time of the process $1; "-" without /proc.
BEGAN = """\
_ssh_began() {
    { IFS= read -r _ssh_l <"/proc/$1/stat"; } 2>/dev/null || { _ssh_b=-; return; }
    set -- ${_ssh_l##*") "}
    _ssh_b=${20:--}
}
"""
# Returns 0 if the process $1 was started at $2; without /proc, if a process has this number.
IS = """\
_ssh_is() {
    [ "$2" != - ] || { kill -0 "$1"; return; }
    IFS= read -r _ssh_l <"/proc/$1/stat" || return
    _ssh_b=$2
    set -- ${_ssh_l##*") "}
    [ "$1" != Z ] && [ "${20}" = "$_ssh_b" ]
}
"""
# Sends the signals $4 and following to the session of the job's shell $1, and waits after each
# until no process is left, for $3 steps of 0.1 seconds.  If $2 is "-", the shell has no session of
# its own, and is signalled alone.  Returns 1 if the host cannot send the signal.
#
# Groups are signalled, not processes, to reach also those that are being started.  The shell's own
# group comes first, so that it cannot start its next command.  Where no list of processes can be
# read, only the shell's group is known; the line of the script itself proves that it was read.
# (Not `kill -s`, and no `--`: dash needs both for a process group, busybox supports neither.)
END = r"""
_ssh_find() {
    _ssh_g=
    if [ "$2" = - ]; then
        ! kill -0 "$1" || _ssh_g=$1
        return
    fi
    _ssh_l=$(set +f; cat /proc/[0123456789]*/stat | LC_ALL=C sed -n -e "s/^$$ (.*/self/p" \
        -e "s/^.*) [^ZXx] [0-9]* \([0-9]*\) $1 .*/\1/p")
    set -- "$1" $_ssh_l
    case " $* " in
        *' self '*) shift ;;
        *) set -- "$1" $(ps -A -o sid= -o pgid= | sed -n "s/^ *$1  *\([0-9]*\) *\$/\1/p") ;;
    esac
    for _ssh_l; do
        case " $_ssh_g -self " in *" -$_ssh_l "*) continue ;; esac
        kill -0 "-$_ssh_l" || continue
        if [ "$_ssh_l" = "$_ssh_pid" ]; then
            _ssh_g="-$_ssh_l $_ssh_g"
        else
            _ssh_g="$_ssh_g -$_ssh_l"
        fi
    done
}
_ssh_send() {
    for _ssh_l in $_ssh_g; do
        kill "-$1" "$_ssh_l" || ! kill -0 "$_ssh_l" || return 1
    done
}
_ssh_end() {
    _ssh_pid=$1 _ssh_v=$2 _ssh_w=$3
    shift 3
    for _ssh_s; do
        _ssh_find "$_ssh_pid" "$_ssh_v"
        _ssh_send "$_ssh_s" || return 1
        _ssh_n=0
        while [ "$_ssh_n" -lt "$_ssh_w" ]; do
            _ssh_find "$_ssh_pid" "$_ssh_v"
            [ "$_ssh_g" ] || return 0
            [ "$_ssh_s" != KILL ] || _ssh_send KILL  # to what was started meanwhile, too
            sleep 0.1 || { sleep 1; _ssh_n=$((_ssh_n + 9)); }
            _ssh_n=$((_ssh_n + 1))
        done
    done
}
"""
# Returns 0, and sets the reason, if the folder $1 exists and may lead to files of another user, or
# if one of the folders in which jobs are kept may.
FOREIGN = r"""
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
# Prints $1 and a newline by a builtin, as all users may see the arguments of other programs.
# (mksh and the ksh of OpenBSD have no builtin printf.)
PRINT = r"""
_ssh_print() {
    case $(command -v printf) in
        /*) print -r -- "$1" ;;
        *) printf '%s\n' "$1" ;;
    esac
}
"""
# Writes files to the disk, if dd supports that: `sync` may write everything.
SYNC = """\
_ssh_sync() {
    for _ssh_l; do
        [ ! -f "$_ssh_l" ] || dd if=/dev/null of="$_ssh_l" conv=fsync,notrunc
    done 2>/dev/null
}
"""
# Returns 0 if $1 is the folder of an attempt; other files in a job's folder are not touched.  One
# that was interrupted as it was made or removed has no `starter`, but nothing strange either.
ATTEMPT = r"""
_ssh_attempt() {
    case ${1##*/} in
        *[!0123456789abcdef]*) return 1 ;;
        ????????????????) [ ! -h "$1" ] && [ -d "$1" ] || return 1 ;;
        *) return 1 ;;
    esac
    [ ! -f "$1/starter" ] || return 0
    _ssh_x=$(QUOTING_STYLE=literal ls -A -- "$1") || return 1
    (
        set -f
        for _ssh_x in $_ssh_x; do
            case $_ssh_x in
                stdin | stdout | stderr | script | probe | record) ;;
                status | status.new | limit | limit.new) ;;
                *) exit 1 ;;
            esac
        done
    )
}
"""
