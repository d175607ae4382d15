"""Requests to the Kubernetes API: plain dicts in and out, a limit on each, failures in katacsi's words."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import structlog

import katacsi
from katacsi import tracing
from katacsi.errors import SettingsError
from katacsi.kube import failures
from katacsi.kube.library import aiohttp, library

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from katacsi.kube.credentials import Credentials

log = structlog.get_logger(__name__)

Object = dict[str, Any]

MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"

_WHOLE: Final = "application/json"
_ONLY_METADATA: Final = f"{_WHOLE};as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"

#: Credentials that are refused are read again, but not at each of many calls that fail the same way.
_RENEWAL_PAUSE_S: Final = 5.0


class ClusterApi:
    """One connection to an API server, for the life of a process.

    Every method takes `what`, the words by which an error names the object, such as "pod default/web-0"; the
    path stands in where there are none. Every method may raise:

        Unavailable: the server is slow, overloaded, away, or shows a certificate that is not trusted.
        NotPermitted: it does not accept the token, or an RBAC rule is missing.
        Precondition: it refused the request for another reason.

    Args:
        credentials: see `katacsi.kube.credentials`.
        timeout_s: the longest that one request may take, connecting included.
        observe: told the verb, the outcome ("ok" or the error's class) and the seconds of every request.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        timeout_s: float,
        observe: Callable[[str, str, float], None] = lambda verb, outcome, seconds: None,
    ) -> None:
        self._credentials = credentials
        self._timeout_s = timeout_s
        self._observe = observe
        self._connection: _Connection | None = None
        self._renewing = asyncio.Lock()
        self._renewed_at = -_RENEWAL_PAUSE_S
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def server(self) -> str:
        """Where the server is; "?" before `start`."""
        return self._connection.server if self._connection else "?"

    async def start(self) -> None:
        """Read the credentials; the server is not asked yet.

        Raises:
            SettingsError: they are not there, or not usable.
        """
        if self._connection is None:
            self._connection = _Connection(await self._credentials.load())

    async def close(self) -> None:
        """Let the connections go."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def get(self, path: str, *, what: str = "") -> Object:
        """Give an object.

        Raises:
            NotFound: the server says that there is none.
        """
        return await self._call("get", path, what=what)

    async def list(
        self,
        path: str,
        *,
        labels: str = "",
        fields: str = "",
        page: int = 500,
        only_metadata: bool = False,
        what: str = "",
    ) -> AsyncIterator[Object]:
        """Give the objects of a list one after another; they are fetched in pages of at most `page`.

        Args:
            path: the list's path.
            labels: a label selector.
            fields: a field selector.
            page: how many objects one answer may have.
            only_metadata: leave out all else of the objects; of nodes that is nine tenths.
            what: see the class.
        """
        accept = _ONLY_METADATA if only_metadata else _WHOLE
        # Not by resourceVersion=0, which asks a server for what it remembers: it then ignores the limit, and
        # thousands of objects in one answer are more than a small process holds (seen with 1.37).
        query = {"limit": str(page)}
        query |= {"labelSelector": labels} if labels else {}
        query |= {"fieldSelector": fields} if fields else {}
        while True:
            answer = await self._call("list", path, query=query, accept=accept, what=what)
            for item in answer.get("items") or ():
                yield item
            token = (answer.get("metadata") or {}).get("continue")
            if not token:
                return
            query["continue"] = token

    async def create(self, path: str, body: Object, *, what: str = "") -> Object:
        """Make an object in the list at `path`, and give it as it is stored.

        Raises:
            AlreadyExists: there is one of that name.
        """
        return await self._call("create", path, body=body, what=what)

    async def patch(
        self, path: str, body: Object, *, kind: str = MERGE_PATCH, what: str = "", **query: str
    ) -> Object:
        """Change an object, and give it as it is stored.

        Args:
            path: the object's path.
            body: the patch.
            kind: its content type; the default replaces exactly the keys that it names.
            what: see the class.
            query: such as `fieldManager`, which an apply patch needs.

        Raises:
            NotFound: there is none.
            OperationPending: somebody else changed it meanwhile.
        """
        return await self._call("patch", path, body=body, query=query, content_type=kind, what=what)

    async def delete(self, path: str, *, uid: str = "", version: str = "", what: str = "") -> None:
        """Delete an object; with `uid`, only if it is still that one; with `version`, only as it was read.

        Raises:
            NotFound: there is none.
            OperationPending: another object has the name, or somebody changed it meanwhile.
        """
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        only = {"uid": uid, "resourceVersion": version}
        if preconditions := {key: value for key, value in only.items() if value}:
            body["preconditions"] = preconditions
        await self._call("delete", path, body=body, what=what)

    # -- one request -----------------------------------------------------------------------------------

    @tracing.phase("Kubernetes API")
    async def _call(self, verb: str, path: str, *, what: str, **request: Any) -> Object:  # noqa: ANN401  # see `_Connection.ask`
        started, outcome = time.perf_counter(), "ok"
        what = what or path
        try:
            return await self._twice(verb, path, request)
        except failures.any_failure() as error:
            translated = failures.as_error(error, what, self.server, self._timeout_s)
            outcome = type(translated).__name__
            raise translated from error
        finally:
            self._observe(verb, outcome, time.perf_counter() - started)

    async def _twice(self, verb: str, path: str, request: Mapping[str, Any]) -> Object:
        """Ask; once more with fresh credentials where the server or we did not accept the present ones."""
        connection = await self._connected()
        try:
            return await connection.ask(verb, path, self._timeout_s, **request)
        except failures.any_failure() as error:
            if not failures.may_be_outdated(error):
                raise
            renewed = await self._renewed(connection)
            if renewed is connection:
                raise
        return await renewed.ask(verb, path, self._timeout_s, **request)

    async def _connected(self) -> _Connection:
        await self.start()
        if self._connection is None:  # closed meanwhile: the process stops
            raise OSError("the connection is closed")
        return self._connection

    async def _renewed(self, old: _Connection) -> _Connection:
        """Give a connection with credentials read anew; the old one where they were read just now."""
        async with self._renewing:
            current = await self._connected()
            if current is not old or time.monotonic() - self._renewed_at < _RENEWAL_PAUSE_S:
                return current
            self._renewed_at = time.monotonic()
            try:
                self._connection = current = _Connection(await self._credentials.load())
            except SettingsError as error:  # they are being replaced, perhaps
                log.warning("credentials for the Kubernetes API cannot be read again", error=error.message)
                return old
        task = asyncio.create_task(self._retire(old))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        return current

    async def _retire(self, old: _Connection) -> None:
        """Close a connection once no call can be using it any more."""
        try:
            await asyncio.sleep(self._timeout_s)
        finally:
            await asyncio.shield(old.close())


_METHODS: Final[Mapping[str, str]] = {
    "get": "GET",
    "list": "GET",
    "create": "POST",
    "patch": "PATCH",
    "delete": "DELETE",
}


class _Connection:
    """The library's connection pool, made from one reading of the credentials."""

    def __init__(self, configuration: Any) -> None:  # noqa: ANN401  # the library's
        self.server: str = configuration.host
        self._configuration = configuration
        # Few at once: a request takes milliseconds, an API server has many nodes, and asyncio keeps a quarter
        # of a megabyte for each TLS connection until it has been idle for half a minute.
        configuration.connection_pool_maxsize = 3
        self._rest = library().Connection(configuration)

    async def close(self) -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            await self._rest.close()

    async def ask(
        self,
        verb: str,
        path: str,
        timeout_s: float,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        accept: str = _WHOLE,
    ) -> Object:
        """Send one request and read its answer; fails by one of `failures.any_failure`."""
        headers = {
            "Accept": accept,
            "Content-Type": content_type,
            "User-Agent": f"katacsi/{katacsi.__version__}",
        }
        # Asked each time: it reads the token again when a minute has passed.
        if token := await self._configuration.get_api_key_with_prefix("BearerToken"):
            headers["authorization"] = token
        response = await self._rest.request(
            _METHODS[verb],
            f"{self.server.rstrip('/')}{path}" + (f"?{urlencode(query)}" if query else ""),
            headers=headers,
            body=body,
            _request_timeout=aiohttp.ClientTimeout(total=timeout_s),
        )
        answer = json.loads(response.data or b"{}")
        if not isinstance(answer, dict):
            raise ValueError(path)  # noqa: TRY004  # what `failures` takes for "not an API server"
        return answer
