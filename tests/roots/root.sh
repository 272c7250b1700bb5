#!/usr/bin/env bash
# Other releases of Debian, as folders: made once by debootstrap from this machine's own package
# source, kept outside the checkout.  What runs in one has its own processes, mounts and network,
# of which nothing is left when it ends.  Needs root, debootstrap and util-linux's unshare.
#
#   tests/roots/root.sh make trixie               make it, unless it is there with all packages
#   tests/roots/root.sh test trixie [ARGUMENT...] the suite in it, with arguments for pytest
#   tests/roots/root.sh python trixie ARGUMENT... its Python there, in the checkout
#   tests/roots/root.sh sshd bullseye             print the path of its sshd, for SSH_SERVICE_SSHD
#   tests/roots/root.sh tinysshd trixie           the same for its tinysshd
#
# SSH_SERVICE_ROOTS   the folder of the roots (~/.cache/ssh_service-roots)
# SSH_SERVICE_MIRROR  the package source, where that of this machine's apt has not the release
# SSH_SERVICE_AS      who runs the suite: root, or tester, an ordinary user of the root's
# SSH_SERVICE_PYTHON  the Python that runs the suite (python3); sid has python3.14 and python3.15
set -euo pipefail

readonly roots=${SSH_SERVICE_ROOTS:-$HOME/.cache/ssh_service-roots}
checkout=$(cd "$(dirname "$0")/../.." && pwd)
readonly checkout
readonly python=${SSH_SERVICE_PYTHON:-python3}

readonly for_an_sshd=openssh-server
# All that a test may ask for: what is missing in a root is a failure there, as in CI.
readonly for_the_suite=openssh-server,openssh-client,openssh-sftp-server,python3,python3-venv,make,\
procps,iproute2,locales,mount,util-linux,passwd,sudo,ca-certificates,git,rsync,curl,\
dropbear-bin,tinysshd,proftpd-core,proftpd-mod-crypto,busybox,tcsh,fish,zsh,mksh,man-db,groff-base
# The Pythons that no stable release of Debian has.
readonly of_sid=python3.14,python3.14-venv,python3.15,python3.15-venv

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# The source from which apt has this machine's own release.
mirror() {
    if [ -n "${SSH_SERVICE_MIRROR:-}" ]; then
        echo "$SSH_SERVICE_MIRROR"
        return
    fi
    local codename
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        awk -v release="$codename" '$1 == release { print $2; exit }'
}

# One at a time makes a root, and one at a time runs in it: the next one fetches its wheels anew.
make_root() {
    mkdir -p "$roots"
    (
        flock 9
        make_if_missing "$1"
    ) 9>"$roots/$1.made.lock"
}

make_if_missing() {
    local release=$1 root=$roots/$1 packages=$for_the_suite source
    # Before 3.8 there is nothing to run the suite with; its sshd is what is wanted.
    [ "$release" != bullseye ] || packages=$for_an_sshd
    [ "$release" != sid ] || packages=$packages,$of_sid
    [ "$(cat "$root/made" 2>/dev/null)" != "$packages" ] || return 0
    [ "$(id -u)" = 0 ] || die "needs root, to make $root"
    command -v debootstrap >/dev/null || die "needs debootstrap (Debian: apt install debootstrap)"
    source=$(mirror)
    [ -n "$source" ] || die "apt knows no source of packages; SSH_SERVICE_MIRROR names one"
    rm -rf "$root"
    debootstrap --variant=minbase --include="$packages" "$release" "$root" "$source" \
        >"$roots/$release.log" 2>&1 ||
        die "$release cannot be had from $source; the end of $roots/$release.log:" \
            "$(tail -n 3 "$roots/$release.log")"
    chroot "$root" useradd --create-home --shell /bin/sh tester
    echo "$packages" >"$root/made"
}

# What the suite needs from PyPI, fetched here for the root's Python, which has no network.
fetch_wheels() {
    local root=$1 wheels=$1/wheels/$python version machine
    version=$(chroot "$root" "$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    machine=$(uname -m)
    rm -rf "$wheels"
    python3 -m pip download -qq --disable-pip-version-check --dest "$wheels" \
        --only-binary=:all: --python-version "$version" --implementation cp \
        --platform "manylinux_2_17_$machine" --platform "manylinux2014_$machine" \
        --platform "manylinux_2_28_$machine" --platform "manylinux_2_34_$machine" \
        'setuptools>=64' wheel $(requirements)
}

# Our own requirements, with those of the extras that README's `make test` installs.
requirements() {
    python3 - "$checkout/setup.cfg" <<'PYTHON'
import configparser, sys
config = configparser.ConfigParser()
config.read(sys.argv[1])
extras = config["options.extras_require"]
lines = "\n".join([config["options"]["install_requires"], extras["tests"], extras["demo"]])
print(" ".join(sorted(set(line for line in lines.split("\n") if line and "#" not in line))))
PYTHON
}

python_in() {
    local release=$1 root=$roots/$1
    shift
    make_root "$release"
    [ -x "$root/usr/bin/$python" ] || die "$release has no $python for the suite; see: sshd $release"
    exec 9>"$roots/$release.runs.lock"
    flock 9
    fetch_wheels "$root"
    # The mounts are the namespace's own, and end with it; bash is its init, which reaps.
    unshare --mount --pid --net --fork --kill-child -- bash -euc '
        root=$1 checkout=$2 who=$3 python=$4
        shift 4
        mount --make-rprivate /
        mount --bind "$root" "$root" # whose propagation unshare can change only if it is a mount
        mount -t proc proc "$root/proc"
        mount -t tmpfs -o mode=755 dev "$root/dev"
        for name in null zero full random urandom tty; do
            touch "$root/dev/$name"
            mount --bind "/dev/$name" "$root/dev/$name"
        done
        mkdir "$root/dev/pts" "$root/dev/shm"
        mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$root/dev/pts"
        ln -s pts/ptmx "$root/dev/ptmx"
        ln -s /proc/self/fd "$root/dev/fd"
        ln -s fd/0 "$root/dev/stdin"
        ln -s fd/1 "$root/dev/stdout"
        ln -s fd/2 "$root/dev/stderr"
        mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
        mount -t tmpfs -o mode=1777 tmp "$root/tmp"
        mount -t tmpfs -o mode=755 run "$root/run"
        # sudo looks this machine up, and says so where it finds nothing.
        echo "127.0.0.1 localhost $(uname -n)" >"$root/run/hosts"
        touch "$root/etc/hosts"
        mount --bind "$root/run/hosts" "$root/etc/hosts"
        mount -t tmpfs -o mode=755 suite "$root/srv"
        chroot "$root" ip link set lo up
        tar -C "$checkout" --exclude=.git --exclude=.tox --exclude=.venv -c . | tar -C "$root/srv" -x
        chroot "$root" chown -R "$who": /srv
        home=$(chroot "$root" getent passwd "$who" | cut -d: -f6)
        path=/usr/local/bin:/usr/bin:/bin
        [ "$who" != root ] || path=/usr/local/sbin:/usr/sbin:/sbin:$path
        status=0
        chroot "$root" setpriv --reuid="$who" --regid="$who" --init-groups env -i \
            HOME="$home" USER="$who" LANG=C.UTF-8 PATH="$path" CI="${CI:-}" \
            SSH_SERVICE_REQUIRE_SSHD=1 SSH_SERVICE_REQUIRE_PARTS="${SSH_SERVICE_REQUIRE_PARTS:-}" \
            sh -euc '\''
                cd /srv
                ssh -V
                "$1" -m venv .venv
                pip="python -m pip --quiet --disable-pip-version-check"
                wheels="--no-index --find-links /wheels/$1"
                shift
                .venv/bin/$pip install $wheels setuptools wheel
                .venv/bin/$pip install $wheels --no-build-isolation \
                    --editable ".[tests,demo]"
                exec .venv/bin/python "$@"
            '\'' suite "$python" "$@" || status=$?
        exit "$status"
    ' root "$root" "$checkout" "${SSH_SERVICE_AS:-root}" "$python" "$@"
}

# A program that is a root's server out here, with those of the root's libraries that this machine
# lacks.  What its sessions run is this machine's.
server_of() {
    local name=$1 release=$2 root=$roots/$2 server=$roots/$2/usr/sbin/$1 library
    local libraries=$root/missing-$name
    make_root "$release"
    rm -rf "$libraries"
    mkdir "$libraries"
    for library in $(lacking "$server" ""); do
        compgen -G "$root/usr/lib/*/$library" >/dev/null || die "$library is not even in $root"
        ln -s "$(compgen -G "$root/usr/lib/*/$library" | head -n 1)" "$libraries/$library"
    done
    [ -z "$(lacking "$server" "$libraries")" ] || die "$server lacks more"
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$libraries" "$server" >"$root/$name"
    chmod 755 "$root/$name"
    echo "$root/$name"
}

# The shared libraries that a program does not find, given a folder more to look into.
lacking() {
    LD_LIBRARY_PATH=$2 ldd "$1" | awk '/=> not found/ { print $1 }'
}

case "${1:-} ${2:-}" in
    "make "?*) make_root "$2" ;;
    "test "?*) python_in "$2" -m pytest "${@:3}" ;;
    "python "?*) python_in "${@:2}" ;;
    "sshd "?* | "tinysshd "?*) server_of "$1" "$2" ;;
    *) die "make, test, python, sshd or tinysshd, and a release of Debian; see the head of this file" ;;
esac
