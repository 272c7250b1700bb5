"""
Connect parameters: from a destination, as a mapping or a text, to the `ConnectParams` to dial.

`resolve` checks the destination, fills in what ssh_config says about the host wherever the
destination sets nothing, and returns `ConnectParams`.  The cache compares their `key`; callers
with equal keys share a connection.
"""

from ssh_service.params.address import conceal_password, parse_address, split_address
from ssh_service.params.concealing import conceal, conceal_keys, reveal
from ssh_service.params.connect_params import ConnectKey, ConnectParams, connection_id
from ssh_service.params.key_sources import KeySource, key_sources
from ssh_service.params.parameter_names import check_names
from ssh_service.params.resolver import (
    SETTINGS,
    Destination,
    Resolvable,
    resolve,
    resolve_concealed,
    settings_of,
)

__all__ = [
    "SETTINGS",
    "ConnectKey",
    "ConnectParams",
    "Destination",
    "KeySource",
    "Resolvable",
    "check_names",
    "conceal",
    "conceal_keys",
    "conceal_password",
    "connection_id",
    "key_sources",
    "parse_address",
    "resolve",
    "resolve_concealed",
    "reveal",
    "settings_of",
    "split_address",
]
