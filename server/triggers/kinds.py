"""The types of triggers there are, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, select

from sandbox.settings import Settings
from server.errors import BadRequest, Conflict
from server.functions.checks import shown
from server.store.engine import next_numbers
from server.store.tables import FUNCTIONS_COUNTER, sources, triggers
from server.triggers import cron
from server.triggers.directories import DirectoryKind
from server.triggers.http import HttpKind
from server.triggers.model import Kind, Trigger
from server.triggers.objects import SOURCE_NAME, ObjectRule, conflicts, parse_bucket, parse_bucket_elsewhere, parse_rule

TIMER: Final = "timer"
OBJECT: Final = "cos"
#: SCF's CustomArgument, bytes of UTF-8.
MAX_ARGUMENT_BYTES: Final = 4096


class TimerKind:
    """config: {"cron": SCF's expression, "argument": text for the event's Message, "zone": a time zone, null for the setting's}."""

    name = TIMER
    one_per_qualifier = False

    def __init__(self, settings: Settings) -> None:
        self._zone = settings.timer_zone

    def limit(self, settings: Settings) -> int:
        return settings.limit_timers

    def checked(self, config: Mapping[str, Any]) -> dict[str, Any]:
        if unknown := sorted(config.keys() - {"cron", "argument", "zone"}):
            raise BadRequest(f"config: unknown field {shown(unknown[0])}", field="config", hint="a timer has cron, argument, zone")
        expression, argument, zone = config.get("cron"), config.get("argument"), config.get("zone")
        if not isinstance(expression, str):
            raise BadRequest("config.cron is missing", field="config.cron", hint='"0 */5 * * * * *" is every five minutes')
        argument = "" if argument is None else argument
        if not isinstance(argument, str) or len(argument.encode(errors="surrogatepass")) > MAX_ARGUMENT_BYTES or "\0" in argument:
            raise BadRequest(f"config.argument is no text of at most {MAX_ARGUMENT_BYTES} bytes", field="config.argument")
        try:
            argument.encode()
            if zone is not None:
                ZoneInfo(zone)
        except UnicodeEncodeError:
            raise BadRequest("config.argument is no Unicode text", field="config.argument") from None
        except (KeyError, ValueError, OSError, TypeError):
            raise BadRequest(f"config.zone: {shown(zone)} is no time zone", field="config.zone", hint="as in Europe/Berlin") from None
        cron.parse(expression)  # raises
        return {"cron": " ".join(expression.split()), "argument": argument, "zone": zone}

    def next_at(self, config: Mapping[str, Any], after: float) -> float | None:
        return cron.parse(config["cron"]).next_tick(after, self.zone(config))

    def admit(self, connection: Connection, config: Mapping[str, Any], trigger_id: str) -> None:
        return

    def shown(self, trigger: Trigger) -> dict[str, Any]:
        return trigger.config

    def zone(self, config: Mapping[str, Any]) -> ZoneInfo:
        return ZoneInfo(config.get("zone") or self._zone)


class ObjectKind:
    """config: {"bucket": its whole name (name-appid), "event": "cos:ObjectCreated:*", "filter": {"Prefix", "Suffix"}}; with `source` the
    bucket is that of another store, which sends notifications (server.notifications)."""

    name = OBJECT
    one_per_qualifier = False

    def limit(self, settings: Settings) -> int:
        return settings.limit_object_triggers

    def checked(self, config: Mapping[str, Any]) -> dict[str, Any]:
        if unknown := sorted(config.keys() - {"bucket", "event", "filter", "source"}):
            raise BadRequest(
                f"config: unknown field {shown(unknown[0])}", field="config", hint="an object trigger has bucket, event, filter, source"
            )
        bucket = config.get("bucket")
        if not isinstance(bucket, str):
            raise BadRequest("config.bucket is missing", field="config.bucket", hint="the bucket's whole name, as in photos-1250000000")
        rule = parse_rule(config)
        described = {"event": rule.event, "filter": {"Prefix": rule.prefix, "Suffix": rule.suffix}}
        source = config.get("source")
        if source in (None, ""):
            return {"bucket": parse_bucket(bucket), **described}
        if not isinstance(source, str) or SOURCE_NAME.fullmatch(source) is None:
            raise BadRequest(f"config.source: {shown(source)} is no source's name", field="config.source")
        return {"source": source, "bucket": parse_bucket_elsewhere(bucket), **described}

    def next_at(self, config: Mapping[str, Any], after: float) -> float | None:
        return None

    def admit(self, connection: Connection, config: Mapping[str, Any], trigger_id: str) -> None:
        """SCF's CosNotifyRuleConflict: each change of an object calls one function at most."""
        next_numbers(connection, FUNCTIONS_COUNTER)  # one at a time, or two that conflict could pass together
        if (source := config.get("source")) is not None and not connection.execute(select(sources).where(sources.c.name == source)).first():
            raise BadRequest(
                f"config.source: there is no source {source!r}", field="config.source", hint="`hearth source create` makes one"
            )
        query = select(triggers).where(triggers.c.type == OBJECT, triggers.c.trigger_id != trigger_id)
        rule = ObjectRule.of_config(config)
        for other in (Trigger.from_row(row) for row in connection.execute(query).mappings()):
            if _place(other.config) == _place(config) and conflicts(rule, ObjectRule.of_config(other.config)):
                raise Conflict(
                    f"bucket {config['bucket']}: trigger {other.name!r} of function {other.function} takes some of the same events",
                    hint="events, prefixes and suffixes of a bucket's triggers must not overlap",
                    code="cos_notify_rule_conflict",
                )

    def shown(self, trigger: Trigger) -> dict[str, Any]:
        return trigger.config


def _place(config: Mapping[str, Any]) -> tuple[str, str]:
    """Which bucket an object trigger means: whose, and its name."""
    return config.get("source", ""), config["bucket"]


def kinds(settings: Settings) -> dict[str, Kind]:
    known: list[Kind] = [TimerKind(settings), ObjectKind(), DirectoryKind(settings), HttpKind(settings)]
    return {kind.name: kind for kind in known}
