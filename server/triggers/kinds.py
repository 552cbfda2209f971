"""The types of triggers there are, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo

from sandbox.settings import Settings
from server.errors import BadRequest
from server.functions.checks import shown
from server.triggers import cron
from server.triggers.http import HttpKind
from server.triggers.model import Kind, Trigger

TIMER: Final = "timer"
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

    def shown(self, trigger: Trigger) -> dict[str, Any]:
        return trigger.config

    def zone(self, config: Mapping[str, Any]) -> ZoneInfo:
        return ZoneInfo(config.get("zone") or self._zone)


def kinds(settings: Settings) -> dict[str, Kind]:
    known: list[Kind] = [TimerKind(settings), HttpKind(settings)]
    return {kind.name: kind for kind in known}
