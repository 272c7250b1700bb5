"""
Paths on a host: `SshPath`, over the SFTP session that copies use.

From the bottom up; a module imports from those above it here, never from those below:

======================= ========================================================================
status                  what a server reports about a file
running                 runs a task with a host's files, over its cached connection
requests                what is done with single files and folders
listing, owners         lists folders, and finds what matches a pattern, and names of owners
content                 reads and writes files as a whole
removal                 removes a folder with everything in it
remote_file, opening    an open file; its modes, and the buffers around it
pure, query, path       paths without their files; questions about files; `SshPath`
======================= ========================================================================
"""

from __future__ import annotations

from ssh_service.paths.path import SshPath
from ssh_service.paths.status import FileStatus

__all__ = ["FileStatus", "SshPath"]
