"""
What makes two connections different.

`resolve` joins what the caller gave with what ssh_config says, the caller's word first, refuses
what it does not understand, and returns `ConnectParams`, whose `key` the cache compares.
"""

<<<<<<< HEAD
from ssh_service.params.connect_params import ConnectKey, ConnectParams, connection_id
=======
from ssh_service.params.address import split_address
from ssh_service.params.connect_params import ConnectKey, ConnectParams
>>>>>>> 4871871 (Parameters: where to and as whom in a module of its own; destinations are taken apart in one place)
from ssh_service.params.key_sources import KeySource, key_sources
from ssh_service.params.resolver import SETTINGS, resolve

__all__ = [
    "SETTINGS",
    "ConnectKey",
    "ConnectParams",
    "KeySource",
<<<<<<< HEAD
    "connection_id",
    "key_sources",
    "resolve",
=======
    "key_sources",
    "resolve",
    "split_address",
>>>>>>> 4871871 (Parameters: where to and as whom in a module of its own; destinations are taken apart in one place)
]
