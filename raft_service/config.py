"""Settings of a control-plane node and of its clients: names, defaults, ranges, and how they must relate.

Values come from the environment first, then from `.env` in the working directory. A variable that has one of our
prefixes and is not known is refused, and so is a contradiction: each with a sentence that names values and cure.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from dotenv import dotenv_values
from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_FILE = ".env"
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})
DEFAULT_PORT = 50051


class ConfigError(Exception):
    """A setting is missing, unknown or contradicts another; the message is one sentence with the cure."""


class Settings(BaseSettings):
    """Base of all settings: environment first, then `.env`; every field names its variable by an alias."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", populate_by_name=True, frozen=True)

    # Prefixes whose every variable this class must know, so that a slip of the pen is not silently ignored.
    own_prefixes: ClassVar[tuple[str, ...]] = ()
    # Names with such a prefix that something else reads.
    other_names: ClassVar[frozenset[str]] = frozenset()


S = TypeVar("S", bound=Settings)


def load(settings_class: type[S], **overrides: Any) -> S:
    """Reads and checks settings.

    Args:
        settings_class: which settings.
        overrides: values by field name that win over the environment (command-line options); None means not given.

    Raises:
        ConfigError: a value is missing, malformed, unknown or contradictory.
    """
    _refuse_unknown_names(settings_class)
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return settings_class(_env_file=ENV_FILE, **given)  # type: ignore[call-arg]  # pydantic-settings' own
    except ValidationError as error:
        raise ConfigError(_in_words(error, settings_class)) from None


def _refuse_unknown_names(settings_class: type[Settings]) -> None:
    known = {str(field.alias) for field in settings_class.model_fields.values()} | settings_class.other_names
    given = set(os.environ) | (set(dotenv_values(ENV_FILE)) if Path(ENV_FILE).exists() else set())
    for name in sorted(given):
        if name.startswith(settings_class.own_prefixes) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}."
            raise ConfigError(f"{name} is set but nothing reads it; {hint} Correct or remove it.")


def _in_words(error: ValidationError, settings_class: type[Settings]) -> str:
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return message
    key = str(first["loc"][0])
    field = settings_class.model_fields.get(key)
    name = str(field.alias) if field is not None else key
    if first["type"] == "missing":
        return f"{name} is not set; set it in the environment or in {ENV_FILE}."
    return f"{name}={first['input']!r} is not valid: {message}; correct it in the environment or in {ENV_FILE}."


def split_address(address: str) -> tuple[str, int]:
    """Splits "host:port"; the port defaults to 50051. Raises ConfigError when the port is no number."""
    host, _, port = address.rpartition(":")
    if not host:
        return address, DEFAULT_PORT
    if not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"Address {address!r} has no valid port; write host:port, such as cp-aws-1:50051.")
    return host, int(port)


def is_local(address: str) -> bool:
    """True for loopback addresses and Unix sockets, which need no TLS."""
    return address.startswith("unix:") or split_address(address)[0] in LOOPBACK_HOSTS


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of mutual TLS: our certificate, its key, and the authority that signed all parts."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the control plane as configured: id (position in RAFT_PEERS, from 1), name, host:port."""

    node_id: int
    name: str
    address: str


class TlsSettings(Settings):
    """The three files of mutual TLS; all or none."""

    tls_cert: Path | None = Field(None, alias="ORCHESTRATOR_TLS_CERT")
    tls_key: Path | None = Field(None, alias="ORCHESTRATOR_TLS_KEY")
    tls_ca: Path | None = Field(None, alias="ORCHESTRATOR_TLS_CA")

    @model_validator(mode="after")
    def _all_or_none(self) -> TlsSettings:
        files = [self.tls_cert, self.tls_key, self.tls_ca]
        if any(files) and not all(files):
            raise ValueError(
                "ORCHESTRATOR_TLS_CERT, ORCHESTRATOR_TLS_KEY and ORCHESTRATOR_TLS_CA go together; set all or none."
            )
        for file in filter(None, files):
            if not file.is_file():
                raise ValueError(f"TLS file {file} cannot be read; correct the ORCHESTRATOR_TLS_ variables.")
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """The files, or None for plain text."""
        if self.tls_cert is None or self.tls_key is None or self.tls_ca is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_ca)


class ClientSettings(TlsSettings):
    """How to reach the control plane."""

    own_prefixes: ClassVar[tuple[str, ...]] = ("ORCHESTRATOR_",)
    other_names: ClassVar[frozenset[str]] = frozenset({"ORCHESTRATOR_INSTANCE_REF", "ORCHESTRATOR_SLOT_FD"})

    orchestrator_addr: str = Field("", alias="ORCHESTRATOR_ADDR")

    @property
    def endpoints(self) -> tuple[str, ...]:
        """host:port of the nodes to try, in order; empty when no control plane is configured."""
        return tuple(part.strip() for part in self.orchestrator_addr.split(",") if part.strip())


class NodeSettings(TlsSettings):
    """One control-plane node."""

    own_prefixes: ClassVar[tuple[str, ...]] = ("RAFT_",)

    node_name: str = Field(alias="RAFT_NODE_NAME")
    # "name=host:port,name=host:port,...", the same list in the same order on every node of a new cluster.
    peers: str = Field(alias="RAFT_PEERS")
    # Where to listen; empty: at the own address in RAFT_PEERS. "unix:/path" for the embedded control plane.
    listen_addr: str = Field("", alias="RAFT_LISTEN_ADDR")
    data_dir: Path = Field(alias="RAFT_DATA_DIR")
    # Stamped into the data directory, so that a node never joins a foreign cluster.
    cluster_id: str = Field("orchestrator", alias="RAFT_CLUSTER_ID", min_length=1)

    # Followers campaign after a silence drawn evenly from this range. 300 to 600 is six to twelve round trips between
    # clouds 50 ms apart; below five round trips elections start to collide.
    election_timeout_min_ms: int = Field(300, alias="RAFT_ELECTION_TIMEOUT_MIN_MS", ge=50, le=60_000)
    election_timeout_max_ms: int = Field(600, alias="RAFT_ELECTION_TIMEOUT_MAX_MS", ge=50, le=120_000)
    heartbeat_ms: int = Field(150, alias="RAFT_HEARTBEAT_MS", ge=10, le=30_000)
    # The core counts time in ticks of this length.
    tick_ms: int = Field(10, alias="RAFT_TICK_MS", ge=1, le=1_000)
    # Entries applied since the last snapshot before the next one is written.
    snapshot_entries: int = Field(20_000, alias="RAFT_SNAPSHOT_ENTRIES", ge=100)

    # 0 takes a free port; -1 serves none.
    metrics_port: int = Field(9090, alias="METRICS_PORT", ge=-1, le=65535)
    debug_http_port: int = Field(8080, alias="DEBUG_HTTP_PORT", ge=-1, le=65535)

    # A worker that stays silent for interval x limit loses its lease.
    worker_heartbeat_interval_s: float = Field(5, alias="WORKER_HEARTBEAT_INTERVAL_S", gt=0, le=3600)
    worker_heartbeat_miss_limit: int = Field(3, alias="WORKER_HEARTBEAT_MISS_LIMIT", ge=2, le=100)

    @model_validator(mode="after")
    def _relations(self) -> NodeSettings:
        low, high = self.election_timeout_min_ms, self.election_timeout_max_ms
        if high <= low:
            raise ValueError(
                f"RAFT_ELECTION_TIMEOUT_MAX_MS={high} must be larger than RAFT_ELECTION_TIMEOUT_MIN_MS={low}, or all "
                "nodes campaign at once; twice the minimum is a good choice."
            )
        if low < 2 * self.heartbeat_ms:
            raise ValueError(
                f"RAFT_ELECTION_TIMEOUT_MIN_MS={low} must be at least twice RAFT_HEARTBEAT_MS={self.heartbeat_ms}, or "
                "one late heartbeat costs an election; lower the heartbeat or raise the timeout."
            )
        if self.heartbeat_ms < self.tick_ms:
            raise ValueError(
                f"RAFT_HEARTBEAT_MS={self.heartbeat_ms} must be at least RAFT_TICK_MS={self.tick_ms}, the unit of time."
            )
        names = [member.name for member in self.members]
        if len(set(names)) != len(names):
            raise ValueError(f"RAFT_PEERS names a node twice: {', '.join(names)}; give each node a name of its own.")
        if self.node_name not in names:
            raise ValueError(
                f"RAFT_NODE_NAME={self.node_name!r} is not in RAFT_PEERS ({', '.join(names)}); add or correct it."
            )
        if not is_local(self.bind_address) and self.tls is None:
            raise ValueError(
                f"Listening on {self.bind_address} without TLS is refused, for anybody could submit work; set "
                "ORCHESTRATOR_TLS_CERT, ORCHESTRATOR_TLS_KEY and ORCHESTRATOR_TLS_CA, or listen on 127.0.0.1."
            )
        return self

    @property
    def members(self) -> tuple[Member, ...]:
        """The configured members, ids from 1 in the order of RAFT_PEERS."""
        members = []
        for node_id, part in enumerate(filter(None, (p.strip() for p in self.peers.split(","))), start=1):
            name, separator, address = part.partition("=")
            if not separator or not name or not address:
                raise ValueError(f"RAFT_PEERS has {part!r}; write name=host:port,name=host:port,...")
            members.append(Member(node_id, name, address))
        return tuple(members)

    @property
    def me(self) -> Member:
        """This node's own entry."""
        return next(member for member in self.members if member.name == self.node_name)

    @property
    def bind_address(self) -> str:
        """Where to listen, host:port or unix:path."""
        return self.listen_addr or self.me.address

    @property
    def worker_lease_ms(self) -> int:
        """How long a worker may act after the last heartbeat it sent that was acknowledged."""
        return round(self.worker_heartbeat_interval_s * self.worker_heartbeat_miss_limit * 1000)
