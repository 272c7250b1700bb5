"""Patch methods of mlos_bench's classes, and restore them."""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict

__all__ = ["Method", "wrap"]

Method = Callable[..., Any]


def wrap(cls: type, wrappers: Dict[str, Callable[[Method], Method]]) -> Callable[[], None]:
    """Replace methods that a class defines by wrapped ones; return the undo function."""
    before = {name: vars(cls)[name] for name in wrappers}
    for name, wrapper in wrappers.items():
        setattr(cls, name, functools.wraps(before[name])(wrapper(before[name])))

    def undo() -> None:
        for name, method in before.items():
            setattr(cls, name, method)

    return undo
