"""Asks Kata's shims about a volume, in the dialect of each runtime.

Source: kata-containers 4.1.0. Go: runtime/pkg/containerd-shim-v2/shim_management.go. runtime-rs:
runtime-rs/crates/runtimes/src/shim_mgmt/handlers.rs and agent/src/kata/trans.rs. The agent that both pass the
question on to: agent/src/rpc.rs, get_volume_stats() and resize_volume().
"""

from __future__ import annotations

import json
import re
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from katacsi.directvolume import proof, shim_http
from katacsi.directvolume.shim import Dialect, GuestStats
from katacsi.errors import Unavailable, Unsupported
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from katacsi.directvolume.proof import OnDevice
    from katacsi.directvolume.shim import Sandbox
    from katacsi.directvolume.shim_http import Response

    #: Told the dialect, the outcome (`ok`, `refused` or `failed`) and the seconds of a request.
    Observer = Callable[[str, str, float], None]

_STATS = "/direct-volume/stats"
_RESIZE = "/direct-volume/resize"
#: runtime-rs parses the request target as a URL: the origin form has no base, and the connection is dropped.
_BASE = "http://shim"

# CSI's numbers and names for the unit of a usage.
_BYTES, _INODES = 1, 2
_UNITS = {"BYTES": _BYTES, "INODES": _INODES}

# The Debug text of the agent's VolumeUsage; a field that is not known here may follow.
_USAGE = re.compile(
    r"VolumeUsage \{ available: (\d{1,20}), total: (\d{1,20}), used: (\d{1,20}), unit: ([A-Z]+)[ ,}]",
    re.ASCII,
)

#: gRPC's code for "not implemented", as Go prints an agent's error.
_UNIMPLEMENTED = "code = Unimplemented"

_MAX_REASON = 300


class HttpShimClient:
    """Asks over the shim's own socket, within a time for each question.

    Args:
        timeout_s: how long one question may take; Kata's own client gives up after 3 s.
        observe: told of every request.
    """

    def __init__(self, *, timeout_s: float = 3.0, observe: Observer | None = None) -> None:
        self._timeout_s = timeout_s
        self._observe = observe or (lambda dialect, outcome, seconds: None)

    async def stats(self, sandbox: Sandbox, device: str) -> GuestStats:
        """Ask how full the filesystem on a device is; numbers that are not its own are not passed on.

        Raises:
            Unavailable: there is no answer, or none that is certainly about this device; it says why.
        """
        on_device = await off_loop(proof.on_device, device)
        if sandbox.dialect is Dialect.RUST:
            return (await self._found_in_guest(sandbox, device, on_device))[1]
        # Unescaped twice (by the query, then as a path), so quoted twice: names may hold `%` and `+`.
        target = f"{_STATS}?path={quote(quote(device, safe=''), safe='')}"
        stats = _from_json(await self._asked(sandbox, "GET", target), sandbox)
        if on_device is not None and not on_device.shows(stats):
            raise Unavailable(f"{sandbox}: gave numbers that are not those of {device}; ignored")
        return stats

    async def resize(self, sandbox: Sandbox, device: str, size_bytes: int) -> None:
        """Have the guest's filesystem fill a device that has grown to `size_bytes`.

        Raises:
            Unsupported: the runtime says that it cannot do this.
            Unavailable: as `stats`; what happened in the guest is not known.
        """
        if sandbox.dialect is Dialect.RUST:
            on_device = await off_loop(proof.on_device, device)
            path, _ = await self._found_in_guest(sandbox, device, on_device)
            body: dict[str, str | int] = {"volume_guest_path": path, "size": size_bytes}
            await self._asked(sandbox, "POST", _BASE + _RESIZE, body)
        else:
            await self._asked(sandbox, "POST", _RESIZE, {"VolumePath": device, "Size": size_bytes})

    async def _found_in_guest(
        self, sandbox: Sandbox, device: str, on_device: OnDevice | None
    ) -> tuple[str, GuestStats]:
        """Find where a guest of runtime-rs has a device mounted, with the numbers that prove it.

        The shim passes on any path, and the agent answers for whatever lies there: the folder of a container
        that is gone shows the node's own disk, through virtio-fs.
        """
        if on_device is None:
            raise Unavailable(f"{sandbox}: no ext4 or xfs can be seen on {device} to compare with")
        proven: list[tuple[str, GuestStats]] = []
        reasons: list[str] = []
        deadline = time.monotonic() + self._timeout_s
        for path in sandbox.guest_paths:
            if reasons and time.monotonic() >= deadline:
                break
            target = f"{_BASE}{_STATS}?path={quote(path, safe='')}"
            try:
                answer = await self._asked(sandbox, "POST", target, deadline=deadline)
                stats = _from_text(answer, sandbox)
            except Unavailable as error:
                reasons.append(error.message)
                continue
            if on_device.shows(stats):
                proven.append((path, stats))
        # The name begins with the sandbox's own name of the device.
        devices = {PurePosixPath(path).name.partition("-")[0] for path, _ in proven}
        if len(devices) == 1:
            return proven[0]
        if devices:
            fact = f"{len(devices)} devices of the guest look like {device}"
        elif reasons:
            fact = reasons[-1].removeprefix(f"{sandbox}: ")
        else:
            fact = f"nothing shows where the guest has {device}"
        raise Unavailable(f"{sandbox}: {fact}")

    async def _asked(
        self,
        sandbox: Sandbox,
        method: str,
        target: str,
        body: Mapping[str, str | int] | None = None,
        *,
        deadline: float | None = None,
    ) -> bytes:
        began = time.monotonic()
        timeout_s = self._timeout_s if deadline is None else max(deadline - began, 0.01)
        outcome = "failed"
        try:
            data = None if body is None else json.dumps(body).encode()
            response = await shim_http.request(sandbox.socket, method, target, data, timeout_s=timeout_s)
            outcome = "ok" if response.status == 200 else "refused"
        except Unavailable as error:
            raise Unavailable(f"{sandbox}: {error.message}") from error
        finally:
            self._observe(sandbox.dialect.value, outcome, time.monotonic() - began)
        if response.status != 200:
            raise _refusal(sandbox, response)
        return response.body


def _refusal(sandbox: Sandbox, response: Response) -> Unsupported | Unavailable:
    text = " ".join(response.body.decode("utf-8", "replace").split())[:_MAX_REASON]
    message = f"{sandbox}: answered {response.status}: {text}"
    if response.status == 500 and _UNIMPLEMENTED in text:
        return Unsupported(message)
    return Unavailable(message)


def _from_json(data: bytes, sandbox: Sandbox) -> GuestStats:
    """Read what Go's encoding/json wrote: what is 0 is left out."""
    try:
        usages = json.loads(data)["usage"]
        numbers = {usage["unit"]: _three(usage) for usage in usages}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unavailable(f"{sandbox}: the answer is not about a volume") from error
    return _stats(numbers, sandbox)


def _three(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    available, total, used = (usage.get(key, 0) for key in ("available", "total", "used"))
    for number in (available, total, used):
        if type(number) is not int or number < 0:
            raise ValueError(f"{number!r} is no count")
    return available, total, used


def _from_text(data: bytes, sandbox: Sandbox) -> GuestStats:
    """Read the text that runtime-rs makes of the agent's answer."""
    found = _USAGE.findall(data.decode("utf-8", "replace"))
    numbers = {
        _UNITS[unit]: (int(available), int(total), int(used))
        for available, total, used, unit in found
        if unit in _UNITS
    }
    return _stats(numbers, sandbox)


def _stats(numbers: Mapping[Any, tuple[int, int, int]], sandbox: Sandbox) -> GuestStats:
    if _BYTES not in numbers or _INODES not in numbers or not numbers[_BYTES][1]:
        raise Unavailable(f"{sandbox}: the answer lacks bytes or inodes")
    for available, total, used in numbers.values():
        if available > total or used > total:
            raise Unavailable(f"{sandbox}: the answer's numbers make no sense")
    (available, total, used), (free_inodes, inodes, used_inodes) = numbers[_BYTES], numbers[_INODES]
    return GuestStats(
        total_bytes=total,
        available_bytes=available,
        used_bytes=used,
        total_inodes=inodes,
        available_inodes=free_inodes,
        used_inodes=used_inodes,
    )
