"""
paramiko, repaired: a connection and its channels that threads can share.

Only this package touches paramiko's private parts; docs/paramiko_repairs.md explains why.
"""

from ssh_service.transport.channel import SshChannel
from ssh_service.transport.drop_in import DropInTransport, repair_new_transports
from ssh_service.transport.port_forwards import IncomingChannel, PortForward
from ssh_service.transport.relay import close_proxy
from ssh_service.transport.sink import ChannelSink
from ssh_service.transport.text import printable
from ssh_service.transport.transport import SshTransport
from ssh_service.transport.view import TransportView, ViewOwner

__all__ = [
    "ChannelSink",
    "DropInTransport",
    "IncomingChannel",
    "PortForward",
    "SshChannel",
    "SshTransport",
    "TransportView",
    "ViewOwner",
    "close_proxy",
    "printable",
    "repair_new_transports",
]
