"""SCF's TriggerDesc: a trigger's configuration as its API has it, a text, in both ways (scf-interface.md section 8).

type     text                                        config
timer    a bare cron, or {"cron": …}; shown as JSON  cron, argument (SCF's CustomArgument)
cos      {"event": …, "filter": …}                   these, and `bucket`, which in SCF is the trigger's name
others   JSON                                        that object
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final

import orjson

from server.errors import BadRequest
from server.functions.checks import shown
from server.triggers.kinds import OBJECT, TIMER
from server.triggers.model import Trigger
from server.triggers.objects import parse_bucket, parse_rule

_NUMBERED: Final = re.compile(r"(?P<told>.+)\.[2-9][0-9]*|(?P<more>.+)\.1[0-9]+")


def config_of(kind: str, name: str, text: str, argument: str | None = None) -> dict[str, Any]:
    """The configuration that a text means; `argument` None: not given. Raises BadRequest; what it says is checked by its kind."""
    if kind == TIMER:
        cron = _parsed(text).get("cron") if text.lstrip().startswith("{") else text
        return {"cron": cron} | ({} if argument is None else {"argument": argument})
    config = _parsed(text)
    return {"bucket": name, **config} if kind == OBJECT else config


def text_of(kind: str, config: Mapping[str, Any]) -> str:
    known = {"cron": config["cron"]} if kind == TIMER else {key: value for key, value in config.items() if key != "bucket"}
    return orjson.dumps(known).decode()


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise BadRequest(f"{shown(text)} is no JSON object", field="config")
    return value


def changed_config(trigger: Trigger, text: str | None, argument: str | None) -> dict[str, Any]:
    """The configuration with what is given of these; a timer keeps the rest of its own. Raises BadRequest."""
    if trigger.type != TIMER:
        return trigger.config if text is None else config_of(trigger.type, trigger.config.get("bucket", ""), text)
    given = {} if text is None else config_of(TIMER, trigger.name, text)
    return {**trigger.config, **given} | ({} if argument is None else {"argument": argument})


def told_name(trigger: Trigger) -> str:
    """SCF calls every object trigger of a bucket by the bucket's domain and tells them apart by their descriptions; here names are unique
    among a function's triggers, so a second one is stored as `domain.2`."""
    numbered = _NUMBERED.fullmatch(trigger.name) if trigger.type == OBJECT else None
    told = (numbered["told"] or numbered["more"]) if numbered else ""
    return told if told and _is_bucket(told, trigger.config) else trigger.name


def free_name(name: str, config: Mapping[str, Any], taken: Sequence[Trigger]) -> str:
    """The name that an object trigger which is told as `name` gets beside those. One with the same rule keeps it, and is refused."""
    names = {trigger.name for trigger in taken}
    if not _is_bucket(name, config) or any(told_name(one) == name and has_rule(one, config) for one in taken):
        return name
    return next(free for free in (name if number == 1 else f"{name}.{number}" for number in count(1)) if free not in names)


def has_rule(trigger: Trigger, config: Mapping[str, Any]) -> bool:
    """Whether an object trigger has the rule that a configuration means. Raises BadRequest."""
    return trigger.type == OBJECT and parse_rule(trigger.config) == parse_rule(config)


def _is_bucket(name: str, config: Mapping[str, Any]) -> bool:
    try:
        return "source" not in config and parse_bucket(name) == config["bucket"]
    except BadRequest:
        return False
