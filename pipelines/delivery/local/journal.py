"""The promotion journal: each change of a release is written down before it is made.

After a crash, whoever finds an entry knows which change was under way and how to undo it.
"""

from contextlib import AbstractContextManager

from pydantic import ValidationError

from atelier.files import locked, write_atomic
from atelier.home import Home
from pipelines.delivery.alias import JournalEntry


class PromotionJournal:
    """The intents of one environment, a file for each adapter."""

    def __init__(self, home: Home):
        self.path = home.root / "promotions"

    def get(self, name: str) -> JournalEntry | None:
        """The intent of an adapter. One that cannot be read is as good as none: written whole or
        not at all, it can only be from another version of this program."""
        try:
            return JournalEntry.model_validate_json((self.path / f"{name}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def put(self, intent: JournalEntry) -> None:
        """Write an intent in one step."""
        write_atomic(self.path / f"{intent.adapter}.json", intent.model_dump_json(indent=1))

    def remove(self, name: str) -> None:
        """Nothing is under way any more."""
        (self.path / f"{name}.json").unlink(missing_ok=True)

    def names(self) -> set[str]:
        """The adapters with something under way."""
        return {file.stem for file in self.path.glob("[!.]*.json")}

    def locked(self, name: str) -> AbstractContextManager[None]:
        """Read and write one adapter's release and intent undisturbed. Released by a crash too."""
        return locked(self.path / f".{name}.lock")

    def worked_on(self, name: str) -> AbstractContextManager[None]:
        """Held by a command for as long as it sees its own work on an adapter through.

        Commands do not keep one another out: going back must overtake a promotion that waits.
        """
        return locked(self.path / f".{name}.work", shared=True)

    def is_worked_on(self, name: str) -> bool:
        """Whether a command is at it, which also tells somebody how it went."""
        try:
            with locked(self.path / f".{name}.work", busy=BlockingIOError()):
                return False
        except BlockingIOError:
            return True
