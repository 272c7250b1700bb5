"""Who may open a session where: a destination's queue, its limits, its further connections."""

from ssh_service.sessions.pool import SessionPool

__all__ = ["SessionPool"]
