"""The questions that volumes ask of the cluster, each with its price: one GET, or none."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from katacsi.errors import NotFound, Precondition
from katacsi.kube import paths
from katacsi.kube.client import ClusterApi
from katacsi.kube.credentials import credentials_of
from katacsi.kube.events import EventRecorder
from katacsi.kube.objects import Claim, ObjectRef, Pod

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from katacsi.settings import KubeSettings


def api_of(settings: KubeSettings, observe: Callable[[str, str, float], None]) -> ClusterApi:
    """Give the client that is configured; `observe` as `ClusterApi` has it."""
    return ClusterApi(credentials_of(settings), timeout_s=settings.timeout, observe=observe)


def _handle(driver: str, persistent_volume: Mapping[str, Any]) -> str:
    """Give the volume's id in a PersistentVolume, if it is one of this driver."""
    said = (persistent_volume.get("spec") or {}).get("csi") or {}
    return str(said.get("volumeHandle") or "") if said.get("driver") == driver else ""


class KubeCluster:
    """Answers from the Kubernetes API; see `katacsi.volumes.cluster.Cluster`.

    Args:
        api: the client.
        events: what writes Events; None: nobody is told anything.
        runtime_class_cache_s: how long the handler of a RuntimeClass is remembered.
    """

    def __init__(
        self, api: ClusterApi, events: EventRecorder | None, *, runtime_class_cache_s: float
    ) -> None:
        self._api = api
        self._events = events
        self._cache_s = runtime_class_cache_s
        self._handlers: dict[str, tuple[float, str]] = {}

    @classmethod
    def of(
        cls,
        settings: KubeSettings,
        *,
        controller: str,
        instance: str,
        observe: Callable[[str, str, float], None],
    ) -> Self:
        """Put it together as configured; `controller` and `instance` are who its Events are from."""
        api = api_of(settings, observe)
        events = EventRecorder(api, controller=controller, instance=instance) if settings.events else None
        return cls(api, events, runtime_class_cache_s=settings.runtime_class_cache)

    async def start(self) -> None:
        """Read the credentials; the API server need not be there yet.

        Raises:
            SettingsError: there are none, or they cannot be used.
        """
        await self._api.start()

    async def close(self) -> None:
        """Write the Events that are waiting, for a second at most, and let go of the connection."""
        if self._events is not None:
            await self._events.close()
        await self._api.close()

    async def claim(self, ref: ObjectRef) -> Claim:
        """Read a claim: one GET.

        Raises:
            Precondition: it is gone, or another one has its name now.
        """
        try:
            found = Claim.of(await self._api.get(paths.claim(ref.namespace, ref.name), what=str(ref)))
        except NotFound as error:
            raise Precondition(f"{ref}: was deleted, so no volume is made for it") from error
        if ref.uid and found.ref.uid != ref.uid:
            raise Precondition(
                f"{ref}: the claim that the volume is for ({ref.uid}) was deleted, and another one "
                f"({found.ref.uid}) has its name; no volume is made"
            )
        return found

    async def pod(self, ref: ObjectRef) -> Pod:
        """Read a pod: one GET.

        Raises:
            Precondition: it is gone, or another one has its name now.
        """
        try:
            found = Pod.of(await self._api.get(paths.pod(ref.namespace, ref.name), what=str(ref)))
        except NotFound as error:
            raise Precondition(f"{ref} ({ref.uid}): was deleted, so nothing is published for it") from error
        if found.ref.uid != ref.uid:
            raise Precondition(
                f"{ref}: the pod that the volume is for ({ref.uid}) was deleted, and another one "
                f"({found.ref.uid}) has its name; nothing is published for the first"
            )
        return found

    async def runtime_handler(self, pod: Pod) -> str:
        """Give the handler of a pod's RuntimeClass: one GET, or none where it was asked for lately.

        Raises:
            Precondition: there is no such RuntimeClass.
        """
        name = pod.runtime_class
        asked_at, handler = self._handlers.get(name, (-self._cache_s, ""))
        if handler and time.monotonic() - asked_at < self._cache_s:
            return handler
        try:
            found = await self._api.get(paths.runtime_class(name), what=f"RuntimeClass {name} of {pod.ref}")
        except NotFound as error:
            raise Precondition(
                f"{pod.ref}: its RuntimeClass {name!r} does not exist, so nobody knows whether it runs in "
                "Kata; create the RuntimeClass, or give the pod another runtimeClassName"
            ) from error
        handler = str(found.get("handler") or "")
        self._handlers[name] = (time.monotonic(), handler)
        return handler

    async def claim_of(self, persistent_volume: str) -> str:
        """Give the name of the claim that a PersistentVolume is bound to: one GET.

        Raises:
            Precondition: there is no such PersistentVolume, or nothing has claimed it.
        """
        what = f"PV {persistent_volume}"
        try:
            found = await self._api.get(paths.persistent_volume(persistent_volume), what=what)
        except NotFound as error:
            raise Precondition(f"{what}: does not exist, so its claim is not known") from error
        claim = ((found.get("spec") or {}).get("claimRef") or {}).get("name")
        if not claim:
            raise Precondition(f"{what}: is bound to no claim")
        return str(claim)

    async def without_persistent_volume(self, driver: str, volumes: Mapping[str, str]) -> frozenset[str]:
        """Say to which volumes of a driver no PersistentVolume leads.

        One GET each, by the name that the provisioner gives it. Only where one finds none all are listed: a
        person may have made it under another name.
        """
        missing = {
            volume_id for volume_id, name in volumes.items() if not await self._leads(driver, volume_id, name)
        }
        if missing:
            async for found in self._api.list(paths.persistent_volumes(), what="PersistentVolumes"):
                missing.discard(_handle(driver, found))
        return frozenset(missing)

    async def _leads(self, driver: str, volume_id: str, name: str) -> bool:
        try:
            found = await self._api.get(paths.persistent_volume(name), what=f"PV {name}")
        except (NotFound, Precondition):  # or it cannot be the name of one
            return False
        return _handle(driver, found) == volume_id

    def tell(self, about: ObjectRef, action: str, reason: str, note: str) -> None:
        """Have an Event written on an object, soon; never fails, never waits."""
        if self._events is not None:
            self._events.tell(about, action, reason, note)
