"""Sessions of a destination: the queue, the server's limits, and additional connections."""

from ssh_service.sessions.pool import SessionPool

__all__ = ["SessionPool"]
