"""The errors of the project; each class allows one reaction of the caller.

Every text names the place (file, key, address), the problem and the fix, because it is printed to
the user unchanged. The exit codes are part of the command line's interface.
"""
# ruff: noqa: N818 (names of events, such as Refused, need no suffix Error)

from enum import IntEnum
from typing import ClassVar

from atelier.addresses import redact


class ExitCode(IntEnum):
    """The exit codes of commands, Jobs and services; docs/errors.md explains them."""

    DONE = 0
    REFUSED = 1
    BAD_INPUT = 2
    UNAVAILABLE = 3
    INTERNAL = 70  # EX_SOFTWARE of sysexits.h: a bug of this program
    INTERRUPTED = 130  # 128 + SIGINT, as in shells
    STOPPED = 143  # 128 + SIGTERM

    @classmethod
    def of_verdict(cls, accepted: bool) -> "ExitCode":
        """Return DONE for an accepted verdict, else REFUSED."""
        return cls.DONE if accepted else cls.REFUSED


class AtelierError(Exception):
    """The base of all expected errors; any other exception is a bug and keeps its traceback.

    The text is redacted, because it goes into logs, reports, pull requests and responses.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BAD_INPUT

    def __init__(self, *args: object):
        super().__init__(*(redact(arg) if isinstance(arg, str) else arg for arg in args))


class BadInput(AtelierError):
    """The input cannot be used; a retry with the same input fails again."""


class RecipeError(BadInput):
    """A recipe is invalid or missing."""


class DatasetError(BadInput):
    """Pictures or captions cannot be used for training."""


class PolicyError(BadInput):
    """A policy is invalid, or a recipe loosens the policy."""


class AdapterRejected(BadInput):
    """An adapter cannot be served completely, or does not match its digest."""


class SignatureRejected(AdapterRejected):
    """A package has no valid signature of a trusted signer."""


class BaseError(BadInput):
    """A base is missing or incomplete."""


class ArtifactError(BadInput):
    """A base, dataset, recipe or engine in MLflow is missing, or does not match its digest."""


class ReleaseError(BadInput):
    """A release is unreadable, or cannot be changed as requested."""


class Refused(AtelierError):
    """A gate or a check refused the request."""

    exit_code: ClassVar[ExitCode] = ExitCode.REFUSED


class Unavailable(AtelierError):
    """A service cannot be reached or is at capacity; the same request may succeed later.

    `retry_after` is in seconds, None if unknown.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.UNAVAILABLE

    def __init__(self, text: str, *, retry_after: float | None = None):
        super().__init__(text)
        self.retry_after = retry_after


class Interrupted(AtelierError):
    """SIGTERM stopped the process, which has saved the state to resume from."""

    exit_code: ClassVar[ExitCode] = ExitCode.STOPPED
