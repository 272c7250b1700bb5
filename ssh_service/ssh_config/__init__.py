"""
Reads what ssh_config(5) files specify for one host.

This package only reads; `params` decides which keywords take effect, and how.  `lookup` evaluates
the files; the other modules parse lines (`syntax`), run the command of a ``Match exec``
(`match_exec`), and expand ``%h`` and ``${NAME}`` in values (`expansion`).
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
