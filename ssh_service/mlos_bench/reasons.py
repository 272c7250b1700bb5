"""
Let the reason for which a script failed fit into the storage.

mlos_bench stores whatever a failed script leaves as metrics of the trial, the error among them, in
columns of 255 characters.  sqlite takes longer texts; MySQL and PostgreSQL refuse them, and that
would end the experiment for which the trial was to fail.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

from mlos_bench.environments.remote.remote_env import RemoteEnv

__all__ = ["LONGEST", "shorten"]

LONGEST = 255
_MORE = " ..."


def shorten() -> Callable[[], None]:
    """
    Have `RemoteEnv` return a short text in place of an error.

    Returns
    -------
    Callable[[], None]
        What undoes it.
    """
    before = vars(RemoteEnv)["run"]

    @functools.wraps(before)
    def run(self: Any) -> Any:
        *how, output = before(self)
        if isinstance(output, dict) and isinstance(output.get("error"), BaseException):
            output = {**output, "error": _text(output["error"])}
        return (*how, output)

    RemoteEnv.run = run
    return functools.partial(setattr, RemoteEnv, "run", before)


def _text(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - len(_MORE)] + _MORE
