"""
From connect parameters to an authenticated connection.

`dial` does it all under one deadline; the other modules are its steps: the stream (`routes`), the
keys (`credentials`, `agent`), and logging in (`authentication`).
"""

from ssh_service.connect.dial import dial

__all__ = ["dial"]
