"""
The errors raised on purpose, in one tree.

    Error                      message names the thing: "Thread 7f… is busy"; `code` is for programs
    ├─ NotFoundError           missing, or not the caller's
    ├─ GoneError               was there, and is not to be had any more
    ├─ ConflictError           the state of the thing forbids it
    │  ├─ AlreadyExistsError
    │  ├─ ThreadBusyError      a run holds the thread
    │  └─ LeaseLostError       the run belongs to another process now; nothing was written
    ├─ ChangedError            is not any more as the caller knows it
    ├─ InvalidInputError       understood, and wrong
    │  └─ BadRequestError      contradicts itself, or does not fit the thread's state
    ├─ TooLargeError           beyond a bound
    ├─ TooManyAttemptsError    tried too often; later it may be tried again
    ├─ LimitedError            more than one may ask for at a time; later it may be asked again
    ├─ QuotaError              more than one may have; something else has to go first
    ├─ WrongTypeError          of a kind that is not taken
    ├─ AuthenticationError
    ├─ PermissionDeniedError
    ├─ UnsupportedError        a part of the contract that is not built
    ├─ RunFailedError          the run that an answer was waited for failed
    │  └─ RunTimeoutError      it took too long
    ├─ EmbeddingError          a text could not be embedded, for the store's index
    ├─ UnreadableError         what is at rest cannot be decrypted, or should have been encrypted
    └─ UnavailableError        PostgreSQL or Redis did not answer; safe to retry
       ├─ OverloadedError      this server has as much to do as it takes
       ├─ LockedError          somebody else holds what is needed
       ├─ ConnectionLostError  gone in the middle: what was asked may have been done
       └─ InDoubtError         the same, and it could not be found out: not safe to retry

Some that one module alone raises are beside it: `graph.factory.InvalidGraphError` (an Error),
`graph.registry.UnknownGraphError` (a NotFoundError), `api.errors.RefusedError` (a PermissionDeniedError).
HTTP statuses are known to `api/errors.py` alone.
"""

from typing import ClassVar, Final


class Error(Exception):
    """
    Base of the tree.

    Args:
        message: What happened, for a person. Holds no secret.
        code: What happened, for a program; the class's own unless given.
    """

    default_code: ClassVar[str] = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code


class NotFoundError(Error):
    """Missing, or not the caller's: a stranger cannot tell which."""

    default_code = "not_found"


class GoneError(Error):
    """It was there, and is not to be had any more."""

    default_code = "gone"


class ConflictError(Error):
    """The state of the thing forbids what was asked."""

    default_code = "conflict"


class AlreadyExistsError(ConflictError):
    """The id is taken."""

    default_code = "already_exists"


class ThreadBusyError(ConflictError):
    """A run is pending or running on the thread."""

    default_code = "thread_busy"


class LeaseLostError(ConflictError):
    """Another process owns the thread now, or the thread is gone; nothing was written."""

    default_code = "lease_lost"


class ChangedError(Error):
    """It is not any more as the caller knows it; nothing was changed."""

    default_code = "changed"


class InvalidInputError(Error):
    """The input was understood and is wrong."""

    default_code = "invalid_input"


class BadRequestError(InvalidInputError):
    """The input contradicts itself, or does not fit the state of the thread."""

    default_code = "bad_request"


class TooLargeError(Error):
    """The input is beyond a bound."""

    default_code = "too_large"


class StalledError(Error):
    """The input does not come, or too slowly; nothing was done."""

    default_code = "body_stalled"


class TooManyAttemptsError(Error):
    """It was tried too often; later it may be tried again."""

    default_code = "too_many_attempts"


class LimitedError(Error):
    """
    More than somebody may ask for at a time; nothing was done.

    Args:
        retry_in_seconds: When it is worth asking again.
    """

    default_code = "rate_limited"

    def __init__(self, message: str, *, code: str | None = None, retry_in_seconds: float) -> None:
        super().__init__(message, code=code)
        self.retry_in_seconds = retry_in_seconds


class QuotaError(Error):
    """More than somebody may have: nothing was done, and time alone does not help."""

    default_code = "quota_exceeded"


class WrongTypeError(Error):
    """What was sent is of a kind that is not taken."""

    default_code = "unsupported_type"


class AuthenticationError(Error):
    """Who is calling is not known."""

    default_code = "unauthenticated"


class PermissionDeniedError(Error):
    """The caller is known and may not do this as who they are."""

    default_code = "permission_denied"


class UnsupportedError(Error):
    """A part of the contract that this server does not have."""

    default_code = "unsupported"


class RunFailedError(Error):
    """The run that an answer was waited for ended without one."""

    default_code = "run_failed"


class RunTimeoutError(RunFailedError):
    """The run that an answer was waited for took longer than a run may."""

    default_code = "run_timeout"


class EmbeddingError(Error):
    """A text could not be embedded, so it was neither kept nor searched for."""

    default_code = "embedding_failed"


class UnreadableError(Error):
    """What is at rest cannot be decrypted, or is in the clear where nothing may be."""

    default_code = "unreadable"


class UnavailableError(Error):
    """PostgreSQL or Redis did not answer in time; calling again is safe."""

    default_code = "unavailable"


class OverloadedError(UnavailableError):
    """This server has as much to do as it takes; nothing was done."""

    default_code = "overloaded"


class LockedError(UnavailableError):
    """Somebody else holds what is needed; nothing was done."""


class ConnectionLostError(UnavailableError):
    """The connection was lost before the answer: what was asked may or may not have been done."""


class InDoubtError(UnavailableError):
    """Something may have been made or not, and nobody can tell now: look before asking again."""

    default_code = "in_doubt"


#: What decoding a checkpoint may raise for its content: the code or the types that it was written
#: with are gone, or it is not what was written.
CONTENT_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    UnreadableError,
    ValueError,
)
