"""Every setting, declared once: flags, environment names, the TOML file, validation and the README's table derive from it.

Precedence: keyword arguments, `HEARTH_…` environment, the TOML file named by HEARTH_CONFIG (default
/etc/hearth/hearth.toml, which may be missing), the default below. A setting `keep_alive_seconds` is HEARTH_KEEP_ALIVE_SECONDS in the
environment and `keep_alive_seconds` in the file.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, get_type_hints
from zoneinfo import ZoneInfo

from sandbox import addresses
from sandbox.errors import ConfigError

DEFAULT_CONFIG = "/etc/hearth/hearth.toml"


def _setting(
    default: Any, help: str, *, low: float | None = None, high: float | None = None, parse: Callable[[str], object] | None = None
) -> Any:
    """`parse` raises ValueError for a text that is none."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, "parse": parse})


def _zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{text!r} is no time zone; as in Asia/Shanghai, Europe/Berlin, UTC") from None


def _bucket_rights(text: str) -> str:
    if text not in ("all", "read", "off"):
        raise ValueError(f"{text!r} is none of all, read, off")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    home: str = _setting("/var/lib/hearth", "state directory: database, code store, images, credential")
    run: str = _setting("/run/hearth", "directory of the sockets")
    listen: str = _setting("127.0.0.1:9000", "address and port of the API")
    user: str = _setting("hearth", "system user of the API; it has no privilege")
    workers: int = _setting(2, "HTTP worker processes", low=1, high=64)
    http_connections: int = _setting(0, "open connections of one HTTP worker; 0: as many as it has descriptors for", low=0)
    http_idle_seconds: int = _setting(75, "a connection that asks for nothing is closed after this time", low=1)
    http_stall_seconds: float = _setting(
        60.0, "a body that stops coming, a reply that nobody reads is given up after this time", low=0.1, high=60
    )
    restart_seconds: float = _setting(30.0, "longest pause before a part of ours that keeps ending is started again", low=0.1, high=300)
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR")
    database_url: str = _setting("", "SQLAlchemy URL; empty: SQLite in the state directory")
    region: str = _setting("local", "region shown to functions and clients")
    default_image: str = _setting("host", "image that `python3` and unlisted runtimes use first")
    strict_runtimes: bool = _setting(False, "refuse a PythonX.Y that no image has, instead of the nearest newer minor")

    bucket_listen: str = _setting(
        "",
        "address and port of the bucket service; empty: two ports above the API's, if that is free; off: none",
    )
    bucket_workers: int = _setting(1, "worker processes of the bucket service", low=1, high=64)
    bucket_domains: str = _setting("localhost", "what may stand behind `bucket.` in a host name, separated by commas")
    bucket_hosts: str = _setting(
        "", "hosts that are one bucket for COS clients with Domain=: `host[:port]=bucket, …`", parse=addresses.parse_bucket_hosts
    )

    limit_functions: int = _setting(20, "functions in a namespace", low=1)
    limit_namespaces: int = _setting(5, "namespaces, `default` among them", low=1)
    limit_versions: int = _setting(1000, "published versions of a function", low=1)
    limit_aliases: int = _setting(100, "aliases of a function, `$DEFAULT` among them", low=1)
    limit_code_bytes: int = _setting(50 * 1024 * 1024, "zipped code through the API, bytes", low=1)
    limit_inline_code_bytes: int = _setting(5 * 1024 * 1024, "zipped code inside a JSON body where SCF's old API has it, bytes", low=1)
    limit_unpacked_bytes: int = _setting(500 * 1024 * 1024, "unpacked code and layers, bytes", low=1)
    limit_unpacked_files: int = _setting(50_000, "files and directories in one package", low=1)
    limit_layers: int = _setting(20, "layers in a namespace", low=0)
    limit_layer_versions: int = _setting(200, "versions of one layer", low=1)
    # 255 bytes of mount options at most: see kernel/filesystem.py
    limit_function_layers: int = _setting(5, "layers of one function", low=0, high=10)
    limit_event_bytes: int = _setting(6 * 1024 * 1024, "event of a synchronous call, bytes", low=1)
    limit_async_event_bytes: int = _setting(128 * 1024, "event of an asynchronous call, bytes", low=1)
    limit_reply_bytes: int = _setting(6 * 1024 * 1024, "return value, bytes", low=1)
    limit_environment_bytes: int = _setting(4 * 1024, "environment of a function, bytes", low=0, high=16 * 1024)
    limit_timeout_seconds: int = _setting(300, "longest time limit of a function", low=1)
    limit_memory_mb: int = _setting(3072, "largest memory of a function", low=64)
    limit_tmp_mb: int = _setting(4096, "largest /tmp of a function", low=1)
    limit_concurrency: int = _setting(1000, "largest concurrency of a function", low=1)
    limit_total_mb: int = _setting(1_280_000, "largest total of a namespace's concurrency, MB of its functions' memory", low=1)
    limit_provisioned: int = _setting(100, "workers provisioned for one version", low=1)
    limit_provisioned_actions: int = _setting(10, "scheduled changes of one version's provisioned workers", low=0)
    limit_descriptors: int = _setting(1024, "open descriptors of a process in a sandbox", low=64)
    limit_processes: int = _setting(1024, "processes and threads of a sandbox", low=8)
    limit_triggers_at_creation: int = _setting(1, "triggers given with a function's creation", low=0)
    limit_timers: int = _setting(2, "timers of a function", low=0)
    limit_http_triggers: int = _setting(10, "HTTP triggers of a function", low=0)
    limit_http_header_bytes: int = _setting(
        16 * 1024,
        "headers of a request to an HTTP trigger, and of the function's response, names and values, bytes",
        low=1024,
        high=60 * 1024,
    )
    limit_object_triggers: int = _setting(2, "object triggers of a function", low=0)
    limit_directory_triggers: int = _setting(2, "directory triggers of a function", low=0)
    limit_queued_events: int = _setting(100_000, "events that wait or run; one more is refused with 503", low=1)
    limit_event_delay_seconds: int = _setting(604_800, "longest delay of an event", low=0)
    limit_buckets: int = _setting(1000, "buckets", low=1)
    disk_reserve_percent: float = _setting(
        2.0, "free room of the objects' disk below which nothing is put into buckets: the database is there too", low=0, high=90
    )
    limit_object_bytes: int = _setting(5 * 1024**3, "an object sent in one request, or a part of one, bytes", low=1)
    limit_upload_bytes: int = _setting(50 * 1024**3, "an object sent in parts, bytes", low=1)
    log_limit_bytes: int = _setting(1024 * 1024, "log kept of one call, bytes; the rest is cut with a marker", low=1024)

    default_memory_mb: int = _setting(128, "memory of a function that names none", low=64)
    default_timeout_seconds: int = _setting(3, "time limit of a function that names none", low=1)
    default_init_timeout_seconds: int = _setting(65, "loading limit of a function that names none", low=3, high=300)
    default_concurrency: int = _setting(20, "concurrency of a function that names none", low=1)
    default_tmp_mb: int = _setting(512, "size of /tmp of a function that names none", low=1)
    default_total_mb: int = _setting(
        128_000, "total of a namespace's concurrency that was never set; it counts from the first reservation in the namespace on", low=1
    )
    unreserved_percent: float = _setting(10.0, "of a total: what reservations must leave to the functions that have none", low=0, high=100)
    tmp_inodes: int = _setting(65_536, "files and directories in a sandbox's /tmp", low=64)
    shm_mb: int = _setting(64, "size of /dev/shm, charged to the function's own memory", low=1)

    prepared: int = _setting(8, "prepared sandboxes kept ready for each runtime and network in use", low=0)
    ready_timeout_seconds: float = _setting(
        30.0, "a sandbox that is not ready after this time, or a zygote after twice that, is given up", low=1, high=3600
    )
    keep_alive_seconds: float = _setting(300.0, "an idle worker goes after this time", low=0)
    freeze_after_seconds: float = _setting(1.0, "an idle worker is frozen after this time", low=0)
    memory_reserve_percent: float = _setting(10.0, "free memory below which idle workers go", low=0, high=90)
    memory_floor_percent: float = _setting(3.0, "free memory below which provisioned workers go, too, after all others", low=0, high=90)
    capacity_mb: int = _setting(0, "own limits of running calls plus /tmp in use, summed; 0: nine tenths of the machine", low=0)
    memory_headroom_mb: int = _setting(32, "what the kernel's limit is above a function's own and its /tmp", low=4)
    cpu_hard_cap: bool = _setting(False, "cap CPU at the memory's share (1280 MB is one core) instead of a weight")
    uid_base: int = _setting(0, "first uid of the sandboxes; 0: a range made from the state directory's name", low=0)
    cgroup_root: str = _setting("", "where our cgroups go, below each hierarchy; empty: its root, or the delegated subtree")
    zygote_max_forks: int = _setting(5000, "a zygote is replaced after this many sandboxes", low=1)

    nat: bool = _setting(True, "functions may have the network `nat`; off: loopback only, and nothing of the host's network is touched")
    nat_range: str = _setting("", "IPv4 range of the sandboxes, /22 or larger; empty: a /16 nobody uses here", parse=addresses.parse_range)
    nat_allow: str = _setting(
        "",
        "what functions may reach though it is the host's or refused: `address[/bits][:port], …`",
        parse=addresses.parse_destinations,
    )
    nat_dns: str = _setting("", "resolvers of the functions, up to three addresses; empty: the host's", parse=addresses.parse_addresses)

    nat_api: bool = _setting(True, "functions with the network `nat` reach SCF's interfaces here, to call other functions; off: they don't")
    nat_api_port: int = _setting(9080, "port of that, at the address of the sandboxes' bridge; 0: any free one", low=0, high=65535)

    nat_bucket_port: int = _setting(
        9082, "port of the bucket service for functions, at the same address; 0: any free one", low=0, high=65535
    )
    function_buckets: str = _setting(
        "all", "what functions may do in their namespace's buckets with their temporary credentials: all, read or off", parse=_bucket_rights
    )

    public_url: str = _setting(
        "", "where HTTP triggers are reached, as https://functions.example.org; empty: the API's own address", parse=addresses.parse_url
    )
    http_domain: str = _setting(
        "", "domain whose subdomains are HTTP triggers, <url-id>.<domain>; empty: URLs are paths only", parse=addresses.parse_domain
    )
    trusted_proxies: str = _setting(
        "", "addresses or networks whose X-Forwarded-… headers are believed, comma-separated", parse=addresses.parse_networks
    )
    http_error_details: bool = _setting(False, "show an HTTP trigger's clients why its function failed, stack trace included")

    event_retry_seconds: float = _setting(60.0, "time between two attempts of an event", low=0.01)
    event_retries: int = _setting(2, "further attempts after an error of the function, where its event settings name none", low=0, high=2)
    event_ttl_seconds: int = _setting(21_600, "longest wait of an event, where its function's event settings name none", low=1, high=21_600)
    event_slots: int = _setting(64, "events that one dispatcher runs at once", low=1, high=4096)
    event_share_percent: float = _setting(
        80.0, "share of a function's concurrency and of capacity_mb that events may take", low=1, high=100
    )
    event_lease_seconds: float = _setting(30.0, "a dispatcher that says nothing for so long has lost its events", low=0.5)
    event_poll_seconds: float = _setting(1.0, "how often a dispatcher looks without being told", low=0.05)
    keep_idempotency_hours: float = _setting(24.0, "how long an Idempotency-Key is known", low=0.01)
    keep_dead_letters_days: float = _setting(30.0, "dead letters older than this go", low=0.01)
    timer_zone: str = _setting("Asia/Shanghai", "time zone of timers and of schedules of provisioned workers, as SCF's UTC+8", parse=_zone)
    timer_catch_up_seconds: float = _setting(
        300.0, "a timer that missed firings while nothing ran fires once for the latest, if that is younger than this", low=0
    )

    watch_dirs: str = _setting(
        "", "directories that triggers may watch, and those below them: absolute paths, comma-separated", parse=addresses.parse_directories
    )
    watch_quiet_seconds: float = _setting(
        2.0, "a file that was written while nobody watched is finished when it has not changed for so long", low=0.05
    )

    keep_records_days: int = _setting(30, "invocation records older than this go", low=1)
    keep_records: int = _setting(200_000, "at most this many invocation records", low=1)

    @property
    def instance(self) -> str:
        """Eight hex digits from the state directory's real path: the mark in every name we leave on the host."""
        return hashlib.sha256(os.path.realpath(self.home).encode()).hexdigest()[:8]

    @property
    def trusted_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Of `trusted_proxies`."""
        return addresses.parse_networks(self.trusted_proxies)

    @property
    def watched_paths(self) -> tuple[str, ...]:
        """Of `watch_dirs`."""
        return addresses.parse_directories(self.watch_dirs)

    @property
    def images_dir(self) -> Path:
        """Root-owned: one directory with `manifest.json` and `root/` for each image."""
        return Path(self.home) / "images"

    @property
    def state_dir(self) -> Path:
        """Owned by `user`: database and code store."""
        return Path(self.home) / "state"

    @property
    def code_dir(self) -> Path:
        """The code store: one directory for each digest, read-only."""
        return self.state_dir / "code"

    @property
    def buckets_dir(self) -> Path:
        """The bucket service's data files, by names that say nothing."""
        return self.state_dir / "buckets"

    @property
    def has_bucket_endpoint(self) -> bool:
        """Whether functions may reach the bucket service."""
        return self.nat_api and bool(self.bucket_address) and self.function_buckets != "off"

    @property
    def mapped_hosts(self) -> dict[str, str]:
        """`bucket_hosts` as a mapping, host to bucket."""
        return addresses.parse_bucket_hosts(self.bucket_hosts)

    @property
    def bucket_address(self) -> str:
        """Where the bucket service listens; empty when it is off."""
        if self.bucket_listen == "off":
            return ""
        host, _, port = self.listen.rpartition(":")
        return self.bucket_listen or (f"{host}:{int(port) + 2}" if port.isdecimal() and 0 < int(port) < 65_534 else "")

    @property
    def credential_path(self) -> Path:
        """The bearer credential that `hearth up` wrote, mode 0600."""
        return Path(self.home) / "credential"

    @property
    def secrets_key_path(self) -> Path:
        """The key under which secrets are stored, which `hearth up` wrote, mode 0600."""
        return Path(self.home) / "secrets.key"

    @property
    def socket_path(self) -> Path:
        """sandboxd's SOCK_SEQPACKET socket."""
        return Path(self.run) / "sandboxd.sock"

    @property
    def wake_dir(self) -> Path:
        """The datagram sockets by which the processes of `user` wake each other."""
        return self.state_dir / "wake"

    @property
    def dead_letters_dir(self) -> Path:
        """Where dead letters go whose target is a file: NAME.jsonl, one JSON document a line."""
        return self.state_dir / "dead-letters"

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.state_dir / 'hearth.db'}"

    @property
    def first_uid(self) -> int:
        return self.uid_base or 0x10000000 + int(self.instance[:4], 16) * 0x2000


def describe() -> list[dict[str, Any]]:
    """One row a setting: name, environment, type, default, help, low, high. What README's table is made from."""
    hints = get_type_hints(Settings)
    return [
        {
            "name": f.name,
            "environment": f"HEARTH_{f.name.upper()}",
            "type": hints[f.name].__name__,
            "default": f.default,
            **{key: f.metadata[key] for key in ("help", "low", "high")},
        }
        for f in fields(Settings)
        if f.default is not MISSING
    ]


def load(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the settings. Raises ConfigError with one line for each that is wrong: its name, the value and what it may be."""
    environ = os.environ if environ is None else environ
    path = environ.get("HEARTH_CONFIG", DEFAULT_CONFIG)
    values = _from_file(path, required="HEARTH_CONFIG" in environ)
    rows = {row["name"]: row for row in describe()}
    wrong = [ConfigError(f"{path}: unknown setting {name!r}", hint=_SEE) for name in sorted(set(values) - set(rows))]
    sources = dict.fromkeys(values, f"{path}: ")
    for name, row in rows.items():
        if row["environment"] in environ:
            values[name], sources[name] = environ[row["environment"]], ""
    wrong += [ConfigError(f"there is no setting {name!r}", hint=_SEE) for name in sorted(set(overrides) - set(rows))]
    given = {key: value for key, value in overrides.items() if value is not None}
    values.update(given)
    checked: dict[str, Any] = {}
    for f in fields(Settings):
        if f.name in values:
            try:
                checked[f.name] = _checked(rows[f.name], values[f.name], f.metadata["parse"])
            except ConfigError as error:
                source = "" if f.name in given else sources[f.name]
                wrong.append(ConfigError(f"{source}{error.message}", hint=error.hint))
    if wrong:
        raise _together(wrong)
    settings = Settings(**checked)
    if settings.has_bucket_endpoint and settings.nat_bucket_port == settings.nat_api_port != 0:
        raise ConfigError(f"setting nat_bucket_port: {settings.nat_bucket_port} is that of nat_api_port", hint=_SEE)
    return settings


_SEE = "see the settings table in README.md"


def _together(wrong: list[ConfigError]) -> ConfigError:
    if len(wrong) == 1:
        return wrong[0]
    return ConfigError("\n".join(f"{error.message} ({error.hint})" if error.hint else error.message for error in wrong))


def _from_file(path: str, *, required: bool) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if required:
            raise ConfigError(f"{path}: no such configuration file", hint="unset HEARTH_CONFIG or create it") from None
        return {}
    except PermissionError:
        raise ConfigError(f"{path} can't be read by uid {os.geteuid()}", hint="run this as root, or set HEARTH_CONFIG=/dev/null") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error


def _checked(row: dict[str, Any], value: Any, parse: Callable[[str], object] | None) -> Any:
    name, kind = row["name"], row["type"]
    try:
        if kind == "bool":
            parsed: Any = value if isinstance(value, bool) else {"1": True, "true": True, "0": False, "false": False}[str(value).lower()]
        else:
            parsed = {"int": int, "float": float, "str": str}[kind](value)
    except (KeyError, ValueError):
        raise ConfigError(f"setting {name}: {value!r} is not a {kind}") from None
    if kind == "int" and isinstance(value, float) and value != parsed:
        raise ConfigError(f"setting {name}: {value!r} is not a whole number")
    low, high = row["low"], row["high"]
    if parsed != parsed or (low is not None and parsed < low) or (high is not None and parsed > high):
        bounds = f"at least {low}" if high is None else f"{low} to {high}"
        raise ConfigError(f"setting {name}: {parsed} is out of range", hint=f"it takes {bounds}")
    if parse is not None:
        try:
            parse(parsed)
        except ValueError as error:
            raise ConfigError(f"setting {name}: {error}") from error
    return parsed
