"""
Run mlos_bench with the services of this package instead of its own.

``python -m ssh_service.mlos_bench ARGS`` calls `install` and runs ``mlos_bench ARGS``.  A program
that uses mlos_bench as a library calls `install` itself.

Attributes
----------
EXAMPLES : str
    The path of the folder with example configs: a small experiment over SSH.
"""

from __future__ import annotations

import os

from ssh_service.mlos_bench.activation import install, uninstall

__all__ = ["EXAMPLES", "install", "uninstall"]

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "examples")
