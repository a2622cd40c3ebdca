"""What can go wrong with the API server, sorted by what helps.

ClusterError
├── Conflict      somebody wrote in between: read again, then try again
├── NotFound      the object is not there
├── Refused       the server said no to what we sent; `final` where asking again cannot help
└── Unreachable   no answer, too many requests, or a fault of the server: try again later
"""

from __future__ import annotations


class ClusterError(Exception):
    """A request to the API server that did not succeed."""


class Conflict(ClusterError):
    pass


class NotFound(ClusterError):
    pass


class Refused(ClusterError):
    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


class Unreachable(ClusterError):
    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def error_of(status: int, message: str, retry_after: float | None = None) -> ClusterError:
    """The error that a response of the API server means."""
    if status == 404:
        return NotFound(message)
    if status == 409:
        return Conflict(message)
    if status in (400, 413, 415, 422):
        return Refused(message, final=True)
    if status in (401, 403, 405):
        return Refused(message, final=False)
    return Unreachable(f"{status}: {message}", retry_after)
