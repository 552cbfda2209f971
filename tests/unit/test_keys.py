"""Secret pairs: made once, listed without their secrets, bound to their rights, gone when revoked; nonces are good once."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from sandbox.errors import ConfigError
from sandbox.settings import Settings
from server.errors import BadRequest, NotFound
from server.keys.credentials import Credential, Credentials, InvalidToken, UnknownSecretId
from server.keys.nonces import Nonces
from server.keys.service import Keys
from server.keys.vault import Vault, vault_key
from server.store import open_database, writing
from server.store.tables import keys as table
from server.store.tables import nonces as nonces_table

KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(Settings(home=str(tmp_path)))
    yield engine
    engine.dispose()


@pytest.fixture
def keys(engine: Engine) -> Keys:
    return Keys(engine, Vault(KEY))


def test_a_pair_looks_like_tencents_and_is_found_again_with_its_secret(keys: Keys) -> None:
    pair, secret = keys.create({"scope": "invoke", "namespace": "alice", "description": "für Tests"})
    assert pair.secret_id.startswith("AKID") and len(pair.secret_id) == 36 and pair.secret_id.isalnum() and len(secret) == 32
    assert keys.find(pair.secret_id) == (pair, secret)
    assert (pair.scope, pair.namespace, pair.description) == ("invoke", "alice", "für Tests")
    assert keys.find("AKIDnobody") is None


def test_without_wishes_a_pair_is_good_for_everything(keys: Keys) -> None:
    pair, _ = keys.create({})
    assert (pair.scope, pair.namespace) == ("all", "")
    shown = pair.to_json()
    assert shown["namespace"] is None and "secret_key" not in shown and "sealed" not in shown


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"scope": "write"}, "scope"),
        ({"scope": ["all"]}, "scope"),
        ({"namespace": "a b"}, "namespace"),
        ({"namespace": ""}, "namespace"),
        ({"description": "two\nlines"}, "description"),
        ({"description": "x" * 1001}, "description"),
        ({"description": 7}, "description"),
        ({"secret_key": "mine"}, "secret_key"),
        ([], ""),
    ],
)
def test_a_wrong_wish_is_refused_and_nothing_is_made(keys: Keys, given: Any, field: str) -> None:
    with pytest.raises(BadRequest) as raised:
        keys.create(given)
    assert raised.value.field == field and keys.list() == []


def test_a_revoked_pair_is_gone_for_every_process_at_once(engine: Engine, keys: Keys) -> None:
    another = Keys(engine, Vault(KEY))
    pair, _ = keys.create({})
    kept, _ = keys.create({})
    assert another.find(pair.secret_id)
    keys.revoke(pair.secret_id)
    assert another.find(pair.secret_id) is None and keys.list() == [kept]
    for unknown in (pair.secret_id, "a b", "\0", "x" * 500, "\ud800"):
        with pytest.raises(NotFound):
            keys.revoke(unknown)


def test_the_database_alone_holds_no_secret(engine: Engine, keys: Keys) -> None:
    pair, secret = keys.create({})
    with engine.connect() as connection:
        row = connection.execute(select(table)).one()
    assert all(secret.encode() not in (value if isinstance(value, bytes) else str(value).encode()) for value in row)
    stolen = Keys(engine, Vault(base64.urlsafe_b64encode(os.urandom(32)).decode()))
    with pytest.raises(ConfigError, match="can't be decrypted"):
        stolen.find(pair.secret_id)


@pytest.mark.parametrize("changes", [{"scope": "all"}, {"namespace": ""}, {"secret_id": "AKIDother"}])
def test_a_row_that_was_given_other_rights_opens_no_more(engine: Engine, keys: Keys, changes: dict[str, str]) -> None:
    pair, _ = keys.create({"scope": "invoke", "namespace": "alice"})
    with writing(engine) as connection:
        connection.execute(update(table).values(**changes))
    with pytest.raises(ConfigError):
        keys.find(changes.get("secret_id", pair.secret_id))


@pytest.mark.parametrize("key", ["short", "%%%", KEY[:-8], "é"])
def test_a_key_that_is_none_is_refused_and_not_told(key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Vault(key)
    assert key not in raised.value.message


def test_without_a_key_there_are_no_secrets_but_a_clear_error(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="HEARTH_SECRETS_KEY"):
        Keys(engine, Vault("")).create({})


def test_the_key_comes_from_the_environment_or_from_its_file(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path))
    assert vault_key(settings, {}) == ""
    settings.secrets_key_path.write_text(f"{KEY}\n")
    assert vault_key(settings, {}) == KEY
    assert vault_key(settings, {"HEARTH_SECRETS_KEY": "other"}) == "other"


def test_what_is_signed_for_one_purpose_is_not_for_another() -> None:
    vault = Vault(KEY)
    assert vault.mac("a", "message") == Vault(KEY).mac("a", "message")
    assert len({vault.mac("a", "message"), vault.mac("b", "message"), vault.mac("a", "massage")}) == 3


async def run(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


async def test_temporary_credentials_are_asked_of_who_knows_them(keys: Keys) -> None:
    credentials = Credentials(keys, run)
    pair, secret = keys.create({"scope": "read"})
    # a token beside a pair of the table means nothing
    assert await credentials.find(pair.secret_id, "token") == Credential(pair.secret_id, secret, "read", "")
    with pytest.raises(UnknownSecretId):
        await credentials.find("AKIDtemporary")
    with pytest.raises(InvalidToken):
        await credentials.find("AKIDtemporary", "token")

    async def resolve(secret_id: str, token: str) -> Credential | None:
        return Credential(secret_id, "k", "invoke", "default") if token == "good" else None

    credentials.resolve = resolve
    assert (await credentials.find("AKIDtemporary", "good")).scope == "invoke"
    with pytest.raises(InvalidToken):
        await credentials.find("AKIDtemporary", "bad")
    assert (await credentials.find(pair.secret_id)).scope == "read"


def test_a_credential_does_not_show_its_secret() -> None:
    assert "hidden" not in repr(Credential("AKID", "hidden", "all", ""))


def test_a_nonce_is_good_once_by_secret_id_until_its_time_is_over(engine: Engine) -> None:
    nonces, others = Nonces(engine), Nonces(engine)
    assert nonces.use("a", "1", now=100, good_until=200)
    assert not others.use("a", "1", now=150, good_until=300)
    assert others.use("b", "1", now=150, good_until=300) and others.use("a", "2", now=150, good_until=300)
    assert nonces.use("a", "1", now=201, good_until=400)
    nonces.use("a", "9", now=500, good_until=600)
    with engine.connect() as connection:
        assert [row.nonce for row in connection.execute(select(nonces_table))] == ["9"]
