"""
Makes an authenticated connection from connect parameters.

`dial` applies one deadline to all steps.  The other modules implement the steps: the stream
(`routes`), the keys (`credentials`, `agent`) and the login (`authentication`).
"""

from ssh_service.connect.dial import dial

__all__ = ["dial"]
