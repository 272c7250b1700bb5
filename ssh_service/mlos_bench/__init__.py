"""
mlos_bench with the services of this package in place of its own.

``python -m ssh_service.mlos_bench ARGS`` is the command ``mlos_bench ARGS`` after `install`, which
a program that uses mlos_bench as a library calls itself.

Attributes
----------
EXAMPLES : str
    The folder with configs to begin from: a small experiment over SSH.
"""

from __future__ import annotations

import os

from ssh_service.mlos_bench.activation import install, uninstall

__all__ = ["EXAMPLES", "install", "uninstall"]

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "examples")
