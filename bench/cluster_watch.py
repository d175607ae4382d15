"""When something came to be true of an object: told by the API server, not by looking again and again."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import TYPE_CHECKING

from scratch import Failure

from support.kube_http import path_of

if TYPE_CHECKING:
    import http.client
    from collections.abc import Callable

    from support.kube_http import Api, Object

#: A life takes seconds; a machine that is busy with something else takes longer.
_PATIENCE_S = 180


class Watch:
    """All objects of a kind, as they change, from now on. Use it with `with`.

    Args:
        api: the administrator's.
        kind: of the objects.
        marks: what may come to be true of an object, by a name; `gone` is known without.
    """

    def __init__(self, api: Api, kind: str, marks: dict[str, Callable[[Object], bool]]) -> None:
        self._kind, self._marks = kind, marks
        self._seen: dict[tuple[str, str], float] = {}
        self._objects: dict[str, Object] = {}
        self._changed = threading.Condition()
        self._connection = api.connect(3600)
        path = f"/{path_of(kind, '', '')}"
        self._connection.request("GET", path, headers=api.headers)
        version = json.load(self._connection.getresponse())["metadata"]["resourceVersion"]
        query = f"?watch=true&resourceVersion={version}&timeoutSeconds=3600"
        self._connection.request("GET", path + query, headers=api.headers)
        self._thread = threading.Thread(
            target=self._listen, args=(self._connection.getresponse(),), daemon=True
        )

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()

    def when(self, name: str, mark: str) -> float:
        """Wait until it is true of the object, and return the moment, of time.time().

        Raises:
            Failure: that took too long.
        """
        with self._changed:
            if self._changed.wait_for(lambda: (name, mark) in self._seen, _PATIENCE_S):
                return self._seen[name, mark]
        raise Failure(
            f"{self._kind} {name} is not {mark} after {_PATIENCE_S} s; it is {self._objects.get(name)}"
        )

    def last(self, name: str) -> Object:
        """Return the object as it was told last."""
        return self._objects[name]

    def _listen(self, answer: http.client.HTTPResponse) -> None:
        with contextlib.suppress(OSError, ValueError):  # the end of the watch cuts its connection
            for line in answer:
                event, now = json.loads(line), time.time()
                item, name = event["object"], event["object"]["metadata"]["name"]
                true = {mark for mark, holds in self._marks.items() if holds(item)}
                if event["type"] == "DELETED":
                    true.add("gone")
                with self._changed:
                    self._objects[name] = item
                    for mark in true:
                        self._seen.setdefault((name, mark), now)
                    self._changed.notify_all()
