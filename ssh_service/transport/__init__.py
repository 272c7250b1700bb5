"""
paramiko, repaired: a connection and its channels that threads can share.

Only this package touches paramiko's private parts; docs/paramiko_repairs.md explains why.
"""

from ssh_service.transport.channel import SshChannel
from ssh_service.transport.port_forwards import IncomingChannel, PortForward
from ssh_service.transport.sink import ChannelSink
from ssh_service.transport.text import printable
from ssh_service.transport.transport import SshTransport

__all__ = [
    "ChannelSink",
    "IncomingChannel",
    "PortForward",
    "SshChannel",
    "SshTransport",
    "printable",
]
