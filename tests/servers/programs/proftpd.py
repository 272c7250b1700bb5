"""proftpd with mod_sftp, for root: proftpd.py PROGRAM PORT FOLDER."""

import os
import sys
from pathlib import Path

program, port, folder = sys.argv[1:]
modules = Path("/usr/lib/proftpd")
# From Debian 13 on, these are modules of their own.
names = [name for name in ("sftp", "xfer", "delay") if (modules / f"mod_{name}.so").exists()]
load = "\n".join(f"LoadModule mod_{name}.c" for name in names)
os.system(f"ssh-keygen -e -f {folder}/client_key.pub > {folder}/keys")
for name, text in (("passwd", "root:x:0:0::/root:/bin/sh\n"), ("group", "root:x:0:root\n")):
    Path(folder, name).write_text(text)
    os.chmod(Path(folder, name), 0o600)
Path(folder, "config").write_text(f"""
ModulePath {modules}
{load}
ServerName test
ServerType standalone
DefaultServer on
DefaultAddress 127.0.0.1
Port {port}
User root
Group root
RootLogin on
UseFtpUsers off
UseReverseDNS off
DelayEngine off
RequireValidShell off
WtmpLog off
TransferLog none
SystemLog {folder}/system.log
ScoreboardFile {folder}/scoreboard
PidFile {folder}/pid
AuthOrder mod_auth_file.c
AuthUserFile {folder}/passwd
AuthGroupFile {folder}/group
AllowOverwrite on
SFTPEngine on
SFTPLog {folder}/sftp.log
SFTPHostKey {folder}/host_key
SFTPAuthMethods publickey
SFTPAuthorizedUserKeys file:{folder}/keys
""")
os.execv(program, [program, "-n", "-q", "-c", f"{folder}/config"])
