"""Events on Kubernetes' objects: what a person who looks at a pod or a claim has to know.

Telling never fails and never waits: a task of its own writes what was told, one after another. The same again
becomes a series of the first Event, and no flood of refusals becomes a flood of requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import OrderedDict
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog

from katacsi.errors import KatacsiError, NotFound
from katacsi.kube import paths

if TYPE_CHECKING:
    from katacsi.kube.client import ClusterApi, Object
    from katacsi.kube.objects import ObjectRef

log = structlog.get_logger(__name__)

#: The API server's limits.
_MAX_NOTE_BYTES: Final = 1024
_MAX_INSTANCE: Final = 128
#: The same refusal within this time is the same Event, counted.
_SERIES_S: Final = 600.0
#: How often the count of one Event is written.
_PATCH_S: Final = 60.0
#: How many Events may be written at once, and how many a second after that.
_BURST: Final = 20.0
_PER_SECOND: Final = 0.5
_MOST_REMEMBERED: Final = 512
_MOST_WAITING: Final = 64


@dataclass(slots=True)
class _Told:
    """An Event of this process: how often, when last, when it was written, and under which name."""

    about: ObjectRef
    action: str
    reason: str
    note: str
    count: int = 1
    last: float = 0.0
    tried: float = float("-inf")
    name: str = ""
    waiting: bool = False


class EventRecorder:
    """Writes Events of one driver.

    Args:
        api: the client.
        controller: who reports, a name such as `local.katacsi.io`.
        instance: which of them, such as the node's name.
    """

    def __init__(self, api: ClusterApi, *, controller: str, instance: str) -> None:
        self._api = api
        self._controller = controller
        self._instance = instance[:_MAX_INSTANCE]
        self._told: OrderedDict[tuple[ObjectRef, str, str], _Told] = OrderedDict()
        self._queue: asyncio.Queue[_Told] = asyncio.Queue(_MOST_WAITING)
        self._writer: asyncio.Task[None] | None = None
        self._allowance = _BURST
        self._refilled = time.monotonic()

    def tell(self, about: ObjectRef, action: str, reason: str, note: str) -> None:
        """Have a warning written on an object, soon; nothing is waited for.

        Args:
            about: the object.
            action: what was being done, in UpperCamelCase.
            reason: why not, in UpperCamelCase, for machines.
            note: the same in words; what exceeds 1024 bytes is cut.
        """
        told = self._remembered(about, action, reason, _cut(note))
        if told.waiting or time.monotonic() - told.tried < _PATCH_S or not self._allowed():
            return
        with contextlib.suppress(asyncio.QueueFull):
            self._queue.put_nowait(told)
            told.waiting = True
        if self._writer is None:
            # Of no call: its log lines and spans are not those of whoever told first.
            self._writer = asyncio.create_task(self._write_all(), context=Context())

    async def close(self, *, within_s: float = 1.0) -> None:
        """Write what is still waiting, for at most so long, and stop."""
        if self._writer is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._queue.join(), within_s)
        self._writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writer
        self._writer = None

    def _remembered(self, about: ObjectRef, action: str, reason: str, note: str) -> _Told:
        now = time.monotonic()
        key = (about, reason, note)
        told = self._told.get(key)
        if told is None or now - told.last > _SERIES_S:
            told = self._told[key] = _Told(about, action, reason, note)
        else:
            told.count += 1
        told.last = now
        self._told.move_to_end(key)
        while len(self._told) > _MOST_REMEMBERED:
            self._told.popitem(last=False)
        return told

    def _allowed(self) -> bool:
        now = time.monotonic()
        self._allowance = min(_BURST, self._allowance + (now - self._refilled) * _PER_SECOND)
        self._refilled = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    async def _write_all(self) -> None:
        while True:
            told = await self._queue.get()
            try:
                await self._write(told)
            except KatacsiError as error:
                log.warning("an Event could not be written", about=str(told.about), error=error.message)
            except Exception:
                log.exception("an Event could not be written", about=str(told.about))
            finally:
                told.waiting, told.tried = False, time.monotonic()
                self._queue.task_done()

    async def _write(self, told: _Told) -> None:
        what = f"Event on {told.about}"
        # A cluster-wide object's Events are in this namespace, where `kubectl describe` looks for them.
        namespace = told.about.namespace or "default"
        if told.name:
            series = {"series": {"count": told.count, "lastObservedTime": _now()}}
            with contextlib.suppress(NotFound):  # Events are deleted after an hour
                await self._api.patch(paths.events(namespace, told.name), series, what=what)
                return
        name = f"{told.about.name[:230]}.{secrets.token_hex(8)}"
        await self._api.create(paths.events(namespace), self._event(told, namespace, name), what=what)
        told.name = name

    def _event(self, told: _Told, namespace: str, name: str) -> Object:
        about = told.about
        regarding = {"apiVersion": about.api_version, "kind": about.kind, "name": about.name}
        regarding |= {"namespace": about.namespace} if about.namespace else {}
        regarding |= {"uid": about.uid} if about.uid else {}
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": _now(),
            "type": "Warning",
            "action": told.action,
            "reason": told.reason,
            "note": told.note,
            "regarding": regarding,
            "reportingController": self._controller,
            "reportingInstance": self._instance,
        }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _cut(note: str) -> str:
    raw = note.encode("utf-8", "backslashreplace")
    if len(raw) <= _MAX_NOTE_BYTES:
        return raw.decode()
    return raw[: _MAX_NOTE_BYTES - 3].decode("utf-8", "ignore") + "…"
