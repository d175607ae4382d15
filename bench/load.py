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

from client import CallFailed, Connection

from katacsi.testing import kubelet
from katacsi.testing.kubelet import csi

if TYPE_CHECKING:
    from servers import Server

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


class Kubelet(Connection):
    """A connection, and what is the same in all requests for the volumes that are used on it, one by one."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.process.socket)
        folder = server.kubelet / f"pod-{next(_numbers)}"
        folder.mkdir()
        # Always the same paths: what kubelet does around the calls is not what is measured.
        self._volume = kubelet.Volume(
            "", staging=folder / "globalmount", target=folder / "mount", parameters=server.parameters
        )
        self._volume.staging.mkdir()
        self.creation = bytes(self._volume.creation())
        self._node_calls: dict[str, bytes] = {}

    def node_calls(self, context: dict[str, str]) -> dict[str, bytes]:
        """Give the four calls of a volume's use without its id."""
        if context != self._volume.context or not self._node_calls:
            volume = self._volume
            volume.context = context
            self._node_calls = {
                "NodeStageVolume": bytes(volume.to_stage()),
                "NodePublishVolume": bytes(volume.to_publish()),
                "NodeUnpublishVolume": bytes(volume.to_unpublish()),
                "NodeUnstageVolume": bytes(volume.to_unstage()),
            }
        return self._node_calls


class Volume:
    """One volume on its way through a server.

    A message of protobuf is its fields, one after the other: to the bytes that are ready, the name or the id
    of the volume is added. An id is the first field of every request that has one.
    """

    def __init__(self, connection: Kubelet, steps: dict[str, list[float]]) -> None:
        self._connection = connection
        self._steps = steps
        self._name = f"pvc-{next(_numbers):012d}"
        self._id = b""
        self._context: dict[str, str] = {}

    def create(self) -> None:
        name = bytes(csi.CreateVolumeRequest(name=self._name))
        answer = self._call(CONTROLLER, "CreateVolume", name + self._connection.creation)
        made = csi.CreateVolumeResponse.parse(answer).volume
        self._id = bytes(csi.DeleteVolumeRequest(volume_id=made.volume_id))
        self._context = made.volume_context

    def get(self) -> None:
        self._call(CONTROLLER, "ControllerGetVolume", self._id)

    def use(self) -> None:
        """Stage, publish, unpublish, unstage."""
        for method, rest in self._connection.node_calls(self._context).items():
            self._call(NODE, method, self._id + rest)

    def delete(self) -> None:
        self._call(CONTROLLER, "DeleteVolume", self._id)

    def _call(self, service: str, method: str, message: bytes) -> bytes:
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


@contextmanager
def connected(server: Server):
    """Give a connection to a server."""
    connection = Kubelet(server)
    try:
        yield connection
    finally:
        connection.close()


def run(server: Server, in_flight: int, seconds: float) -> Load:
    """Keep so many lifecycles in flight for so long; each that began is finished and counted."""
    load = Load()
    server_before, client_before = server.processor_seconds(), _own_cpu()
    started = time.perf_counter()
    _in_parallel(server, in_flight, load, lambda: time.perf_counter() - started < seconds)
    load.seconds = time.perf_counter() - started
    load.retries = len(load.steps.pop("retries", ()))
    load.server_cpu = server.processor_seconds() - server_before
    load.client_cpu = _own_cpu() - client_before
    return load


def fill(server: Server, volumes: int) -> None:
    """Create volumes that stay."""
    rest = itertools.count()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with connected(server) as connection:
                while next(rest) < volumes:
                    Volume(connection, defaultdict(list)).create()
        except BaseException as error:  # noqa: BLE001 -- raised again below
            failures.append(error)

    _join([threading.Thread(target=work) for _ in range(8)], failures)


def _in_parallel(server: Server, in_flight: int, load: Load, goes_on) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with connected(server) as connection:
                while goes_on() and not failures:
                    volume = Volume(connection, load.steps)
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
