"""Registering the driver with the kubelet, without a node-driver-registrar beside it.

The kubelet watches its folder plugins_registry/. It asks each socket that appears there what it is, takes the
plugin or refuses it, and says so. What it refused it asks again only once the socket is made anew; and it
lets go of a plugin whose socket is removed.

Source: Kubernetes, pkg/kubelet/pluginmanager (the plugin watcher, the reconciler, RegisterPlugin).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from katacsi._gen import pluginregistration
from katacsi.errors import SettingsError
from katacsi.rpc.calls import methods_of
from katacsi.rpc.changes import Changes
from katacsi.rpc.interceptor import Interceptor
from katacsi.rpc.redact import Redaction
from katacsi.rpc.server import DrainingServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from katacsi.metrics import Metrics

log = structlog.get_logger(__name__)

#: The only kind of plugin of which the kubelet hears here, and CSI's version as it wants to read it.
_TYPE: Final = "CSIPlugin"
_VERSIONS: Final = ("1.0.0",)

#: How long after a refusal the socket is made anew, at first and at most; each refusal doubles it.
_FIRST_PAUSE_S: Final = 1.0
_LAST_PAUSE_S: Final = 60.0
#: The kubelet's two calls are answered from memory.
_DRAIN_S: Final = 1.0


class Registration(pluginregistration.RegistrationBase):
    """The service that the kubelet asks: what there is, and what came of it.

    Args:
        driver_name: the CSI driver name.
        endpoint: the CSI socket by the kubelet's own path.
        ended: called with the kubelet's reason, which is empty where it took the driver.
    """

    def __init__(self, driver_name: str, endpoint: Path, ended: Callable[[str], None]) -> None:
        self._info = pluginregistration.PluginInfo(
            type=_TYPE, name=driver_name, endpoint=str(endpoint), supported_versions=list(_VERSIONS)
        )
        self._ended = ended

    async def get_info(self, message: pluginregistration.InfoRequest) -> pluginregistration.PluginInfo:
        """Name the driver and its socket."""
        del message
        return self._info

    async def notify_registration_status(
        self, message: pluginregistration.RegistrationStatus
    ) -> pluginregistration.RegistrationStatusResponse:
        """Hear whether the kubelet took the driver."""
        self._ended("" if message.plugin_registered else message.error or "the kubelet gave no reason")
        return pluginregistration.RegistrationStatusResponse()


class Registrar:
    """Keeps the driver registered from `start` to `close`: its socket exists exactly so long.

    Args:
        socket: where to listen; below the kubelet's plugins_registry/.
        driver_name: the CSI driver name.
        endpoint: the CSI socket by the kubelet's own path.
        metrics: where the kubelet's calls are counted.
        first_pause_s: how long after a refusal the socket is made anew.
    """

    def __init__(
        self,
        socket: Path,
        driver_name: str,
        endpoint: Path,
        metrics: Metrics,
        first_pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        self._socket = socket
        self._service = Registration(driver_name, endpoint, self._ended)
        self._metrics = metrics
        self._first_pause_s = first_pause_s
        self._pause_s = first_pause_s
        self._refused = asyncio.Event()
        self._server: DrainingServer | None = None
        self._again: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the socket, for which the kubelet looks out.

        Raises:
            SettingsError: it cannot be made; with the remedy.
        """
        try:
            await self._listen()
        except SettingsError as error:
            raise SettingsError(
                f"kubelet.registration_socket: {error.message}; it belongs into the folder plugins_registry "
                "of the kubelet (/var/lib/kubelet/plugins_registry), which a container has to be given"
            ) from error
        self._again = asyncio.create_task(self._make_anew())

    async def close(self) -> None:
        """Remove the socket; the kubelet lets go of the driver."""
        if self._again is not None:
            self._again.cancel()
            await asyncio.wait([self._again])
        await self._remove()

    async def _listen(self) -> None:
        interceptor = Interceptor(self._metrics, methods_of([self._service]), Redaction())
        server = DrainingServer([self._service], interceptor=interceptor, changes=Changes())
        await server.listen(self._socket)
        self._server = server

    async def _remove(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.drain(_DRAIN_S)

    def _ended(self, reason: str) -> None:
        if reason:
            log.error(
                "the kubelet refused the driver: no pod can use its volumes until it is registered",
                reason=reason,
                socket=str(self._socket),
                tries_again_in_s=self._pause_s,
            )
            self._refused.set()
        else:
            self._pause_s = self._first_pause_s
            log.info("registered with the kubelet", socket=str(self._socket))

    async def _make_anew(self) -> None:
        """Make the socket anew after each refusal: nothing else has the kubelet try again."""
        while True:
            await self._refused.wait()
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, _LAST_PAUSE_S)
            self._refused.clear()
            await self._remove()
            try:
                await self._listen()
            except SettingsError as error:
                log.error("the registration socket cannot be made anew", error=error.message)
                self._refused.set()
