"""Settings, the error tree, the state table and log lines: the words that everything else relies on."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox import errors, log, settings, states
from sandbox.errors import BY_CODE, ConfigError, SandboxError, leaves


def config(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "hearth.toml"
    path.write_text(text)
    return {"HEARTH_CONFIG": str(path)}


def test_without_file_and_environment_the_defaults_hold() -> None:
    assert settings.load({}) == settings.Settings()


def test_file_then_environment_then_argument_win(tmp_path: Path) -> None:
    environ = config(tmp_path, "workers = 3\nprepared = 7\nlimit_functions = 30\n") | {"HEARTH_WORKERS": "4", "HEARTH_PREPARED": "8"}
    conf = settings.load(environ, workers=5)
    assert (conf.workers, conf.prepared, conf.limit_functions) == (5, 8, 30)


def test_an_argument_of_none_changes_nothing() -> None:
    assert settings.load({"HEARTH_WORKERS": "4"}, workers=None).workers == 4


def test_every_setting_can_be_given_by_its_environment_name() -> None:
    for row in settings.describe():
        parsed = {
            "nat_range": "10.1.0.0/16",
            "nat_allow": "10.1.2.3:80",
            "nat_dns": "10.1.2.3",
            "public_url": "https://functions.example.org",
            "http_domain": "fn.example.org",
            "trusted_proxies": "10.0.0.0/8, ::1",
            "timer_zone": "UTC",
            "bucket_hosts": "a:1=b",
            "watch_dirs": "/srv/in, /var/in",
            "function_buckets": "read",
        }
        text = parsed.get(row["name"], "x")
        value = {"bool": "true", "str": text, "int": row["default"], "float": row["default"]}[row["type"]]
        loaded = settings.load({row["environment"]: str(value)})
        assert getattr(loaded, row["name"]) == (True if row["type"] == "bool" else value), row["name"]


def test_every_default_is_within_its_own_bounds() -> None:
    for row in settings.describe():
        settings.load({}, **{row["name"]: row["default"]})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("nat_range", "10.0.0.0/23", ["smaller than /22"]),
        ("nat_range", "10.0.0.1/16", ["nat_range", "host bits"]),
        ("nat_allow", "10.0.0.1:0", ["nat_allow", "port"]),
        ("nat_allow", "localhost", ["nat_allow"]),
        ("nat_dns", "2001:db8::1", ["nat_dns"]),
        ("workers", "many", ["workers", "'many'", "int"]),
        ("workers", "0", ["workers", "0", "out of range"]),
        ("workers", "65", ["workers", "65", "out of range"]),
        ("workers", "", ["workers", "''"]),
        ("strict_runtimes", "perhaps", ["strict_runtimes", "'perhaps'", "bool"]),
        ("keep_alive_seconds", "-1", ["keep_alive_seconds", "-1.0"]),
        ("memory_reserve_percent", "91", ["memory_reserve_percent", "91.0"]),
    ],
)
def test_a_bad_value_is_refused_with_name_and_value(name: str, value: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.load({f"HEARTH_{name.upper()}": value})
    assert all(word in caught.value.message for word in words), caught.value.message


def test_the_two_ports_for_functions_are_two() -> None:
    # Both sockets are bound with SO_REUSEPORT: the kernel would share the connections out between the two services.
    with pytest.raises(ConfigError, match="nat_bucket_port: 9080"):
        settings.load({"HEARTH_NAT_BUCKET_PORT": "9080"})
    assert settings.load({"HEARTH_NAT_BUCKET_PORT": "9080", "HEARTH_FUNCTION_BUCKETS": "off"}).nat_bucket_port == 9080
    assert settings.load({"HEARTH_NAT_BUCKET_PORT": "0", "HEARTH_NAT_API_PORT": "0"}).nat_bucket_port == 0


def test_what_is_out_of_range_says_the_range() -> None:
    with pytest.raises(ConfigError) as caught:
        settings.load({"HEARTH_WORKERS": "65"})
    assert caught.value.hint == "it takes 1 to 64"


@pytest.mark.parametrize("text", ["true", "True", "1"])
def test_yes_is_spelled_in_these_ways(text: str) -> None:
    assert settings.load({"HEARTH_CPU_HARD_CAP": text}).cpu_hard_cap is True


def test_an_unknown_name_in_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown setting 'keep_alife_seconds'"):
        settings.load(config(tmp_path, "keep_alife_seconds = 3\n"))


def test_everything_that_is_wrong_is_told_at_once_a_line_each(tmp_path: Path) -> None:
    environ = config(tmp_path, 'wrokers = 2\nprepared = "few"\nkeep_alive_seconds = -1\nnat_dns = "nowhere"\n') | {"HEARTH_WORKERS": "0"}
    with pytest.raises(ConfigError) as caught:
        settings.load(environ)
    path = environ["HEARTH_CONFIG"]
    assert caught.value.message.splitlines() == [
        f"{path}: unknown setting 'wrokers' (see the settings table in README.md)",
        "setting workers: 0 is out of range (it takes 1 to 64)",
        f"{path}: setting prepared: 'few' is not a int",
        f"{path}: setting keep_alive_seconds: -1.0 is out of range (it takes at least 0)",
        f"{path}: setting nat_dns: Expected 4 octets in 'nowhere'",
    ]
    assert caught.value.hint == ""


def test_a_file_that_may_not_be_read_is_no_empty_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: str, mode: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ConfigError, match="can't be read"):
        settings.load({})


def test_a_file_that_does_not_parse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hearth\.toml"):
        settings.load(config(tmp_path, "workers = \n"))


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        settings.load({"HEARTH_CONFIG": str(tmp_path / "none.toml")})


def test_two_homes_are_two_instances_and_a_link_is_the_same(tmp_path: Path) -> None:
    first, second, link = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    first.mkdir()
    link.symlink_to(first)
    one, other, same = (settings.load({}, home=str(home)) for home in (first, second, link))
    assert one.instance == same.instance != other.instance
    assert len(one.instance) == 8
    assert int(one.instance, 16) >= 0


def test_uids_of_an_instance_fit_into_its_range_and_below_the_sign_bit() -> None:
    from sandbox.slots import MAX_SLOTS

    lowest, highest = (0x10000000 + number * 0x2000 for number in (0, 0xFFFF))
    assert lowest <= settings.Settings().first_uid <= highest
    assert highest + MAX_SLOTS < 1 << 31
    assert settings.load({}, uid_base=5000).first_uid == 5000


# ---- errors ------------------------------------------------------------------------------------------------------


def classes(root: type[SandboxError]) -> list[type[SandboxError]]:
    return [root, *(below for child in root.__subclasses__() for below in classes(child))]


def test_every_leaf_has_a_code_of_its_own() -> None:
    codes = [leaf.code for leaf in leaves()]
    assert len(codes) == len(set(codes)) == len(BY_CODE)
    assert all(BY_CODE[leaf.code] is leaf for leaf in leaves())


def test_leaves_have_no_subclass_and_leave_none_out() -> None:
    assert set(leaves()) == {kind for kind in classes(SandboxError) if not kind.__subclasses__()}


def test_a_refusal_touches_no_sandbox_and_the_fates_are_the_design_s() -> None:
    fates = {leaf.code: leaf.fate for leaf in leaves()}
    assert {code for code, fate in fates.items() if fate == "keep"} == {"handler_error", "event_invalid", "reply_too_large"}
    assert all(leaf.fate == "none" for leaf in leaves(errors.Refused))
    assert all(leaf.fate in ("keep", "destroy") for leaf in leaves(errors.InvocationFailed))


def test_a_launch_error_names_the_place_and_the_reason() -> None:
    error = errors.LaunchError("init", "step 3 mount", 2, "/proc", hint="look there")
    assert error.message == "init: step 3 mount /proc: No such file or directory"
    assert (error.stage, error.step, error.errno, error.path, error.hint) == ("init", "step 3 mount", 2, "/proc", "look there")
    assert errors.LaunchError("init", "ended").message == "init: ended: failed"


def test_every_leaf_can_be_made_from_a_message_but_the_launch_error() -> None:
    for leaf in leaves():
        if leaf is not errors.LaunchError:
            assert leaf("text", hint="do").message == "text"


# ---- states ------------------------------------------------------------------------------------------------------


ALL = {value for name, value in vars(states).items() if name.isupper() and isinstance(value, str)}


def reachable(start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        state = waiting.pop()
        if state not in seen:
            seen.add(state)
            waiting += states.FOLLOWS[state]
    return seen


def test_the_table_knows_every_state_and_no_other() -> None:
    assert set(states.FOLLOWS) == ALL
    assert set().union(*states.FOLLOWS.values()) <= ALL


def test_every_state_is_reached_and_every_state_ends_closed() -> None:
    assert reachable(states.CREATING) == ALL
    assert all(states.CLOSED in reachable(state) for state in ALL)


def test_everything_alive_can_be_closed_and_nothing_comes_back() -> None:
    assert all(states.CLOSING in after for state, after in states.FOLLOWS.items() if state not in (states.CLOSING, states.CLOSED))
    assert states.FOLLOWS[states.CLOSING] == {states.CLOSED}
    assert not states.FOLLOWS[states.CLOSED]


def test_a_sandbox_that_had_a_function_is_never_prepared_again() -> None:
    assert states.PREPARED not in reachable(states.SPECIALISING)


# ---- log lines ---------------------------------------------------------------------------------------------------


def test_pairs_quote_what_has_spaces() -> None:
    assert log.pairs("sandbox closed", id=3, why="no memory") == "sandbox closed id=3 why='no memory'"


def test_records_go_to_stderr_with_the_process_and_above_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    root = logging.getLogger()
    before: Any = (root.handlers[:], root.level)
    try:
        log.configure("sandboxd", "warning")
        logging.getLogger("x").info("quiet")
        logging.getLogger("x").warning("loud")
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
    assert "quiet" not in text.getvalue()
    assert "sandboxd[" in text.getvalue()
    assert text.getvalue().endswith("WARNING loud\n")
