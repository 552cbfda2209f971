"""SCF's TriggerDesc: a trigger's configuration as its API has it, a text, in both ways (scf-interface.md section 8).

type     text                                        config
timer    a bare cron, or {"cron": …}; shown as JSON  cron, argument (SCF's CustomArgument)
cos      {"event": …, "filter": …}                   these, and `bucket`, which in SCF is the trigger's name
others   JSON                                        that object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from server.errors import BadRequest
from server.functions.checks import shown
from server.triggers.kinds import TIMER
from server.triggers.model import Trigger

OBJECT: Final = "cos"


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
        return trigger.config if text is None else config_of(trigger.type, trigger.name, text)
    given = {} if text is None else config_of(TIMER, trigger.name, text)
    return {**trigger.config, **given} | ({} if argument is None else {"argument": argument})
