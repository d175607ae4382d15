"""What went wrong with a request to the API server, as one of katacsi's errors."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any, Final

from katacsi.errors import (
    AlreadyExists,
    KatacsiError,
    NotFound,
    NotPermitted,
    OperationPending,
    Precondition,
    Unavailable,
)
from katacsi.kube.library import aiohttp, library

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_GONE: Final = 410
_TOO_MANY: Final = 429
#: How much of the server's own words is given on.
_MOST_WORDS: Final = 500


def any_failure() -> tuple[type[Exception], ...]:
    """Give all kinds of exception by which a request can fail: the server's answer, the way to it, a file."""
    known = library()
    return (known.ApiException, known.ConfigException, aiohttp.ClientError, TimeoutError, OSError, ValueError)


def may_be_outdated(error: Exception) -> bool:
    """Whether the token or the authority that was read before may be the reason; nothing was done then."""
    return _status(error) == _UNAUTHORIZED or _is_certificate(error)


def as_error(error: Exception, what: str, server: str, timeout_s: float) -> KatacsiError:
    """Give the error that says what a failure means for `what`, such as "pod default/web-0"."""
    if isinstance(error, library().ApiException):
        return _of_answer(error, what, server)
    where = f"the Kubernetes API at {server}"
    if isinstance(error, TimeoutError):
        return Unavailable(f"{what}: {where} did not answer within {timeout_s:g} s (kube.timeout); retry")
    if _is_certificate(error):
        return Unavailable(
            f"{what}: the certificate of {where} is not trusted ({_reason(error)}); if it was renewed by "
            "another authority, wait for the new ca.crt to reach the pod, or correct the kubeconfig"
        )
    if isinstance(error, ValueError):
        return Unavailable(f"{what}: {where} gave an answer that is not JSON; is another server there?")
    if isinstance(error, OSError | aiohttp.ClientError):
        return Unavailable(f"{what}: {where} cannot be reached ({_reason(error)}); retry")
    return Unavailable(f"{what}: {where} cannot be asked ({_reason(error)}); retry")


def _of_answer(error: Any, what: str, server: str) -> KatacsiError:  # noqa: ANN401, PLR0911  # the library's; a return a kind
    status = int(error.status or 0)
    answer = _status_object(error)
    words = str(answer.get("message") or error.reason or "no reason given")[:_MOST_WORDS]
    where = f"the Kubernetes API at {server}"
    if status == _UNAUTHORIZED:
        return NotPermitted(
            f"{what}: {where} does not accept the driver's token ({words}); see that its ServiceAccount "
            "exists and the token is of this cluster"
        )
    if status == _FORBIDDEN:
        return NotPermitted(
            f"{what}: {where} does not permit it ({words}); give the driver's ServiceAccount the rules of "
            "docs/kubernetes.md"
        )
    if status == _NOT_FOUND and answer.get("reason") == "NotFound":
        return NotFound(f"{what}: does not exist ({words})")
    if status == _CONFLICT:
        if answer.get("reason") == "AlreadyExists":
            return AlreadyExists(f"{what}: exists already ({words})")
        return OperationPending(f"{what}: another operation is in progress ({words}); retry")
    if status == _GONE:
        return Unavailable(f"{what}: {where} has forgotten where the list was ({words}); list it again")
    if status == _TOO_MANY or status >= 500:
        return Unavailable(f"{what}: {where} cannot answer now ({status}: {words}); retry")
    # 404 without a word on the object: the server does not know the API at all, or is no API server.
    return Precondition(f"{what}: {where} refused the request ({status}: {words})")


def _status_object(error: Any) -> Mapping[str, Any]:  # noqa: ANN401  # the library's exception
    """Read Kubernetes' own account of the failure; empty where another server answered."""
    try:
        answer = json.loads(error.body or b"")
    except (ValueError, TypeError):
        return {}
    return answer if isinstance(answer, dict) and answer.get("kind") == "Status" else {}


def _status(error: Exception) -> int:
    return int(getattr(error, "status", 0) or 0) if isinstance(error, library().ApiException) else 0


def _is_certificate(error: Exception) -> bool:
    return isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError | ssl.SSLError)


def _reason(error: Exception) -> str:
    return str(error).strip()[:_MOST_WORDS] or type(error).__name__
