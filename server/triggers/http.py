"""HTTP triggers as configuration: SCF's function URLs (scf-interface.md section 7), one for a function's version or alias.

A URL's id is the trigger's own, 122 random bits as 32 hex digits: nobody can guess it, and it stays when anything else is changed.

    http://HOST:PORT/_/URL_ID/…        always
    http://URL_ID.DOMAIN/…             where the setting http_domain names a domain whose subdomains all lead here
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from sandbox.settings import Settings
from server.errors import BadRequest
from server.functions.checks import shown
from server.triggers.model import Trigger

HTTP: Final = "http"
URL_PREFIX: Final = "/_/"
NONE, CAM, BEARER = "NONE", "CAM", "BEARER"
AUTH_TYPES: Final = (NONE, CAM, BEARER)
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
ANY: Final = "*"
MAX_ITEMS: Final = 50
MAX_AGE_SECONDS: Final = 86_400

_URL_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]{0,20}://[A-Za-z0-9.:\[\]_-]{1,255}|null", re.ASCII)
_OUTPUT: Final = ("IntranetUrl", "ExtranetUrl")


@dataclass(frozen=True, slots=True)
class Cors:
    """What scripts of other origins may do; the fields of SCF's CorsConfig. `*` in a list is everything."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    exposed: tuple[str, ...]
    max_age_seconds: int
    credentials: bool


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """A checked configuration, as the serving side reads it. `cors` is None where the function answers for itself."""

    auth: str
    methods: tuple[str, ...]
    cors: Cors | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> HttpConfig:
        return cls(config["AuthType"], tuple(config["Methods"]), _cors(config["CorsConfig"]))


class HttpKind:
    """config is SCF's TriggerDesc, {"AuthType", "NetConfig"[, "CorsConfig"]}, and `Methods` of our own. CorsConfig may be called Cors."""

    name = HTTP
    one_per_qualifier = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def limit(self, settings: Settings) -> int:
        return settings.limit_http_triggers

    def checked(self, config: Mapping[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in config.items() if value is not None}
        if "Cors" in given and "CorsConfig" not in given:
            given["CorsConfig"] = given.pop("Cors")
        _refuse_unknown(given, ("AuthType", "NetConfig", "CorsConfig", "Methods"), "config")
        auth = given.get("AuthType", NONE)
        if auth not in AUTH_TYPES:
            raise _wrong("AuthType", f"{shown(auth)} is not known", f"one of {', '.join(AUTH_TYPES)}")
        return {
            "AuthType": auth,
            "NetConfig": _net(given.get("NetConfig", {})),
            "CorsConfig": _checked_cors(given.get("CorsConfig", {})),
            "Methods": _methods("Methods", given.get("Methods", [ANY])),
        }

    def next_at(self, config: Mapping[str, Any], after: float) -> float | None:
        return None

    def admit(self, connection: Connection, config: Mapping[str, Any], trigger_id: str) -> None:
        return

    def shown(self, trigger: Trigger) -> dict[str, Any]:
        """With the URL where SCF shows it. There is one listener: the two are the same."""
        url = url_of(self._settings, url_id(trigger.trigger_id))
        net = trigger.config["NetConfig"]
        urls = {f"{side}Url": url for side in ("Intranet", "Extranet") if net[f"Enable{side}"]}
        return {**trigger.config, "NetConfig": {**net, **urls}}


def url_id(trigger_id: str) -> str:
    return trigger_id.replace("-", "")


def trigger_id_of(url_id: str) -> str | None:
    """None for what can't be one."""
    return str(uuid.UUID(url_id)) if _URL_ID.fullmatch(url_id) else None


def url_of(settings: Settings, url_id: str) -> str:
    base = settings.public_url.rstrip("/") or f"http://{settings.listen}"
    if not settings.http_domain:
        return f"{base}{URL_PREFIX}{url_id}/"
    scheme, _, rest = base.partition("://")
    port = re.search(r":\d+$", rest.partition("/")[0])
    return f"{scheme}://{url_id}.{settings.http_domain}{port[0] if port else ''}/"


def _net(value: Any) -> dict[str, bool]:
    net = _object("NetConfig", value)
    # What was read may be written back: the URLs are ours to say.
    net = {key: item for key, item in net.items() if key not in _OUTPUT}
    _refuse_unknown(net, ("EnableIntranet", "EnableExtranet"), "config.NetConfig")
    found = {key: _flag(f"NetConfig.{key}", net.get(key, True)) for key in ("EnableIntranet", "EnableExtranet")}
    if not any(found.values()):
        raise _wrong("NetConfig", "neither intranet nor extranet is enabled", "disable the trigger to shut its URL")
    return found


def _checked_cors(value: Any) -> dict[str, Any]:
    """Whole and normalised; {} where it is off."""
    given = _object("CorsConfig", value)
    _refuse_unknown(given, ("Enable", "Origins", "Methods", "Headers", "ExposeHeaders", "MaxAge", "Credentials"), "config.CorsConfig")
    if not given or not _flag("CorsConfig.Enable", given.get("Enable", True)):
        return {}
    origins = _items("CorsConfig.Origins", given.get("Origins", [ANY]), _is_origin, "an origin", "as in https://example.org, or *")
    credentials = _flag("CorsConfig.Credentials", given.get("Credentials", False))
    if credentials and ANY in origins:
        # Fetch Standard, "CORS protocol and credentials": browsers refuse it, and echoing every origin would let all of them in.
        raise _wrong("CorsConfig", "Credentials need Origins by name", "list the origins instead of *")
    age = given.get("MaxAge", 0)
    if isinstance(age, bool) or not isinstance(age, int) or not 0 <= age <= MAX_AGE_SECONDS:
        raise _wrong("CorsConfig.MaxAge", f"{shown(age)} is not a whole number of seconds", f"0 to {MAX_AGE_SECONDS}")
    return {
        "Enable": True,
        "Origins": origins,
        "Methods": _methods("CorsConfig.Methods", given.get("Methods", [ANY])),
        "Headers": _items("CorsConfig.Headers", given.get("Headers", [ANY]), _is_token, "a header's name"),
        "ExposeHeaders": _items("CorsConfig.ExposeHeaders", given.get("ExposeHeaders", []), _is_token, "a header's name"),
        "MaxAge": age,
        "Credentials": credentials,
    }


def _cors(config: Mapping[str, Any]) -> Cors | None:
    if not config:
        return None
    return Cors(
        origins=tuple(config["Origins"]),
        methods=tuple(config["Methods"]),
        headers=tuple(config["Headers"]),
        exposed=tuple(config["ExposeHeaders"]),
        max_age_seconds=config["MaxAge"],
        credentials=config["Credentials"],
    )


def _methods(field: str, value: Any) -> list[str]:
    """[*] is all of them; ANY is SCF's word for it."""
    found = _items(field, value, lambda item: item in (*METHODS, ANY, "ANY"), "a method", f"of {', '.join(METHODS)}, or *")
    return [ANY] if ANY in found or "ANY" in found else found


def _is_origin(item: str) -> bool:
    return item == ANY or _ORIGIN.fullmatch(item) is not None


def _is_token(item: str) -> bool:
    return _TOKEN.fullmatch(item) is not None  # * is one


def _items(field: str, value: Any, is_valid: Callable[[str], bool], what: str, hint: str = "") -> list[str]:
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise _wrong(field, f"not a list of at most {MAX_ITEMS}", hint)
    for item in value:
        if not isinstance(item, str) or not is_valid(item):
            raise _wrong(field, f"{shown(item)} is not {what}", hint)
    return list(dict.fromkeys(value))


def _object(field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(field, f"{shown(value)} is not an object")
    return {key: item for key, item in value.items() if item is not None}


def _flag(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(field, f"{shown(value)} is not true or false")
    return value


def _refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    if unknown := sorted(given.keys() - set(known)):
        raise BadRequest(f"{what}: unknown field {shown(unknown[0])}", field=what, hint=f"known are {', '.join(known)}")


def _wrong(field: str, why: str, hint: str = "") -> BadRequest:
    return BadRequest(f"config.{field}: {why}", field=f"config.{field}", hint=hint)
