"""Lifecycles of volumes: what the sidecars and kubelet ask of a driver for one volume, RPC after RPC."""

from __future__ import annotations

import itertools
import resource
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from client import CallFailed, Connection, Messages

if TYPE_CHECKING:
    from servers import Server

SIZE = 64 << 20

CONTROLLER = "/csi.v1.Controller/"
NODE = "/csi.v1.Node/"

_numbers = itertools.count(1)

#: How often a call is made until it has to succeed, and how long it waits in between.
_TRIES = 20
_PAUSE_S = 0.02


@dataclass
class Load:
    """What one stretch of lifecycles gave.

    Attributes:
        lifecycles: how many were finished.
        seconds: how long that took, to the end of the last one.
        steps: step to the seconds that it took, each time.
        retries: how often a call failed and was made again; 0 on a machine that does nothing else.
        server_cpu: seconds of processor time of the measured side, its children included.
        client_cpu: seconds of processor time of the load client.
    """

    lifecycles: int = 0
    seconds: float = 0
    steps: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    retries: int = 0
    server_cpu: float = 0
    client_cpu: float = 0

    @property
    def rate(self) -> float:
        """Lifecycles per second."""
        return self.lifecycles / self.seconds


class Volume:
    """One volume on its way through a server."""

    def __init__(self, server: Server, connection: Kubelet, messages: Messages, steps: dict) -> None:
        self._connection = connection
        self._messages = messages
        self._steps = steps
        self._name = f"pvc-{next(_numbers):012d}"
        self._parameters = server.parameters
        # One after the other on the same paths: what kubelet does around the calls is not what is measured.
        self._staging = connection.folder / "globalmount"
        self._target = connection.folder / "mount"
        capability = messages.VolumeCapability()
        capability.mount.fs_type = "ext4"
        capability.access_mode.mode = 1  # SINGLE_NODE_WRITER
        self._capability = capability
        self._id = ""
        self._context: dict[str, str] = {}

    def create(self) -> None:
        request = self._messages.CreateVolumeRequest(name=self._name, parameters=self._parameters)
        request.capacity_range.required_bytes = SIZE
        request.volume_capabilities.append(self._capability)
        answer = self._messages.CreateVolumeResponse.FromString(
            self._call(CONTROLLER, "CreateVolume", request)
        )
        self._id = answer.volume.volume_id
        self._context = dict(answer.volume.volume_context)

    def get(self) -> None:
        request = self._messages.ControllerGetVolumeRequest(volume_id=self._id)
        self._call(CONTROLLER, "ControllerGetVolume", request)

    def use(self) -> None:
        """Stage, publish, unpublish, unstage."""
        stage = self._messages.NodeStageVolumeRequest(
            volume_id=self._id,
            staging_target_path=str(self._staging),
            volume_capability=self._capability,
            volume_context=self._context,
        )
        publish = self._messages.NodePublishVolumeRequest(
            volume_id=self._id,
            staging_target_path=str(self._staging),
            target_path=str(self._target),
            volume_capability=self._capability,
            volume_context=self._context,
        )
        unpublish = self._messages.NodeUnpublishVolumeRequest(
            volume_id=self._id, target_path=str(self._target)
        )
        unstage = self._messages.NodeUnstageVolumeRequest(
            volume_id=self._id, staging_target_path=str(self._staging)
        )
        self._call(NODE, "NodeStageVolume", stage)
        self._call(NODE, "NodePublishVolume", publish)
        self._call(NODE, "NodeUnpublishVolume", unpublish)
        self._call(NODE, "NodeUnstageVolume", unstage)

    def delete(self) -> None:
        self._call(CONTROLLER, "DeleteVolume", self._messages.DeleteVolumeRequest(volume_id=self._id))

    def _call(self, service: str, method: str, request) -> bytes:
        message = request.SerializeToString()
        started = time.perf_counter()
        for patience in reversed(range(_TRIES)):
            try:
                answer = self._connection.call(service + method, message)
                break
            except CallFailed:
                # Something else on this machine may hold a loop device for a moment. kubelet asks again too.
                if not patience:
                    raise
                self._steps["retries"].append(1)
                time.sleep(_PAUSE_S)
        self._steps[method].append(time.perf_counter() - started)
        return answer


class Kubelet(Connection):
    """A connection with a folder in which volumes are staged and published."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.socket)
        self.folder = server.kubelet / f"pod-{next(_numbers)}"
        (self.folder / "globalmount").mkdir(parents=True)


@contextmanager
def connected(server: Server):
    """Give a connection to a server."""
    connection = Kubelet(server)
    try:
        yield connection
    finally:
        connection.close()


def run(server: Server, messages: Messages, in_flight: int, seconds: float) -> Load:
    """Keep so many lifecycles in flight for so long; each that began is finished and counted."""
    load = Load()
    server_before, client_before = server.processor_seconds(), _own_cpu()
    started = time.perf_counter()
    _in_parallel(server, messages, in_flight, load, lambda: time.perf_counter() - started < seconds)
    load.seconds = time.perf_counter() - started
    load.retries = len(load.steps.pop("retries", ()))
    load.server_cpu = server.processor_seconds() - server_before
    load.client_cpu = _own_cpu() - client_before
    return load


def fill(server: Server, messages: Messages, volumes: int) -> None:
    """Create volumes that stay."""
    rest = itertools.count()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with connected(server) as connection:
                while next(rest) < volumes:
                    Volume(server, connection, messages, defaultdict(list)).create()
        except BaseException as error:  # noqa: BLE001 -- raised again below
            failures.append(error)

    _join([threading.Thread(target=work) for _ in range(8)], failures)


def _in_parallel(server: Server, messages: Messages, in_flight: int, load: Load, goes_on) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with connected(server) as connection:
                while goes_on() and not failures:
                    volume = Volume(server, connection, messages, load.steps)
                    volume.create()
                    volume.use()
                    volume.delete()
                    done.append(volume)
        except BaseException as error:  # noqa: BLE001 -- raised again below
            failures.append(error)

    done: list[Volume] = []
    _join([threading.Thread(target=work) for _ in range(in_flight)], failures)
    load.lifecycles = len(done)


def _join(threads: list[threading.Thread], failures: list[BaseException]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
