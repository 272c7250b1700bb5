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
# Sets the identity of this host and of its current boot.
HOST = """\
_ssh_node=$(uname -n)
{
    IFS= read -r _ssh_machine </etc/machine-id ||
        IFS= read -r _ssh_machine </var/lib/dbus/machine-id || _ssh_machine=
    IFS= read -r _ssh_boot </proc/sys/kernel/random/boot_id || _ssh_boot=
} 2>/dev/null
_ssh_node=${_ssh_node:--} _ssh_machine=${_ssh_machine:--} _ssh_boot=${_ssh_boot:--}
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
    _ssh_x=$(ls -A -- "$1") || return 1
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
