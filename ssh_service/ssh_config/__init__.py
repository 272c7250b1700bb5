"""
What ssh_config(5) files say about one host.

Only reading: which keywords take effect, and as what, is `params`' business.  `lookup` walks the
files; the other modules are what it stands on: lines (`syntax`), the command of a ``Match exec``
(`match_exec`), and what ``%h`` and ``${NAME}`` in a value mean (`expansion`).
"""

from ssh_service.ssh_config.expansion import (
    expand_command,
    expand_environment,
    expand_tokens,
)
from ssh_service.ssh_config.lookup import HostConfig, default_files, local_user, lookup
from ssh_service.ssh_config.syntax import Value

__all__ = [
    "HostConfig",
    "Value",
    "default_files",
    "expand_command",
    "expand_environment",
    "expand_tokens",
    "local_user",
    "lookup",
]
