"""Shims of both Kata runtimes on real unix sockets, with the answers, and the bugs, of the real ones.

`GoShim` and `RustShim` are the management servers; behind each is a guest's agent, here an `Agent`. A test
gives it numbers; the tier with real guests gives it callbacks that ask the guest. Read off Kata 4.1.0:

* Go: runtime/pkg/containerd-shim-v2/shim_management.go (the handlers), virtcontainers/sandbox.go,
  guestMountPath() (a device becomes a guest path), and Go's net/http for the bytes of an answer;
* runtime-rs: runtime-rs/crates/runtimes/src/shim_mgmt/{server,handlers}.rs, agent/src/kata/trans.rs (the
  text), and hyper 1 for the bytes;
* the agent: agent/src/rpc.rs, get_volume_stats() and resize_volume().

    agent = Agent(stats=lambda path: statvfs_in_guest(path))
    with in_thread(GoShim(Path("/run/vc/sbs/ID/shim-monitor.sock"), agent, {"/dev/loop7": "/guest/path"})):
        ...

or `async with GoShim(...)` in the loop of the test.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import inspect
import json
import re
import threading
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from katacsi.directvolume.names import RECORD_FILE, entry_name
from katacsi.directvolume.sandboxes import Sandboxes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping


class AgentError(Exception):
    """What an agent's ttrpc call ends with: a code by its gRPC name, such as "Unimplemented"."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"rpc error: code = {code} desc = {description}")


@dataclass(frozen=True)
class Numbers:
    """What statfs(2) shows in the guest; `available` is f_bfree, as the agent takes it."""

    total_bytes: int
    available_bytes: int
    total_inodes: int
    available_inodes: int


def _unknown(path: str) -> Numbers:
    raise AgentError("Internal", f"failed to open the volume {path}: Os {{ code: 2, kind: NotFound }}")


def _not_implemented(path: str, size_bytes: int) -> None:
    """Refuse as the agent of every release to date does."""
    del path, size_bytes
    raise AgentError("Unimplemented", "resize_volume is not implemented in kata-agent")


@dataclass
class Agent:
    """A guest's agent, which knows guest paths only. The callbacks may be coroutines, and raise AgentError.

    Attributes:
        stats: gives a guest path's numbers.
        resize: grows the filesystem at a guest path to fill a device of that many bytes.
        asked: every call so far: ("stats", path) or ("resize", path, size).
    """

    stats: Callable[[str], Numbers | Awaitable[Numbers]] = _unknown
    resize: Callable[[str, int], Awaitable[None] | None] = _not_implemented
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    async def get_volume_stats(self, path: str) -> Numbers:
        """Answer as rpc.rs, get_volume_stats()."""
        self.asked.append(("stats", path))
        answer = self.stats(path)
        return await answer if inspect.isawaitable(answer) else answer

    async def resize_volume(self, path: str, size_bytes: int) -> None:
        """Answer as rpc.rs, resize_volume()."""
        self.asked.append(("resize", path, size_bytes))
        answer = self.resize(path, size_bytes)
        if inspect.isawaitable(answer):
            await answer


@dataclass(frozen=True)
class Request:
    """One HTTP request, as it came."""

    method: str
    uri: str
    headers: Mapping[str, str]
    body: bytes


class Dropped(Exception):
    """The handler failed and its server closes the connection without an answer."""


class _Shim(abc.ABC):
    """What both servers have in common: a socket in a folder of its own, one request a connection."""

    def __init__(self, socket: Path, agent: Agent) -> None:
        self.socket = socket
        self.agent = agent
        self.requests: list[Request] = []
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Listen; the socket's folder is made, as the shims do."""
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self._server = await asyncio.start_unix_server(self._connected, self.socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, whatever the agent is waiting for, and take the socket away."""
        await self.crash()
        self.socket.unlink(missing_ok=True)

    async def crash(self) -> None:
        """Be gone as after SIGKILL: nobody listens, the socket stays."""
        assert self._server is not None
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        try:
            request = await _request(reader)
            self.requests.append(request)
            writer.write(await self._answer(request))
            await writer.drain()
        except (Dropped, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._handlers.discard(handler)
            writer.close()

    @abc.abstractmethod
    async def _answer(self, request: Request) -> bytes:
        """Give the bytes that the runtime's shim would send."""


async def _request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.rstrip("\r\n").split("\r\n")
    method, uri, _ = line.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (at.partition(":") for at in lines)}
    assert headers.get("host"), "HTTP/1.1 asks for a Host; Go answers 400 without"
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, uri, headers, body)


# -- Go ------------------------------------------------------------------------------------------------


class GoShim(_Shim):
    """The Go runtime's shim.

    Args:
        socket: `/run/vc/sbs/<sandbox id>/shim-monitor.sock`.
        agent: the guest's.
        mounts: the `device` of each record that its containers use, to where the guest has it mounted.
    """

    def __init__(self, socket: Path, agent: Agent, mounts: Mapping[str, str] | None = None) -> None:
        super().__init__(socket, agent)
        self.mounts: dict[str, str] = dict(mounts or {})

    async def _answer(self, request: Request) -> bytes:
        uri = urlsplit(request.uri)
        try:
            # No method is looked at: the routes are plain patterns.
            if uri.path == "/direct-volume/stats":
                return await self._stats(uri.query)
            if uri.path == "/direct-volume/resize":
                return await self._resize(request.body)
        except (AgentError, _GoError) as error:
            return _go_response(500, str(error).encode())
        return _GO_NOT_FOUND

    async def _stats(self, query: str) -> bytes:
        # url.Values.Get: the first of the name; then unescaped once more.
        value = next((value for key, value in parse_qsl(query) if key == "path"), "")
        if not value:
            return _go_response(400, b"Required parameter path not found")
        if bad := re.search(r"%(?![0-9A-Fa-f]{2}).{0,2}", value):
            raise _GoError(f'invalid URL escape "{bad[0]}"')
        numbers = await self.agent.get_volume_stats(self._guest_path(unquote(value)))
        return _go_response(200, _go_json(numbers))

    async def _resize(self, body: bytes) -> bytes:
        try:
            raw = {key.lower(): value for key, value in json.loads(body).items()}
            path, size = raw.get("volumepath", ""), raw.get("size", 0)
        except (ValueError, AttributeError) as error:
            raise _GoError(f"invalid request: {error}") from error
        if not isinstance(path, str) or not isinstance(size, int) or not 0 <= size < 1 << 64:
            raise _GoError("json: cannot unmarshal into Go struct field ResizeRequest")
        await self.agent.resize_volume(self._guest_path(path), size)
        return _go_response(200, b"")

    def _guest_path(self, device: str) -> str:
        # The device has to be there on the host, and to be the very text of the record.
        try:
            Path(device).stat()
        except OSError as error:
            raise _GoError(f"stat {device}: {(error.strerror or '').lower()}") from error
        if device not in self.mounts:
            raise _GoError(f"mount {device} not found in sandbox")
        return self.mounts[device]


class _GoError(Exception):
    """An error whose text is the body of a 500."""


def _go_json(numbers: Numbers) -> bytes:
    """Give what encoding/json makes of the agent's answer: fields that are 0, false or empty are left out."""

    def usage(total: int, available: int, unit: int) -> dict[str, int]:
        fields = {"available": available, "total": total, "used": total - available, "unit": unit}
        return {name: value for name, value in fields.items() if value}

    answer = {
        "usage": [
            usage(numbers.total_bytes, numbers.available_bytes, 1),
            usage(numbers.total_inodes, numbers.available_inodes, 2),
        ],
        "volume_condition": {"message": "OK"},
    }
    return json.dumps(answer, separators=(",", ":")).encode()


_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error"}


# http.Error() sets the type itself, and set headers come first.
_GO_NOT_FOUND = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"X-Content-Type-Options: nosniff\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 19\r\n"
    b"Connection: close\r\n\r\n404 page not found\n"
)


def _go_response(status: int, body: bytes) -> bytes:
    """Give the bytes of net/http: a sniffed type unless the body is empty, and the client's wish to close."""
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Length: {len(body)}",
        *(["Content-Type: text/plain; charset=utf-8"] if body else []),
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


# -- runtime-rs ----------------------------------------------------------------------------------------


class RustShim(_Shim):
    """The shim of runtime-rs: paths go to the agent as they are, and every failure is a closed connection.

    Args:
        socket: `/run/kata/<sandbox id>/shim-monitor.sock`.
        agent: the guest's.
    """

    async def _answer(self, request: Request) -> bytes:
        uri = urlsplit(request.uri)
        match request.method, uri.path:
            case "POST", "/direct-volume/stats":
                return await self._stats(request.uri)
            case "POST", "/direct-volume/resize":
                return await self._resize(request.body)
        return _hyper_response(404, b"URL NOT FOUND")

    async def _stats(self, uri: str) -> bytes:
        parts = urlsplit(uri)
        if not parts.scheme:
            raise Dropped("relative URL without a base")
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))  # the last of a name
        if "path" not in parameters:
            raise Dropped("volume path key not found in request params")
        try:
            numbers = await self.agent.get_volume_stats(parameters["path"])
        except AgentError as error:
            raise Dropped("handler: Failed to get volume stats") from error
        return _hyper_response(200, rust_text(numbers).encode())

    async def _resize(self, body: bytes) -> bytes:
        try:
            raw = json.loads(body)
            path, size = raw["volume_guest_path"], raw["size"]
        except (ValueError, KeyError, TypeError) as error:
            raise Dropped("deserialize resizeRequest failed") from error
        if not isinstance(path, str) or not isinstance(size, int) or not 0 <= size < 1 << 64:
            raise Dropped("deserialize resizeRequest failed")
        try:
            await self.agent.resize_volume(path, size)
        except AgentError as error:
            raise Dropped("handler: Failed to resize volume") from error
        return _hyper_response(200, b"")


_SPECIAL = (
    "special_fields: SpecialFields { unknown_fields: UnknownFields { fields: None }, "
    "cached_size: CachedSize { size: 0 } }"
)


def rust_text(numbers: Numbers) -> str:
    """Give the Debug text of rust-protobuf's messages that runtime-rs answers with."""

    def usage(total: int, available: int, unit: str) -> str:
        return (
            f"VolumeUsage {{ available: {available}, total: {total}, used: {total - available}, "
            f"unit: {unit}, {_SPECIAL} }}"
        )

    usages = ", ".join(
        (
            usage(numbers.total_bytes, numbers.available_bytes, "BYTES"),
            usage(numbers.total_inodes, numbers.available_inodes, "INODES"),
        )
    )
    condition = f'VolumeCondition {{ abnormal: false, message: "OK", {_SPECIAL} }}'
    return f"Usage: [{usages}] Volume Condition: {condition}"


def _hyper_response(status: int, body: bytes) -> bytes:
    """Give the bytes of hyper: small letters, the length always, no type."""
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        "connection: close",
        f"content-length: {len(body)}",
        f"date: {formatdate(usegmt=True)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


# -- where discovery looks -----------------------------------------------------------------------------


class Places:
    """A node's places of shims and containers, below a folder with a short path: a socket's has 107 bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.go = folder / "g"
        self.rust = folder / "r"
        self.shared = folder / "shared"
        self.bundles = folder / "bundles"

    def sandboxes(self, root: Path, **other: Any) -> Sandboxes:
        """Discovery that looks here only."""
        own: dict[str, Any] = {
            "go_sockets": self.go,
            "rust_sockets": self.rust,
            "shared": self.shared,
            "places": [f"{self.bundles}/*/config.json"],
        }
        return Sandboxes(root, **own | other)

    def bundle(
        self,
        container: str,
        sandbox: str,
        *mounts: tuple[str, str],
        key: str = "io.kubernetes.cri.sandbox-id",
        escaped: bool = True,
    ) -> Path:
        """Leave a container's bundle, as containerd does: the mounts are (source, destination)."""
        config = {
            "ociVersion": "1.2.0",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                *({"destination": to, "type": "bind", "source": of} for of, to in mounts),
            ],
            "annotations": {key: sandbox},
        }
        file = self.bundles / container / "config.json"
        file.parent.mkdir(parents=True)
        # Go leaves slashes alone, and escapes these unless told otherwise.
        text = json.dumps(config, ensure_ascii=False)
        for sign in "&<>\u2028" if escaped else "":
            text = text.replace(sign, f"\\u{ord(sign):04x}")
        file.write_text(text)
        return file

    def guest_folder(self, sandbox: str, name: str) -> str:
        """Make a folder as runtime-rs does for a volume of a container; return the guest's path of it."""
        (self.shared / sandbox / "rw" / "passthrough" / name).mkdir(parents=True)
        return f"/run/kata-containers/shared/containers/passthrough/{name}"

    def pod(self, runtime: str, root: Path, target: str, agent: Agent) -> GoShim | RustShim:
        """Have what a running pod's sandbox `pod` leaves on the node; give its shim, to be served.

        The agent is asked about the guest path at which this runtime mounts the volume.
        """
        entry = root / entry_name(target)
        if runtime == "rust":
            self.bundle("container", "pod", (target, "/data"))
            self.guest_folder("pod", "0123456789-89abcdef-data")
            return RustShim(self.rust / "pod" / "shim-monitor.sock", agent)
        (entry / "pod").touch()
        device = json.loads((entry / RECORD_FILE).read_text())["device"]
        mounts = {device: "/run/kata-containers/sandbox/storage/MDU6MDA="}
        return GoShim(self.go / "pod" / "shim-monitor.sock", agent, mounts)


# -- tests without a loop ------------------------------------------------------------------------------


@contextlib.contextmanager
def in_thread(*shims: _Shim) -> Iterator[None]:
    """Serve shims in a thread with a loop of its own, for tests that block the one they run in."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="shims", daemon=True)
    thread.start()

    async def start(stack: contextlib.AsyncExitStack) -> None:
        for shim in shims:
            await stack.enter_async_context(shim)

    stack = contextlib.AsyncExitStack()
    try:
        asyncio.run_coroutine_threadsafe(start(stack), loop).result(10)
        yield
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
