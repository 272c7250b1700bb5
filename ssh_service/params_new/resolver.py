# --- resolving ------------------------------------------------------------------------------


def resolve(connect_params: Mapping[str, Any]) -> ConnectParams:
    """
    Turn connect parameters and ssh_config into one description of a connection.

    Parameters
    ----------
    connect_params : Mapping[str, Any]
        asyncssh's names (see `SETTINGS`).  ``host`` is required; everything else has a default,
        and what is not given is taken from ssh_config first.  Where it means nothing else, None
        is "not given".  ``known_hosts=None``: host keys are not checked, unless ssh_config asks
        for it; ``config=None``: no ssh_config is read; ``agent_path=None``: no agent;
        ``tunnel=None``: no jump host; ``keepalive_interval=None``: no keepalives.

    Returns
    -------
    ConnectParams
        Complete and checked.

    Raises
    ------
    SshConfigError
        A name is unknown, a value is of the wrong type or out of range, two settings contradict
        each other, or a file named here or in ssh_config cannot be used.
    """
    return _resolve(connect_params, ())


def _resolve(
    connect_params: Mapping[str, Any], hops: Tuple[Tuple[str, int, str], ...]
) -> ConnectParams:
    if not isinstance(connect_params, Mapping):
        raise settings.wrong("connect_params", connect_params, "a mapping of settings")
    return _Resolver(connect_params, hops).resolve()


class _Resolver:
    """One call of `resolve`: the caller's settings over those of ssh_config."""

    def __init__(self, given: Mapping[str, Any], hops: Tuple[Tuple[str, int, str], ...]) -> None:
        unknown = sorted(str(name) for name in given if name not in SETTINGS)
        if unknown:
            raise SshConfigError(
                f"unknown connect parameter {', '.join(map(repr, unknown))}; "
                f"those known are: {', '.join(SETTINGS)}"
            )
        self._given = given
        self._hops = hops
        self._tokens: Dict[str, str] = {}
        self._config = HostConfig()
        self._host = ""
        self._hostname = ""
        self._port = 22
        self._username = ""

    def resolve(self) -> ConnectParams:
        self._resolve_destination()
        tunnel, proxy_command = self._route()
        agent_path = self._agent_path()
        client_keys = self._client_keys()
        configured = self._config.all("identityfile")
        identities_only = self._switch("identities_only", "identitiesonly", False)
        connect_timeout = self._span("connect_timeout", "connecttimeout")
        login_timeout = self._span("login_timeout", None)
        return ConnectParams(
            host=self._host,
            hostname=self._hostname,
            port=self._port,
            username=self._username,
            client_keys=client_keys,
            identity_files=self._identity_files(configured),
            identities_configured=bool(configured),
            certificate_files=tuple(
                path
                for value in self._config.all("certificatefile")
                for path in self._config_paths(value)
            ),
            identities_only=identities_only,
            agent_path=agent_path,
            password=settings.hidden("password", self._given.get("password")),
            passphrase=settings.hidden("passphrase", self._given.get("passphrase")),
            kbdint_handler=self._handler("kbdint_handler"),
            preferred_auth=self._preferred_auth(),
            known_hosts=self._trust(),
            host_key_alias=self._host_key_alias(),
            tunnel=tunnel,
            proxy_command=proxy_command,
            family=self._family(),
            local_addr=self._local_addr(),
            encryption_algs=self._algorithms("encryption_algs"),
            kex_algs=self._algorithms("kex_algs"),
            mac_algs=self._algorithms("mac_algs"),
            server_host_key_algs=self._algorithms("server_host_key_algs"),
            compression_algs=self._compression(),
            connect_timeout=30.0 if connect_timeout is None else connect_timeout,
            login_timeout=login_timeout,
            keepalive_interval=self._keepalive_interval(),
            keepalive_count_max=self._keepalive_count_max(),
        )

    # --- where to

    def _resolve_destination(self) -> None:
        if self._given.get("host") is None:
            raise SshConfigError("host: not given, needs the name or address to connect to")
        host = settings.text("host", self._given["host"]).strip()
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        if host.startswith("-") or any(char.isspace() for char in host):
            raise settings.wrong("host", host, "a host name or address")
        given_port = self._get("port")
        port = None if given_port is None else settings.port("port", given_port)
        given_user = self._get("username")
        user = None if given_user is None else settings.text("username", given_user)
        allow_exec = settings.flag("config_exec", self._given.get("config_exec", False))
        files = self._given.get("config", ())
        if files is not None:
            self._config = ssh_config.lookup(
                host,
                settings.paths("config", files) or None,
                user=user,
                port=port,
                allow_exec=allow_exec,
            )
        self._host = host
        if port is None:
            value = self._config.get("port")
            port = 22 if value is None else settings.port(_named(value, "Port"), _one(value))
        if user is None:
            value = self._config.get("user")
            user = ssh_config.local_user() if value is None else _one(value)
        value = self._config.get("hostname")
        hostname = host
        if value is not None:
            tokens = {"h": host, "%": "%"}
            hostname = ssh_config.expand_tokens(_one(value), tokens, value.origin)
        self._hostname, self._port, self._username = hostname, port, user
        local_name = socket.gethostname()
        self._tokens = {
            "%": "%",
            "d": os.path.expanduser("~"),
            "h": hostname,
            "i": str(os.getuid()) if hasattr(os, "getuid") else "0",
            "k": hostname.lower(),
            "L": local_name.partition(".")[0],
            "l": local_name,
            "n": host,
            "p": str(port),
            "r": user,
            "u": ssh_config.local_user(),
        }
        alias = self._host_key_alias()
        if alias is not None:
            self._tokens["k"] = alias
        joined = "".join(self._tokens[letter] for letter in "lhpr")
        self._tokens["C"] = hashlib.sha1(joined.encode("utf-8", "surrogateescape")).hexdigest()

    def _host_key_alias(self) -> Optional[str]:
        given = self._get("host_key_alias")
        if given is not None:
            return settings.text("host_key_alias", given)
        value = self._config.get("hostkeyalias")
        return None if value is None else _one(value)

    def _family(self) -> int:
        given = self._get("family")
        if isinstance(given, int) and given in _FAMILIES.values():
            return int(given)
        if given is not None:
            return _FAMILIES[settings.choice("family", given, tuple(_FAMILIES))]
        value = self._config.get("addressfamily")
        if value is None:
            return 0
        word = _one(value).lower()
        return _FAMILIES[settings.choice(_named(value, "AddressFamily"), word, tuple(_FAMILIES))]

    def _local_addr(self) -> Optional[Tuple[str, int]]:
        given = self._get("local_addr")
        if isinstance(given, (tuple, list)) and len(given) == 2:
            source_port = given[1]
            if source_port != 0:
                source_port = settings.port("local_addr", source_port)
            return (settings.text("local_addr", given[0]) if given[0] else "", source_port)
        if given is not None:
            return (settings.text("local_addr", given), 0)
        value = self._config.get("bindaddress")
        return None if value is None else (_one(value), 0)

    # --- which way

    def _route(self) -> Tuple[Union[None, ConnectParams, paramiko.Transport], Optional[str]]:
        given_tunnel = self._given.get("tunnel", _MISSING)
        given_command = self._get("proxy_command")
        if given_tunnel not in (_MISSING, None, (), "none") and given_command is not None:
            raise SshConfigError("tunnel and proxy_command: both given, needs at most one")
        if given_command is not None:
            if isinstance(given_command, (list, tuple)):  # asyncssh takes an argument list too
                words = [settings.command("proxy_command", word) for word in given_command]
                return None, " ".join(shlex.quote(word) for word in words)
            return None, settings.command("proxy_command", given_command)
        if given_tunnel is None or given_tunnel == "none":
            return None, None
        if given_tunnel is not _MISSING and given_tunnel != ():
            return self._tunnel("tunnel", given_tunnel), None
        jump, command = self._config.get("proxyjump"), self._config.get("proxycommand")
        # As in ssh: the first of the two in the files counts.
        order = self._config.keywords()
        if jump and command and order.index("proxycommand") < order.index("proxyjump"):
            jump = None
        if jump is not None:
            text = _one(jump)
            if text.lower() != "none":
                return self._tunnel(_named(jump, "ProxyJump"), self._expand(jump, text)), None
            return None, None
        if command is not None and _one(command).lower() != "none":
            return None, self._expand(command, _one(command))
        return None, None

    def _tunnel(self, name: str, given: Any) -> Union[ConnectParams, paramiko.Transport]:
        if isinstance(given, paramiko.Transport):
            return given
        here = (self._hostname.lower(), self._port, self._username)
        # What code spells out ends by itself; what files say of each other may not.
        if (name != "tunnel" and here in self._hops) or len(self._hops) >= _MAX_HOPS:
            raise SshConfigError(
                f"{name}: the jump hosts of {self._host} lead in a circle or are too many"
            )
        hops = self._hops + (here,)
        if isinstance(given, Mapping):
            return _resolve(given, hops)
        if not isinstance(given, str) or not given.strip():
            raise settings.wrong(name, given, "user@host:port, connect parameters or a Transport")
        *before, last = [part.strip() for part in given.split(",")]
        hop = _parse_destination(name, last)
        for inherited in ("config", "config_exec", "passphrase", "agent_path", "kbdint_handler"):
            if inherited in self._given:
                hop[inherited] = self._given[inherited]
        for inherited in ("keepalive_interval", "keepalive_count_max"):
            if inherited in self._given:
                hop[inherited] = self._given[inherited]
        if before:
            hop["tunnel"] = ",".join(before)
        self._inherit_trust(hop)
        return _resolve(hop, hops)

    def _inherit_trust(self, hop: Dict[str, Any]) -> None:
        """Give a hop, which has a trust of its own, the files the caller named."""
        files = self._given.get("known_hosts")
        if files is not None and files not in ((), []):
            hop["known_hosts"] = files
            policy = self._get("host_key_policy")
            if policy is not None:
                hop["host_key_policy"] = policy

    # --- who we are

    def _client_keys(self) -> Union[None, Tuple[KeySource, ...], Callable[[], Any]]:
        given = self._get("client_keys")
        if given is None:
            return None
        if callable(given) and not isinstance(given, paramiko.PKey):
            return given  # type: ignore[no-any-return]
        return key_sources("client_keys", given)

    def _identity_files(self, configured: List[Value]) -> Tuple[str, ...]:
        if configured:
            found = [path for value in configured for path in self._config_paths(value)]
            return tuple(dict.fromkeys(found))
        home = os.path.expanduser("~/.ssh")
        return tuple(os.path.join(home, name) for name in _DEFAULT_IDENTITIES)

    def _agent_path(self) -> Optional[str]:
        if "agent_path" in self._given:
            given = self._given["agent_path"]
            return None if given in (None, ()) else settings.path("agent_path", given)
        value = self._config.get("identityagent")
        if value is not None:
            text = _one(value)
            if text.lower() == "none":
                return None
            if text == "SSH_AUTH_SOCK":
                return os.environ.get("SSH_AUTH_SOCK") or None
            if text.startswith("$") and not text.startswith("${"):
                return os.environ.get(text[1:]) or None
            return self._config_paths(value)[0]
        return os.environ.get("SSH_AUTH_SOCK") or None

    def _preferred_auth(self) -> Tuple[str, ...]:
        given = self._get("preferred_auth")
        if given is None:
            value = self._config.get("preferredauthentications")
            if value is None:
                return _AUTH_METHODS
            # The file serves ssh too: methods we do not have (gssapi) are passed over.
            wanted = [word.strip() for word in _one(value).split(",")]
            return tuple(word for word in wanted if word in _AUTH_METHODS)
        words = given.split(",") if isinstance(given, str) else given
        if not isinstance(words, (list, tuple)):
            raise settings.wrong("preferred_auth", given, "a list of " + ", ".join(_AUTH_METHODS))
        return tuple(settings.choice("preferred_auth", word, _AUTH_METHODS) for word in words)

    def _handler(self, name: str) -> Optional[Callable[..., Any]]:
        given = self._get(name)
        if given is not None and not callable(given):
            raise settings.wrong(name, given, "a callable")
        return given  # type: ignore[no-any-return]

    # --- whom we trust

    def _trust(self) -> HostKeyTrust:
        given = self._given.get("known_hosts", ())
        policy = self._get("host_key_policy")
        if policy is not None:
            policy = settings.choice("host_key_policy", policy, POLICIES)
        configured = self._configured_policy()
        pins = self._pins()
        if given is None:
            if policy in ("strict", "accept-new"):
                raise SshConfigError(
                    f"host_key_policy: {policy!r} given with known_hosts None, "
                    f"needs known_hosts (a file), or 'off'"
                )
            if pins:
                return HostKeyTrust("strict", (), pins)
            if policy == "off" or configured is None:
                return HostKeyTrust("off")
            # Nobody asked in code for less than the user's own ssh_config demands.
            return HostKeyTrust(configured, self._known_hosts_files())
        if isinstance(given, (list, tuple)) and not given:
            files = self._known_hosts_files()
            return HostKeyTrust(policy or configured or "strict", files, pins)
        files = settings.paths("known_hosts", given)
        policy = policy or "strict"
        for path in files:
            if policy == "strict" and not os.path.exists(path):
                raise SshConfigError(
                    f"known_hosts: file {path!r} does not exist; "
                    f"host_key_policy='accept-new' would create it"
                )
            if os.path.isdir(path):
                raise settings.wrong("known_hosts", path, "a file, not a folder")
        return HostKeyTrust(policy, files, pins)

    def _configured_policy(self) -> Optional[str]:
        value = self._config.get("stricthostkeychecking")
        if value is None:
            return None
        words = {
            "yes": "strict",
            "true": "strict",
            "ask": "strict",  # there is nobody to ask
            "accept-new": "accept-new",
            # ssh goes on even where a key changed; a library must not.
            "no": "accept-new",
            "false": "accept-new",
            "off": "accept-new",
        }
        name = _named(value, "StrictHostKeyChecking")
        return words[settings.choice(name, _one(value).lower(), tuple(words))]

    def _known_hosts_files(self) -> Tuple[str, ...]:
        home = os.path.expanduser("~/.ssh")
        defaults = {
            "userknownhostsfile": tuple(
                os.path.join(home, name) for name in ("known_hosts", "known_hosts2")
            ),
            "globalknownhostsfile": ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"),
        }
        files: List[str] = []
        for keyword, names in defaults.items():
            value = self._config.get(keyword)
            if value is None:
                files.extend(names)
            elif [word.lower() for word in value.arguments] != ["none"]:
                files.extend(self._config_paths(value))
        return tuple(dict.fromkeys(files))

    def _pins(self) -> Tuple[str, ...]:
        given = self._get("host_key_fingerprints")
        if given is None:
            return ()
        pins = [given] if isinstance(given, str) else given
        if not isinstance(pins, (list, tuple)) or not pins:
            raise settings.wrong("host_key_fingerprints", given, "SHA256:... or a list of those")
        for pin in pins:
            if not isinstance(pin, str) or not pin.startswith("SHA256:") or len(pin) != 50:
                raise settings.wrong(
                    "host_key_fingerprints", pin, "SHA256: and 43 characters, as ssh-keygen -l"
                )
        return tuple(pins)

    # --- how we talk

    def _algorithms(self, kind: str) -> Tuple[str, ...]:
        given = self._get(kind)
        if given not in (None, ()):
            if not isinstance(given, str) and not (
                isinstance(given, (list, tuple)) and all(isinstance(n, str) for n in given)
            ):
                raise settings.wrong(kind, given, "a list of algorithm names")
            return algorithms.choose(kind, given)
        keyword = _ALGORITHM_KEYWORDS.get(kind)
        value = self._config.get(keyword) if keyword else None
        if value is None:
            return algorithms.default(kind)
        return algorithms.choose(kind, _one(value), origin=value.origin)

    def _compression(self) -> Tuple[str, ...]:
        if self._get("compression_algs") in (None, ()):
            value = self._config.get("compression")
            if value is not None and settings.flag(_named(value, "Compression"), _one(value)):
                return algorithms.choose("compression_algs", "zlib@openssh.com,zlib,none")
        return self._algorithms("compression_algs")

    def _keepalive_interval(self) -> Optional[float]:
        name = "keepalive_interval"
        if name in self._given:
            given = self._given[name]
            return None if given is None else settings.seconds(name, given, zero_is_off=True)
        value = self._config.get("serveraliveinterval")
        if value is None:
            return 15.0
        return settings.time_span(_named(value, "ServerAliveInterval"), _one(value)) or None

    def _keepalive_count_max(self) -> int:
        given = self._get("keepalive_count_max")
        if given is not None:
            return settings.positive_int("keepalive_count_max", given)
        value = self._config.get("serveralivecountmax")
        if value is None:
            return 3
        name, text = _named(value, "ServerAliveCountMax"), _one(value)
        return settings.positive_int(name, int(text) if text.isdigit() else text)

    def _span(self, name: str, keyword: Optional[str]) -> Optional[float]:
        given = self._get(name)
        if given is not None:
            return settings.seconds(name, given)
        value = self._config.get(keyword) if keyword else None
        if value is None or _one(value).lower() == "none":
            return None
        return settings.time_span(_named(value, keyword or name), _one(value)) or None

    # --- helpers

    def _get(self, name: str) -> Any:
        return self._given.get(name)

    def _switch(self, name: str, keyword: str, default: bool) -> bool:
        given = self._get(name)
        if given is not None:
            return settings.flag(name, given)
        value = self._config.get(keyword)
        return default if value is None else settings.flag(_named(value, keyword), _one(value))

    def _expand(self, value: Value, text: str) -> str:
        return ssh_config.expand_tokens(text, self._tokens, value.origin)

    def _config_paths(self, value: Value) -> Tuple[str, ...]:
        found = []
        for word in value.arguments:
            if word.lower() == "none":
                continue
            expanded = self._expand(value, ssh_config.expand_environment(word, value.origin))
            found.append(os.path.abspath(os.path.expanduser(expanded)))
        return tuple(found)


def _parse_destination(name: str, text: str) -> Dict[str, Any]:
    for prefix in ("ssh://",):
        if text.startswith(prefix):
            text = text[len(prefix) :].rstrip("/")
    user, at, rest = text.rpartition("@")
    host, port = rest, ""
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        port = tail[1:] if tail.startswith(":") else tail
        if not bracket:
            host = ""
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
    if not host or (at and not user):
        raise settings.wrong(name, text, "user@host:port; user and port may be left out")
    found: Dict[str, Any] = {"host": host}
    if user:
        found["username"] = user
    if port:
        found["port"] = settings.port(name, port)
    return found


def _one(value: Value) -> str:
    return value.arguments[0]


def _named(value: Value, keyword: str) -> str:
    return f"{value.origin}: {keyword}"
