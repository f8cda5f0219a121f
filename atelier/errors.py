"""What can go wrong, told apart by what the caller can do about it.

Every text names the place (file, key, address) and the way out, because it is printed to the user
as it stands. The exit codes are the command line's contract.
"""
# ruff: noqa: N818 (a name that says what happened reads better than one that ends in Error)

from enum import IntEnum
from typing import ClassVar

from atelier.addresses import redact


class ExitCode(IntEnum):
    """How a command, a Job or a service's process ends; docs/errors.md explains each code."""

    DONE = 0
    REFUSED = 1
    BAD_INPUT = 2
    UNAVAILABLE = 3
    INTERNAL = 70  # EX_SOFTWARE of sysexits.h: a bug of this program
    INTERRUPTED = 130  # 128 + SIGINT, as shells report it
    STOPPED = 143  # 128 + SIGTERM

    @classmethod
    def of_verdict(cls, accepted: bool) -> "ExitCode":
        """DONE for a verdict that accepts, REFUSED for one that does not."""
        return cls.DONE if accepted else cls.REFUSED


class AtelierError(Exception):
    """Anything this program reports on purpose; all else is a bug and keeps its traceback.

    Its text is redacted: it goes into logs, reports, pull requests and answers to clients.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BAD_INPUT

    def __init__(self, *args: object):
        super().__init__(*(redact(one) if isinstance(one, str) else one for one in args))


class BadInput(AtelierError):
    """What was given cannot be used; asking again with the same input fails again."""


class RecipeError(BadInput):
    """A recipe that cannot be trained from."""


class DatasetError(BadInput):
    """Pictures or captions that cannot be trained on."""


class PolicyError(BadInput):
    """A policy that cannot be judged by, or a recipe that loosens one."""


class AdapterRejected(BadInput):
    """An adapter that cannot be served whole, or is not what it says it is."""


class SignatureRejected(AdapterRejected):
    """A package that is not signed, or not by anybody who is trusted, or not as it is now."""


class BaseError(BadInput):
    """A base model that is missing or incomplete."""


class ArtifactError(BadInput):
    """A base, dataset, recipe or engine that MLflow does not have, or not as its digest says."""


class ReleaseError(BadInput):
    """A release that cannot be read, or cannot go where it was asked to."""


class Refused(AtelierError):
    """A gate or a check said no."""

    exit_code: ClassVar[ExitCode] = ExitCode.REFUSED


class Unavailable(AtelierError):
    """A service is away or full; the same request may succeed later.

    `retry_after` is in seconds, or None where nobody can tell.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.UNAVAILABLE

    def __init__(self, text: str, *, retry_after: float | None = None):
        super().__init__(text)
        self.retry_after = retry_after


class Interrupted(AtelierError):
    """Stopped by SIGTERM, with everything needed to go on kept."""

    exit_code: ClassVar[ExitCode] = ExitCode.STOPPED
