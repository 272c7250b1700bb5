"""
From connect parameters to an authenticated connection.

`dial` applies one deadline to all steps; the other modules are these steps: the stream
(`routes`), the keys (`credentials`, `agent`) and logging in (`authentication`).
"""

from ssh_service.connect.dial import dial

__all__ = ["dial"]
