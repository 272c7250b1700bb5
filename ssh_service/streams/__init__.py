"""A command's bytes: what it reads, and what becomes of what it writes."""

from ssh_service.streams.marks import Marks
from ssh_service.streams.output import (
    CallbackOutput,
    OnOutput,
    Output,
    QueueOutput,
    check_encoding,
)
from ssh_service.streams.stdin import Stdin, as_input

__all__ = [
    "CallbackOutput",
    "Marks",
    "OnOutput",
    "Output",
    "QueueOutput",
    "Stdin",
    "as_input",
    "check_encoding",
]
