"""One way to open the gateway's database, sqlite or PostgreSQL, with its schema checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, insert, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
    TimeoutError,
)
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from atelier.addresses import redact
from atelier.errors import BadInput, Unavailable
from services.gateway.tables import SCHEMA_VERSION, SchemaVersion, Table

# How long a writer waits for another one before the caller is told that the database is busy.
BUSY_SECONDS = 10
CONNECT_SECONDS = 3
POOL_SIZE = 10
RETRY_AFTER = 1.0
# Any constant: it is the name of the lock under which two starting gateways create the schema.
SCHEMA_LOCK = 0x61746C

# The execution option by which the sqlite hook below tells a look from a change.
READ_ONLY = "atelier_read_only"


class DatabaseAway(Unavailable):
    """The database cannot be reached, is full or broken, or is busy for too long."""


class Database:
    """Connections to one database, and the two kinds of work done on it: reading and writing."""

    def __init__(self, url: str) -> None:
        self.url = parse_url(url)
        self._engine = _sqlite(self.url) if _is_sqlite(self.url) else _postgresql(self.url)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that commits on leaving the block, and rolls back on an error."""
        with (
            self._translated(),
            Session(self._engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction for looking only: on sqlite it waits for no writer."""
        engine = self._engine.execution_options(**{READ_ONLY: True})
        with self._translated(), Session(engine, expire_on_commit=False) as session:
            yield session

    def prepare(self) -> None:
        """Create the schema where there is none, and refuse one of another version."""
        with self.write() as session:
            if not _is_sqlite(self.url):
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEMA_LOCK})
            Table.metadata.create_all(session.connection())
            found = session.scalars(select(SchemaVersion.version)).all()
            if not found:
                session.execute(insert(SchemaVersion).values(version=SCHEMA_VERSION))
        if found and found != [SCHEMA_VERSION]:
            raise BadInput(
                f"the database {self} has schema {found[0]}, this gateway needs {SCHEMA_VERSION}: "
                "run the gateway version that made it, or point ATELIER_DATABASE_URL elsewhere."
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """A database that cannot be asked is DatabaseAway; a wrong statement of ours is not."""
        try:
            yield
        except (OperationalError, InterfaceError, TimeoutError) as error:
            raise self._away(error) from error
        except DatabaseError as error:
            if type(error) is not DatabaseError:  # its children tell of our statements
                raise
            raise self._away(error) from error

    def _away(self, error: SQLAlchemyError) -> DatabaseAway:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        text = f"the database {self} does not answer: {reason}; see ATELIER_DATABASE_URL"
        return DatabaseAway(text, retry_after=RETRY_AFTER)

    def close(self) -> None:
        self._engine.dispose()

    def __str__(self) -> str:
        return redact(self.url.render_as_string(hide_password=True))


def parse_url(url: str) -> URL:
    """`url` as SQLAlchemy reads it; BadInput unless it names a sqlite file or a PostgreSQL."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise BadInput("ATELIER_DATABASE_URL is not a database address.") from None
    if "@" in (parsed.host or ""):  # the driver's error would name it, a part of the password too
        raise BadInput(
            "ATELIER_DATABASE_URL: percent-encode the special characters of user and password."
        )
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in {"sqlite", "sqlite+pysqlite", "postgresql+psycopg"}:
        raise BadInput(
            f"ATELIER_DATABASE_URL begins with {parsed.drivername}://: "
            "use sqlite:///file.db or postgresql://user:password@host/name."
        )
    if _is_sqlite(parsed) and parsed.database in {None, "", ":memory:"}:
        raise BadInput(
            "ATELIER_DATABASE_URL needs a file: sqlite:///relative.db or sqlite:////abs.db."
        )
    return parsed


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _postgresql(url: URL) -> Engine:
    return create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=POOL_SIZE,
        pool_timeout=BUSY_SECONDS,
        pool_pre_ping=True,  # a restarted server costs one reconnection, not one failed request
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "options": f"-c statement_timeout={BUSY_SECONDS * 1000}",
        },
    )


def _sqlite(url: URL) -> Engine:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def _on_sqlite_connect(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # readers and the one writer do not block each other
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _on_sqlite_begin(connection: Connection) -> None:
    """Begin as a writer from the start.

    The driver's own deferred transaction turns into a writer at its first change, and where
    another writer came first sqlite then fails at once instead of waiting.
    """
    reading = connection.get_execution_options().get(READ_ONLY)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
