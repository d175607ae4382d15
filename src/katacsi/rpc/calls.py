"""The methods of a server, by the path under which gRPC calls them, and the call that a task works for."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from katacsi.rpc.redact import scrub
from katacsi.tracing import NOTHING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from grpclib._typing import IServable
    from grpclib.metadata import Deadline

    from katacsi.rpc.redact import Redaction
    from katacsi.tracing import Span


@dataclass(frozen=True, slots=True)
class Method:
    """A method: its bare name, the fields of its request that log lines carry, whether it is chatty."""

    name: str
    subjects: tuple[str, ...] = ()
    chatty: bool = False


#: What nobody knows. One name for all, since each would be a new label in the metrics.
UNKNOWN: Final = Method("unknown")


def methods_of(
    services: Iterable[IServable], *, subjects: Collection[str] = (), chatty: Collection[str] = ()
) -> Mapping[str, Method]:
    """Give the methods of services by their paths.

    Args:
        services: as a server is given them.
        subjects: fields that say what a call is about, in the order in which log lines have them.
        chatty: names of methods that are called every few seconds: their success is worth a line at debug
            only.
    """
    methods = {}
    for service in services:
        for path, handler in service.__mapping__().items():
            name = path.rpartition("/")[2]
            present = {field.name for field in fields(handler.request_type)}
            methods[path] = Method(
                name, tuple(field for field in subjects if field in present), name in chatty
            )
    return methods


@dataclass(slots=True)
class Call:
    """One RPC under way; `message` is None until it was read, and `span` nobody's where none is recorded."""

    method: Method
    id: str
    redaction: Redaction
    deadline: Deadline | None = None
    message: object | None = None
    span: Span = NOTHING

    def scrubbed(self, text: str) -> str:
        """Give a text without the secrets that came with the call."""
        return scrub(text, self.redaction.secret_values(self.message))


#: The call that the current task works for; tasks started by it inherit it.
current_call: ContextVar[Call] = ContextVar("current_call")
