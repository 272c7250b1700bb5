"""Register our modules under the names of the mlos_bench modules that they replace."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Callable, Dict, List, Optional

import mlos_bench.services.remote

import ssh_service
import ssh_service.ssh_fileshare
import ssh_service.ssh_host_service
import ssh_service.ssh_service

__all__ = ["replace"]

_PACKAGE = "mlos_bench.services.remote.ssh"
# The submodules have the same names, so that a program only has to change one prefix.
_OURS: Dict[str, ModuleType] = {
    _PACKAGE: ssh_service,
    f"{_PACKAGE}.ssh_fileshare": ssh_service.ssh_fileshare,
    f"{_PACKAGE}.ssh_host_service": ssh_service.ssh_host_service,
    f"{_PACKAGE}.ssh_service": ssh_service.ssh_service,
}


def replace() -> Callable[[], None]:
    """Make imports of mlos_bench's SSH services return our modules; return the undo function."""
    parent = mlos_bench.services.remote
    attribute = vars(parent).get("ssh")
    before = {name: sys.modules[name] for name in _loaded_names()}
    sys.modules.update(_OURS)
    _set_attribute(parent, ssh_service)

    def undo() -> None:
        for name in _loaded_names():
            del sys.modules[name]
        sys.modules.update(before)
        _set_attribute(parent, attribute)

    return undo


def _loaded_names() -> List[str]:
    return [name for name in list(sys.modules) if f"{name}.".startswith(f"{_PACKAGE}.")]


def _set_attribute(parent: ModuleType, package: Optional[ModuleType]) -> None:
    if package is not None:
        parent.ssh = package  # type: ignore[attr-defined]
    elif "ssh" in vars(parent):
        del parent.ssh
