"""Schemathesis' hooks: what a schema cannot say is put into the values it makes, so that valid ones can really be accepted.

A wrong value stays as it is. Half of the names are those of a function that exists (never for DELETE).
"""

from __future__ import annotations

import base64
import copy
import io
import re
import zipfile
from typing import Any

import schemathesis

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,58}[A-Za-z0-9]")
BASE64 = re.compile(r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
HANDLER = re.compile(r"[A-Za-z0-9_./-]{1,128}\.[A-Za-z_][A-Za-z0-9_]{0,127}")
RUNTIME = re.compile(r"python[23](\.[0-9]{1,2})?", re.IGNORECASE)
RANGE = re.compile(r"\(-?[0-9]+,-?[0-9]+\)|\[-?[0-9]+,-?[0-9]+\]")
ROUTING_KEY = "X-Scf-Routing-Key"
LAYER = re.compile(r"[A-Za-z]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?")
ACTION = re.compile(r"[A-Za-z0-9_-]{1,60}")
QUOTAS_MB = {"reserved_mb": (0, (1 << 40) - 1, 2000), "total_mb": (1, 1_280_000, 128_000)}
EXISTING = "hello"
EXISTING_LAYER = {"name": "shared", "version": 1}


def package() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("index.py", "def main_handler(event, context):\n    return event\n")
    return out.getvalue()


PACKAGE = package()


def improved(value: Any, pattern: re.Pattern[str], better: str) -> Any:
    return better if isinstance(value, str) and pattern.fullmatch(value) else value


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    _improve_path(case)
    _improve_query(case)
    _improve_headers(case)
    if isinstance(case.body, bytes) and case.operation.path.endswith("/code"):
        case.body = PACKAGE
    elif isinstance(case.body, dict) and not case.operation.path.endswith("/invocations"):
        case.body = _improved_body(case.body)


def _improve_path(case: Any) -> None:
    names = case.path_parameters or {}
    if case.method.upper() == "DELETE":
        for key in ("name", "layer"):
            if names.get(key) in (EXISTING, EXISTING_LAYER["name"]):
                names[key] = "other"  # a link led here from the answer about one that the other cases need
        return
    for key, pattern, better in (("name", NAME, EXISTING), ("layer", LAYER, EXISTING_LAYER["name"])):
        name = names.get(key)
        if isinstance(name, str) and pattern.fullmatch(name) and len(name) % 2:
            names[key] = better
    if names.get("layer") == EXISTING_LAYER["name"] and str(names.get("layer_version", "")).isdecimal():
        names["layer_version"] = EXISTING_LAYER["version"]


def _improve_query(case: Any) -> None:
    """No streams without an end, no long waits, and of the namespaces half that exists."""
    query = case.query or {}
    namespace = query.get("namespace")
    if isinstance(namespace, str) and NAME.fullmatch(namespace) and len(namespace) % 2:
        query["namespace"] = "default"
    if query.get("follow") in ("1", "true"):
        query["follow"] = "0"
    if isinstance(query.get("wait"), (int, float)) and 0 <= query["wait"] <= 60:
        query["wait"] = min(query["wait"], 0.01)


def _improve_headers(case: Any) -> None:
    """JSON in a header, which a schema can't ask for."""
    if ROUTING_KEY in (case.headers or {}):
        case.headers[ROUTING_KEY] = '{"user": "7"}'


def _improved_body(body: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(body)
    for holder in (changed, changed.get("code")):
        if isinstance(holder, dict) and "zip" in holder:
            holder["zip"] = improved(holder["zip"], BASE64, base64.b64encode(PACKAGE).decode())
    for field, pattern, better in (("handler", HANDLER, "index.main_handler"), ("runtime", RUNTIME, "python3")):
        if field in changed:
            changed[field] = improved(changed[field], pattern, better)
    routing = changed.get("routing")
    for rule in routing.get("matches") or [] if isinstance(routing, dict) else []:
        if isinstance(rule, dict) and rule.get("method") == "range":
            rule["expression"] = improved(rule.get("expression"), RANGE, "[1,5]")
    if isinstance(changed.get("layers"), list) and changed["layers"] and all(map(_is_layer, changed["layers"])):
        changed["layers"] = [EXISTING_LAYER]
    # Quotas that leave room for the calls of other requests.
    for field, (least, most, roomy) in QUOTAS_MB.items():
        if type(changed.get(field)) is int and least <= changed[field] <= most:
            changed[field] = roomy
    for trigger in (changed, *(changed.get("triggers") or [] if isinstance(changed.get("triggers"), list) else [])):
        _improve_trigger(trigger)
    if isinstance(changed.get("configuration"), dict):
        changed["configuration"] = _improved_body(changed["configuration"])
    if isinstance(changed.get("dead_letter"), dict):
        _improve_target(changed["dead_letter"])
    if isinstance(changed.get("schedule"), list):
        for index, action in enumerate(changed["schedule"]):
            _improve_action(action, index)
    return changed


def _is_layer(item: Any) -> bool:
    """Whether it could be a layer's version, if only there were such a one."""
    right = isinstance(item, dict) and set(item) == {"name", "version"} and isinstance(item["name"], str)
    return right and bool(LAYER.fullmatch(item["name"])) and type(item["version"]) in (int, float) and 0 < item["version"] < 2**31


def _improve_trigger(trigger: Any) -> None:
    """A timer that is one: the types have configurations of their own, of which the document describes the timer's."""
    config = trigger.get("config") if isinstance(trigger, dict) else None
    if not isinstance(config, dict) or not all(isinstance(config.get(key, ""), (str, type(None))) for key in ("argument", "zone")):
        return
    if isinstance(config.get("cron", ""), str):
        trigger["config"] = {"cron": "0 */5 * * * * *", "argument": "hello"}
        if trigger.get("type") in ("cos", "directory", "http"):
            trigger["type"] = "timer"


def _improve_target(letter: dict[str, Any]) -> None:
    """Of each type of dead letters' targets one that is one."""
    right = {"file": "letters", "url": "http://127.0.0.1:9/", "function": "letters"}
    if isinstance(letter.get("target", ""), (str, type(None))) and isinstance(letter.get("type"), str) and letter["type"] in right:
        letter["target"] = right[letter["type"]]


def _improve_action(action: Any, index: int) -> None:
    """A cron expression that is one, and a name that no other action has."""
    if isinstance(action, dict) and isinstance(action.get("cron"), str):
        action["cron"] = "0 0 8 * * MON-FRI *"
    if isinstance(action, dict) and isinstance(action.get("name"), str) and ACTION.fullmatch(action["name"]):
        action["name"] = f"action-{index}"
