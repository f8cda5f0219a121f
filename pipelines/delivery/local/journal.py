"""The promotion journal: a change of a release is recorded before it is made.

After a crash, the entry names the unfinished change and the release revision to restore.
"""

from contextlib import AbstractContextManager

from pydantic import ValidationError

from atelier.files import locked, write_atomic
from atelier.home import Home
from pipelines.delivery.alias import JournalEntry


class PromotionJournal:
    """The journal of one home, with one file per adapter."""

    def __init__(self, home: Home):
        self.path = home.root / "promotions"

    def get(self, name: str) -> JournalEntry | None:
        """Return the entry of an adapter, None if there is none or it cannot be read.

        Entries are written atomically, so an unreadable one is from another version of Atelier.
        """
        try:
            return JournalEntry.model_validate_json((self.path / f"{name}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def put(self, entry: JournalEntry) -> None:
        """Write an entry atomically."""
        write_atomic(self.path / f"{entry.adapter}.json", entry.model_dump_json(indent=1))

    def remove(self, name: str) -> None:
        """Remove the entry of an adapter, if there is one."""
        (self.path / f"{name}.json").unlink(missing_ok=True)

    def names(self) -> set[str]:
        """Return the adapters that have an entry."""
        return {file.stem for file in self.path.glob("[!.]*.json")}

    def locked(self, name: str) -> AbstractContextManager[None]:
        """Lock the release and the entry of one adapter; a crash releases the lock."""
        return locked(self.path / f".{name}.lock")

    def command_running(self, name: str) -> AbstractContextManager[None]:
        """Hold a shared lock while a command changes an adapter; the reconciler then skips it.

        The lock is shared, because a rollback must be able to run while a promotion waits.
        """
        return locked(self.path / f".{name}.work", shared=True)

    def is_command_running(self, name: str) -> bool:
        """Return whether a command is changing the adapter."""
        try:
            with locked(self.path / f".{name}.work", busy=BlockingIOError()):
                return False
        except BlockingIOError:
            return True
