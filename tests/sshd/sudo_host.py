"""A server whose user may use sudo, the real one, by rules of the test's own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

from ssh_service.testing import process_tree
from ssh_service.testing.local_sshd import Sshd, find_sshd
from tests.common import require_part
from tests.servers import make_program

USER, UID = "sudoer", 61234
PASSWORD = "pass word's $HOME \\ ü"
# As `openssl passwd -6` prints it for this password.
_HASH = (
    "$6$sudohost$Qzre13wJKj9tdD2.pikvAKoB2O4V7t5wnnXi2xzRWGaN9TzG"
    "l.hNPFd.mb5USKMsGl2JW3DSlhcZH.8CHBDkh/"
)

# Gives a server its own users and rules, in a mount namespace of its own, where sudo remembers
# passwords apart from the machine's.  (All of /etc: a mount on a single file ends as soon as a
# program such as `useradd` replaces that file, in any namespace.)
_MOUNTS = """\
mount --bind "$1/etc" /etc || exit
mount -t tmpfs none /run && mkdir -m 755 /run/sshd || exit
[ ! -d /var/lib/sudo ] || mount -t tmpfs none /var/lib/sudo || exit
shift
exec "$@"
"""
_DEFAULTS = 'Defaults env_reset, logfile="{log}"\n'
ALL = f"{USER} ALL=(ALL:ALL) ALL\n"
NO_PASSWORD = f"{USER} ALL=(ALL:ALL) NOPASSWD: ALL\n"


class SudoHost:
    """
    The server.

    Attributes
    ----------
    web : Dict[str, Any]
        Where to log in.
    home : Path
        The user's home directory.
    """

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.programs = folder / "programs"
        for made in (self.home, self.programs, folder / "root"):
            made.mkdir()
        os.chown(self.home, UID, UID)
        etc = folder / "etc"
        subprocess.run(["cp", "-a", "/etc", str(etc)], check=True)
        self._sudoers, self._log = etc / "sudoers", folder / "sudo.log"
        others = "".join(
            f"{user.pw_name}:x:{user.pw_uid}:{user.pw_gid}::{user.pw_dir}:{user.pw_shell}\n"
            for user in pwd.getpwall()
            if user.pw_name not in (USER, "root")
        )
        root = f"root:x:0:0::{folder}/root:/bin/sh\n"
        user = f"{USER}:x:{UID}:{UID}::{self.home}:/bin/bash\n"
        (etc / "passwd").write_text(root + others + user)
        (etc / "shadow").write_text(f"root:*:19000::::::\n{USER}:{_HASH}:19000::::::\n")
        (etc / "shadow").chmod(0o600)
        self._sudoers.write_text("")
        self._sudoers.chmod(0o440)
        self.rules(ALL)
        mounts = make_program(folder / "mounts", f"#!/bin/sh\n{_MOUNTS}")
        wrapper = make_program(
            folder / "sshd",
            f'#!/bin/sh\nexec unshare --mount {mounts} {folder} {find_sshd()} "$@"\n',
        )
        path = f"{self.programs}:/usr/local/bin:/usr/bin:/bin"
        self.sshd = Sshd(folder, {"SetEnv": f"PATH={path}"}, sshd=str(wrapper))
        self.sshd.username = USER
        self.web: Dict[str, Any] = self.sshd.connect_params

    def rules(self, rules: str) -> None:
        """Set the rules of sudo."""
        self._sudoers.write_text(_DEFAULTS.replace("{log}", str(self._log)) + rules)
        self._log.write_text("")

    def log(self) -> str:
        """Return what sudo has logged since the rules were set."""
        return self._log.read_text().replace("\n    ", "")

    def fake(self, text: str) -> None:
        """Put a script in the place of sudo, until `real` is called."""
        make_program(self.programs / "sudo", text)

    def real(self) -> None:
        """Use the real sudo, and its usual rules."""
        with contextlib.suppress(FileNotFoundError):
            (self.programs / "sudo").unlink()
        self.rules(ALL)

    def processes(self, name: str) -> List[int]:
        """Return the processes with this word in their command line."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if name.encode() in words:
                    found.append(int(folder.name))
        return found


def _namespace(pid: Optional[int]) -> str:
    """Return the mount namespace of a process, which is the server's own."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""  # it has ended


@contextlib.contextmanager
def sudo_host() -> Iterator[SudoHost]:
    """Start a server, and stop it with everything that ran on it."""
    require_part(shutil.which("sudo"), "needs sudo (Debian: apt install sudo)")
    require_part(find_sshd(), "needs OpenSSH's sshd (Debian: apt install openssh-server)")
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/run"]
    if os.geteuid() != 0 or subprocess.run(probe, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs root and mount namespaces, for users and rules of the server's own")
    # (The user must be able to reach the folder, unlike pytest's.)
    folder = Path(tempfile.mkdtemp(prefix="ssh_service-sudo-"))
    folder.chmod(0o755)
    try:
        host, namespace = SudoHost(folder), ""
        try:
            with host.sshd:
                namespace = _namespace(host.sshd.pid)
                yield host
        finally:
            left = process_tree.started_with(f"SUDO_USER={USER}")  # perhaps of another test run
            left = [pid for pid in left if _namespace(pid) == namespace != ""]
            process_tree.send_signal(left, signal.SIGKILL)
    finally:
        shutil.rmtree(folder)
