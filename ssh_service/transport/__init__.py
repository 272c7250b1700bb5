"""
paramiko, repaired: a connection and its channels that threads can share.

This package is the one place where paramiko's private parts are touched; docs/paramiko_repairs.md
says why.
"""

from ssh_service.transport.channel import SshChannel
from ssh_service.transport.sink import ChannelSink
from ssh_service.transport.text import printable
from ssh_service.transport.transport import SshTransport

__all__ = ["ChannelSink", "SshChannel", "SshTransport", "printable"]
