"""What `hearth up` checks before it starts anything."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.settings import Settings
from server.cli import prepare
from server.cli.failure import CommandError, WrongRequest
from server.cli.up import child_environment


def test_the_credential_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "credential"
    token = prepare.ensure_credential(path)
    assert len(token) >= 43
    assert path.stat().st_mode & 0o777 == 0o600
    assert prepare.ensure_credential(path) == token
    assert os.listdir(tmp_path) == ["credential"]


def test_an_empty_credential_of_an_interrupted_start_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "credential"
    path.touch()
    assert prepare.ensure_credential(path) == path.read_text().strip() != ""


def test_a_credential_that_others_can_read_is_narrowed_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "credential"
    path.write_text("secret\n")
    path.chmod(0o644)
    assert prepare.ensure_credential(path) == "secret"
    assert path.stat().st_mode & 0o777 == 0o600
    told = capsys.readouterr().err
    assert "could be read by others" in told
    assert "secret" not in told


def test_the_key_of_the_secrets_is_made_once_private_and_never_anew(tmp_path: Path) -> None:
    path = tmp_path / "secrets.key"
    key = prepare.ensure_secrets_key(path)
    assert len(base64.urlsafe_b64decode(key)) == 32 and path.stat().st_mode & 0o777 == 0o600
    assert prepare.ensure_secrets_key(path) == key
    path.write_text("")
    assert prepare.ensure_secrets_key(path) == ""
    assert os.listdir(tmp_path) == ["secrets.key"]


def test_a_second_instance_on_the_same_home_is_refused_with_the_owners_pid(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path), run=str(tmp_path))
    refusal = pytest.raises(CommandError, match=rf"another hearth serves {tmp_path} \(pid {os.getpid()}\)")
    with prepare.hold_lock(settings), refusal, prepare.hold_lock(settings):
        raise AssertionError("the lock was given twice")
    with prepare.hold_lock(settings):
        assert (tmp_path / "lock").read_text().strip() == str(os.getpid())


def test_a_second_instance_with_the_same_run_directory_is_refused(tmp_path: Path) -> None:
    homes = [tmp_path / "a", tmp_path / "b"]
    for home in homes:
        home.mkdir()
    first, second = (Settings(home=str(home), run=str(tmp_path)) for home in homes)
    refusal = pytest.raises(CommandError, match=f"another hearth has its sockets in {tmp_path}")
    with prepare.hold_lock(first), refusal, prepare.hold_lock(second):
        raise AssertionError("the first one's socket would be taken away")
    with prepare.hold_lock(second):
        assert (homes[1] / "lock").read_text().strip() == str(os.getpid())


def test_a_run_directory_too_long_for_a_socket_is_wrong_usage() -> None:
    fits = "/" + "r" * (107 - len("//sandboxd.sock"))
    prepare.check_socket_path(Settings(run=fits))
    with pytest.raises(WrongRequest, match="HEARTH_RUN is too long"):
        prepare.check_socket_path(Settings(run=fits + "r"))


def test_the_lock_of_a_killed_instance_is_free(tmp_path: Path) -> None:
    code = (
        "import os, sys; from sandbox.settings import Settings; from server.cli.prepare import hold_lock\n"
        "with hold_lock(Settings(home=sys.argv[1], run=sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    repository = Path(prepare.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=repository, check=False).returncode == -9
    with prepare.hold_lock(Settings(home=str(tmp_path), run=str(tmp_path))):
        assert (tmp_path / "lock").read_text().strip() == str(os.getpid())


@pytest.mark.parametrize("listen", ["9000", "localhost", "localhost:", ":9000", "h:0", "h:65536", "h:-1", "h:x"])
def test_a_listen_address_without_host_or_port_is_wrong_usage(listen: str) -> None:
    with pytest.raises(WrongRequest, match="HEARTH_LISTEN"):
        prepare.split_address(listen)


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::1]:9000", "http://[::1]:9000"),
        ("[::]:9000", "http://[::1]:9000"),
        ("localhost:1", "http://localhost:1"),
    ],
)
def test_the_url_of_a_listen_address_can_be_reached_from_here(listen: str, url: str) -> None:
    assert prepare.base_url(listen) == url


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CommandError, match=f"cannot listen on {listen}: Address already in use"):
            prepare.check_port(listen)
    prepare.check_port(listen)


def test_an_unknown_user_comes_with_the_command_that_makes_it() -> None:
    with pytest.raises(CommandError, match="no such user: nobody-of-hearth") as raised:
        prepare.find_user("nobody-of-hearth")
    assert raised.value.hint.startswith("useradd --system")


def test_root_is_refused_as_the_apis_user() -> None:
    with pytest.raises(CommandError, match="is root"):
        prepare.find_user("root")


@pytest.mark.requires("root")
def test_directories_have_their_owners_and_modes_whatever_the_umask(tmp_path: Path) -> None:
    account = prepare.find_user("nobody")
    settings = Settings(home=str(tmp_path / "a" / "home"), run=str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)
    old = os.umask(0o077)
    try:
        prepare.make_directories(settings, account)
        prepare.make_directories(settings, account)
    finally:
        os.umask(old)
    found = {
        path: (path.stat().st_mode & 0o7777, path.stat().st_uid) for path in (Path(settings.home), settings.images_dir, settings.state_dir)
    }
    assert list(found.values()) == [(0o755, 0), (0o755, 0), (0o750, account.pw_uid)]
    assert Path(settings.run).stat().st_mode & 0o7777 == 0o755


@pytest.mark.requires("root")
def test_a_home_of_somebody_else_or_open_to_others_is_refused(tmp_path: Path) -> None:
    account = prepare.find_user("nobody")
    settings = Settings(home=str(tmp_path / "home"), run=str(tmp_path / "run"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o777)
    with pytest.raises(CommandError, match="can be written by others"):
        prepare.make_directories(settings, account)
    (tmp_path / "home").chmod(0o755)
    os.chown(tmp_path / "home", account.pw_uid, 0)
    with pytest.raises(CommandError, match=f"belongs to uid {account.pw_uid}"):
        prepare.make_directories(settings, account)


def test_source_that_the_api_could_not_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    file.touch(mode=0o600)
    with pytest.raises(CommandError, match=f"user hearth can't read {file}"):
        prepare.check_readable([file], "hearth")


def test_children_get_every_setting_and_no_credential(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sandbox.settings import load

    monkeypatch.setenv("HEARTH_TOKEN", "secret")
    settings = Settings(home=str(tmp_path), strict_runtimes=True, keep_alive_seconds=1.5)
    environment = child_environment(settings)
    assert "HEARTH_TOKEN" not in environment
    assert load(environment) == settings
