"""Open the gateway's database, SQLite or PostgreSQL, and check its schema."""

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

BUSY_SECONDS = 10  # longest wait of a writer for another writer, before DatabaseAway is raised
CONNECT_SECONDS = 3
POOL_SIZE = 10
RETRY_AFTER = 1.0  # seconds until a client should try again
# An arbitrary constant: the key of the lock that gateways take to create the schema.
SCHEMA_LOCK = 0x61746C

# The execution option that marks a transaction as read-only for _on_sqlite_begin.
READ_ONLY = "atelier_read_only"


class DatabaseAway(Unavailable):
    """The database is unreachable, full, damaged, or busy for longer than BUSY_SECONDS."""


class Database:
    """Connections to one database, with transactions for reading and for writing.

    All methods raise DatabaseAway if the database is unavailable.
    """

    def __init__(self, url: str) -> None:
        """Set the address. A connection opens on first use. Raises BadInput for a bad address."""
        self.url = parse_url(url)
        self._engine = _sqlite(self.url) if _is_sqlite(self.url) else _postgresql(self.url)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction. It commits at the end of the block, and rolls back on an error."""
        with (
            self._translated(),
            Session(self._engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a read-only transaction. On SQLite it does not wait for writers."""
        engine = self._engine.execution_options(**{READ_ONLY: True})
        with self._translated(), Session(engine, expire_on_commit=False) as session:
            yield session

    def prepare(self) -> None:
        """Create the schema if the database has none. Raises BadInput if its version differs."""
        with self.write() as session:
            if not _is_sqlite(self.url):
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SCHEMA_LOCK})
            Table.metadata.create_all(session.connection())
            versions = session.scalars(select(SchemaVersion.version)).all()
            if not versions:
                session.execute(insert(SchemaVersion).values(version=SCHEMA_VERSION))
        if versions and versions != [SCHEMA_VERSION]:
            raise BadInput(
                f"database {self}: has schema {versions[0]}, but this gateway needs schema "
                f"{SCHEMA_VERSION}; run the gateway version that created the database, or set "
                "ATELIER_DATABASE_URL to another database"
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise DatabaseAway if the database is unavailable; do not catch errors of a statement."""
        try:
            yield
        except (OperationalError, InterfaceError, TimeoutError) as error:
            raise self._away(error) from error
        except DatabaseError as error:
            if type(error) is not DatabaseError:  # the subclasses report a wrong statement
                raise
            raise self._away(error) from error

    def _away(self, error: SQLAlchemyError) -> DatabaseAway:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        text = f"database {self}: unavailable: {reason}; check ATELIER_DATABASE_URL"
        return DatabaseAway(text, retry_after=RETRY_AFTER)

    def close(self) -> None:
        """Close all pooled connections."""
        self._engine.dispose()

    def __str__(self) -> str:
        return redact(self.url.render_as_string(hide_password=True))


def parse_url(url: str) -> URL:
    """Parse a database address.

    Raises BadInput unless it names an SQLite file or a PostgreSQL database.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise BadInput(
            "ATELIER_DATABASE_URL: not a database address; "
            "use sqlite:///file.db or postgresql://user:password@host/name"
        ) from None
    if "@" in (
        parsed.host or ""
    ):  # the driver's error would show this host, which contains the password
        raise BadInput(
            "ATELIER_DATABASE_URL: the host contains @; "
            "percent-encode the special characters of user and password"
        )
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in {"sqlite", "sqlite+pysqlite", "postgresql+psycopg"}:
        raise BadInput(
            f"ATELIER_DATABASE_URL: {parsed.drivername}:// is not supported; "
            "use sqlite:///file.db or postgresql://user:password@host/name"
        )
    if _is_sqlite(parsed) and parsed.database in {None, "", ":memory:"}:
        raise BadInput(
            "ATELIER_DATABASE_URL: names no file; use sqlite:///relative.db or sqlite:////abs.db"
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
    """Begin a writing transaction with BEGIN IMMEDIATE, so that it waits for other writers.

    The driver begins a deferred transaction, which becomes a writer at its first change. If there
    is another writer at this time, SQLite fails at once instead of waiting.
    """
    reading = connection.get_execution_options().get(READ_ONLY)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
