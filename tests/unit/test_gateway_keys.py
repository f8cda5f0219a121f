"""Keys: shown once, stored as digests, refused for a stated reason; and the command for them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from typer.testing import CliRunner

from atelier.errors import BadInput
from commands.admin import keys as command
from commands.main import app
from services.gateway.database import Database, DatabaseAway
from services.gateway.keys import KeyRefused, KeyStore, utc_now

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'keys.db'}"


@pytest.fixture
def store(url: str) -> KeyStore:
    return KeyStore(url)


def refused(store: KeyStore, key: str | None) -> str:
    with pytest.raises(KeyRefused) as caught:
        store.verify(key)
    return caught.value.reason


def test_a_new_key_works_and_its_record_shows_none_of_its_secret(store: KeyStore) -> None:
    key, record = store.create("studio", quota=5)
    assert store.verify(key) == record
    assert key.startswith(f"{record.prefix}_")
    secret = key.removeprefix(f"{record.prefix}_")
    assert len(secret) >= 43  # 256 bits in base64
    assert secret not in repr(record)


def test_the_database_never_holds_the_key(store: KeyStore, tmp_path: Path) -> None:
    key, record = store.create("studio")
    secret = key.removeprefix(f"{record.prefix}_").encode()
    stored = b"".join(file.read_bytes() for file in tmp_path.glob("keys.db*"))
    assert record.id.encode() in stored
    assert secret not in stored


@pytest.mark.parametrize("change", ["last", "first", "longer", "shorter"])
def test_a_changed_key_is_wrong(store: KeyStore, change: str) -> None:
    key, record = store.create("studio")
    place = {"last": len(key) - 1, "first": len(record.prefix) + 1}.get(change)
    if place is not None:
        other = "A" if key[place] != "A" else "B"
        key = key[:place] + other + key[place + 1 :]
    else:
        key = key + "A" if change == "longer" else key[:-1]
    assert refused(store, key) == "wrong"


@pytest.mark.parametrize(
    "key", ["x", "atl_", "atl__", "atl_a_b", "atl_%_x", "é" * 60, "a" * 100_000, "\udcff_a_b"]
)
def test_what_is_no_key_is_wrong(store: KeyStore, key: str) -> None:
    assert refused(store, key) == "wrong"


@pytest.mark.parametrize("key", [None, ""])
def test_no_key_is_missing(store: KeyStore, key: str | None) -> None:
    assert refused(store, key) == "missing"


def test_one_keys_secret_does_not_open_another(store: KeyStore) -> None:
    mine, _ = store.create("mine")
    _, other = store.create("other")
    assert refused(store, f"{other.prefix}_{mine.split('_', 2)[2]}") == "wrong"


def test_an_expired_key_is_refused_at_its_very_moment(url: str) -> None:
    moment = [NOW]
    store = KeyStore(url, clock=lambda: moment[0])
    key, _ = store.create("guest", expires=NOW + timedelta(hours=1))
    moment[0] = NOW + timedelta(minutes=59)
    store.verify(key)
    moment[0] = NOW + timedelta(hours=1)
    assert refused(store, key) == "expired"


def test_a_revoked_key_is_refused_from_the_next_call_on(store: KeyStore) -> None:
    key, record = store.create("guest")
    store.verify(key)
    first = store.revoke(record.prefix)
    assert refused(store, key) == "revoked"
    assert store.revoke("guest").revoked_at == first.revoked_at  # again changes nothing


def test_why_a_key_ended_is_told_to_its_holder_only(store: KeyStore) -> None:
    _, record = store.create("guest")
    store.revoke(record.id)
    assert refused(store, f"{record.prefix}_guessed") == "wrong"


def test_revoking_needs_one_key(store: KeyStore) -> None:
    store.create("twin")
    store.create("twin")
    with pytest.raises(BadInput, match="key 'twin': 2 keys match"):
        store.revoke("twin")
    with pytest.raises(BadInput, match="key 'nobody': no such key"):
        store.revoke("nobody")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("", {}),
        ("   ", {}),
        ("a\nb", {}),
        ("x" * 101, {}),
        ("ok", {"quota": 0}),
        ("ok", {"expires": NOW - timedelta(days=400)}),
    ],
)
def test_keys_that_cannot_be(store: KeyStore, name: str, options: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        store.create(name, **options)  # type: ignore[arg-type]
    assert store.list() == []


def test_another_schema_is_refused_with_both_numbers(url: str, store: KeyStore) -> None:
    database = Database(url)
    with database.write() as session:
        session.execute(text("UPDATE schema_version SET version = 99"))
    with pytest.raises(BadInput, match="has schema 99, but this gateway needs schema 1"):
        KeyStore(url)


def test_what_is_no_database_is_told_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no database at all " * 100)
    with pytest.raises(DatabaseAway, match=r"notes\.txt: unavailable: file is not a database"):
        KeyStore(f"sqlite:///{file}")
    assert file.read_text().startswith("no database at all")


def test_a_wrong_statement_of_ours_stays_a_fault(url: str, store: KeyStore) -> None:
    with pytest.raises(IntegrityError), Database(url).write() as session:
        session.execute(text("INSERT INTO api_keys (id) VALUES ('x')"))


def test_command_creates_lists_and_revokes() -> None:
    run = CliRunner().invoke
    made = json.loads(run(app, ["keys", "create", "bob", "--quota", "3", "--json"]).stdout)
    shown = run(app, ["keys", "list"]).stdout
    assert made["key"].startswith(made["prefix"]) and made["prefix"] in shown
    assert made["key"] not in shown
    listed = json.loads(run(app, ["keys", "list", "--json"]).stdout)["keys"]
    assert [(one["name"], one["quota"], one["state"]) for one in listed] == [("bob", 3, "active")]
    assert "key" not in listed[0] and "digest" not in listed[0]
    revoked = json.loads(run(app, ["keys", "revoke", "bob", "--json"]).stdout)
    assert revoked["state"] == "revoked"


def test_command_tells_what_is_wrong() -> None:
    answer = CliRunner().invoke(app, ["keys", "revoke", "nobody"])
    assert answer.exit_code == 2
    assert "key 'nobody': no such key" in answer.stderr
    assert "Traceback" not in answer.output


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30d", NOW + timedelta(days=30)),
        ("12h", NOW + timedelta(hours=12)),
        ("2w", NOW + timedelta(weeks=2)),
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T12:00+02:00", datetime(2027, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_expiry(text: str, moment: datetime) -> None:
    assert command.parse_expiry(text, NOW) == moment


@pytest.mark.parametrize("text", ["soon", "30", "999999w", "2027-13-01", "-3d"])
def test_expiry_that_cannot_be_read(text: str) -> None:
    with pytest.raises(BadInput, match="--expires"):
        command.parse_expiry(text, NOW)


def test_clock_is_in_utc() -> None:
    assert utc_now().tzinfo is UTC
