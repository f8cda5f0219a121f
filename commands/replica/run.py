"""Run one replica until a signal stops it, and write a note for clients to the home.

The note is a JSON file with the addresses, the process ids and the key for smoke tests.
"""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from atelier.errors import AtelierError, BadInput
from atelier.files import write_atomic
from atelier.home import Home
from commands.replica.plan import Addresses
from commands.replica.supervisor import Service, Supervisor

if TYPE_CHECKING:
    from services.gateway.keys import KeyStore


def run_replica(
    home: Home,
    services: Sequence[Service],
    addresses: Addresses,
    *,
    gateway: bool,
    report: Callable[[str], None],
) -> None:
    """Run the services until SIGTERM or SIGINT. A second signal kills them.

    Raises Unavailable, with the last lines of the log, if a service cannot start.
    """
    supervisor = Supervisor(services, report=report)
    handlers = {
        number: signal.signal(number, supervisor.stop) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        with contextlib.ExitStack() as stack:
            note = _note(supervisor, home, addresses, gateway=gateway)
            supervisor.run(on_ready=lambda: stack.enter_context(note))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _note(
    supervisor: Supervisor, home: Home, addresses: Addresses, *, gateway: bool
) -> Iterator[None]:
    """Print the addresses and write the note. At the end of the block, remove the note.

    The note contains a new key for smoke tests, so only the owner can read it. The key is revoked
    at the end of the block.
    """
    urls = addresses.to_json(gateway=gateway)
    keys = _smoke_keys(home) if gateway else None
    key, record = keys.create("smoke check of atelier serve") if keys else (None, None)
    pids = {service.name: supervisor.pid(service.name) for service in supervisor.services}
    contents = {**urls, "smoke_key": key, "pid": os.getpid(), "pids": pids}
    write_atomic(home.serve_note, json.dumps(contents, indent=2), mode=0o600)
    for name, url in urls.items():
        supervisor.report(f"{name.replace('_', ' ')}: {url}")
    try:
        yield
    finally:
        home.serve_note.unlink(missing_ok=True)
        if keys and record:
            # an unavailable database must not block the stop
            with contextlib.suppress(AtelierError):
                keys.revoke(record.id)


def _smoke_keys(home: Home) -> "KeyStore":
    """Open the key store, and revoke the smoke key of an earlier replica that was killed."""
    from services.gateway.keys import KeyStore  # imports sqlalchemy

    keys = KeyStore(home.database_url)
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError, BadInput):
        old_key = json.loads(home.serve_note.read_bytes()).get("smoke_key")
        if old_key:
            keys.revoke(str(old_key).split("_")[1])
    return keys
