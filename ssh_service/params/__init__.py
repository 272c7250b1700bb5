"""
What makes two connections different.

`resolve` joins what the caller gave with what ssh_config says, the caller's word first, refuses
what it does not understand, and returns `ConnectParams`, whose `key` the cache compares.
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
