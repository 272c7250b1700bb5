"""Twisted Conch's server for Unix, for the user who starts it: conch_server.py PORT FOLDER."""

import os
import pwd
import sys
import warnings

from twisted.conch import unix
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.interfaces import ISession, ISFTPServer
from twisted.conch.openssh_compat.factory import OpenSSHFactory
from twisted.conch.ssh import keys
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.python.components import registerAdapter

warnings.simplefilter("ignore")  # its children print them, too
port, folder = int(sys.argv[1]), sys.argv[2]
user = pwd.getpwuid(os.geteuid()).pw_name


class _User(unix.UnixConchUser):
    def getShell(self):
        return "/bin/sh"


class _Files(unix.SFTPServerForUnixConchUser):
    # In Conch 26.10, this expects another kind of home directory than its own users have.
    def _absPath(self, path):
        return os.path.join(self.avatar.getHomeDir(), os.fsdecode(path))


class _Realm:
    def requestAvatar(self, username, mind, *interfaces):
        avatar = _User(username.decode())
        return interfaces[0], avatar, avatar.logout


class _Factory(OpenSSHFactory):
    def getPublicKeys(self):
        return {b"ssh-ed25519": keys.Key.fromFile(f"{folder}/host_key.pub")}

    def getPrivateKeys(self):
        return {b"ssh-ed25519": keys.Key.fromFile(f"{folder}/host_key")}

    def getPrimes(self):
        return {}


registerAdapter(_Files, _User, ISFTPServer)
registerAdapter(unix.SSHSessionForUnixConchUser, _User, ISession)
database = InMemorySSHKeyDB({user.encode(): [keys.Key.fromFile(f"{folder}/client_key.pub")]})
_Factory.portal = Portal(_Realm(), [SSHPublicKeyChecker(database)])
reactor.listenTCP(port, _Factory(), interface="127.0.0.1")
reactor.run()
