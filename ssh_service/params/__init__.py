"""
Connect parameters: from the mapping that a user passes to what is dialled.

`resolve` checks the mapping, adds what ssh_config says about the host where the mapping says
nothing, and returns `ConnectParams`.  The cache compares their `key`; callers with equal keys
share a connection.
"""

from ssh_service.params.address import conceal_password, split_address
from ssh_service.params.concealing import conceal, conceal_keys, reveal
from ssh_service.params.connect_params import ConnectKey, ConnectParams, connection_id
from ssh_service.params.key_sources import KeySource, key_sources
from ssh_service.params.resolver import SETTINGS, resolve, resolve_concealed

__all__ = [
    "SETTINGS",
    "ConnectKey",
    "ConnectParams",
    "KeySource",
    "conceal",
    "conceal_keys",
    "conceal_password",
    "connection_id",
    "key_sources",
    "resolve",
    "resolve_concealed",
    "reveal",
    "split_address",
]
