"""The composition root: builds the rooms, serves until told to stop, drains, and closes.

The only module that knows every other. It is imported by `katacsi serve`, so what it imports is what a node
process carries: no command line, no tables, no Kubernetes client.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from katacsi import logs  # isort: skip -- first: it keeps structlog from importing rich

import structlog

import katacsi
from katacsi import tracing
from katacsi.backends import registry
from katacsi.backends.api import PoolContext, Role, Scope, StopSignal
from katacsi.csi.asking import let_backends_ask
from katacsi.csi.methods import METHODS, REDACTION
from katacsi.csi.services import services
from katacsi.csi.telling import Teller
from katacsi.directvolume.handover import FileHandover
from katacsi.directvolume.kata_runtime import KataRuntimeHandover
from katacsi.directvolume.sandboxes import Sandboxes
from katacsi.directvolume.shim_client import HttpShimClient
from katacsi.directvolume.writer import DirectVolumeWriter
from katacsi.errors import HostError, SettingsError
from katacsi.host import command, memory, offloop, processes
from katacsi.kubelet.liveness import serve_health
from katacsi.kubelet.registration import Registrar
from katacsi.metrics import Metrics
from katacsi.metrics_page import serve_metrics
from katacsi.rpc.changes import Changes
from katacsi.rpc.interceptor import Interceptor
from katacsi.rpc.server import DrainingServer
from katacsi.running import start_page, stop_signal
from katacsi.settings import check, check_node_id
from katacsi.volumes.context import Context
from katacsi.volumes.gauges import refresh
from katacsi.volumes.pools import Pool, Pools
from katacsi.volumes.publish.marks import Marks
from katacsi.volumes.workflows import Workflows

if TYPE_CHECKING:
    from katacsi.directvolume.handover import Handover
    from katacsi.httpserver import Page
    from katacsi.settings import Settings
    from katacsi.volumes.cluster import Cluster
    from katacsi.volumes.layers import Layer

#: What may lie between a volume's device and its filesystem, from below; see docs/development.md, "Layers".
LAYERS: tuple[Layer, ...] = ()

log = structlog.get_logger(__name__)

_UNIX = "unix://"


def pools_of(
    settings: Settings,
    node_id: str,
    *,
    read_only: bool = False,
    role: Role = Role.ALL,
    stopping: StopSignal | None = None,
) -> Pools:
    """Make the pools of a configuration; nothing is opened yet.

    Raises:
        SettingsError: no pool, an unknown backend, a setting its backend refuses, or local and network pools.
    """
    if not settings.pools:
        raise SettingsError(
            "pools: there is none; add one, such as `default: {backend: loopfile, directory: /srv/pool}`"
        )
    context = PoolContext(
        pool="",
        driver_name=settings.driver_name,
        node_id=node_id,
        read_only=read_only,
        role=role,
        stopping=stopping or StopSignal(),
    )
    pools = [_pool(settings, name, context) for name in settings.pools]
    network = [pool.name for pool in pools if pool.scope is Scope.NETWORK]
    if network and len(network) < len(pools):
        local = [pool.name for pool in pools if pool.scope is Scope.LOCAL]
        raise SettingsError(
            f"pools: {', '.join(network)}: in the network, and {', '.join(local)}: on a node; a driver has "
            "the one or the other. Install the chart twice, with a driver name for each"
        )
    return Pools(pools)


def _pool(settings: Settings, name: str, about: PoolContext) -> Pool:
    raw = dict(settings.pools[name])
    backend_name = raw.pop("backend")
    factory = registry.load(backend_name)
    own = check(factory.Settings, raw, where=f"pools.{name}")
    remembers = factory.scope is Scope.NETWORK and about.role is not Role.CONTROLLER and not about.read_only
    folder = settings.node_path / name if remembers else None
    backend = factory(own, replace(about, pool=name, state_directory=folder))
    return Pool(name, backend_name, backend, factory.scope, factory.parameters, node_directory=folder)


def workflows_of(
    settings: Settings,
    node_id: str,
    metrics: Metrics,
    *,
    role: Role = Role.ALL,
    stopping: StopSignal | None = None,
) -> Workflows:
    """Put the workflows of one process together.

    Raises:
        SettingsError: as `pools_of`, or something is configured that this version cannot do.
    """
    writer = DirectVolumeWriter(
        settings.direct_volume_root,
        handover=handover_of(settings),
        sandboxes=Sandboxes(settings.direct_volume_root),
        shim_client=HttpShimClient(
            observe=lambda dialect, outcome, seconds: metrics.shim_seconds.labels(dialect, outcome).observe(
                seconds
            )
        ),
    )
    return Workflows.of(
        Context(
            settings=settings,
            node_id=node_id,
            pools=pools_of(settings, node_id, role=role, stopping=stopping),
            marks=Marks(settings.state_path),
            writer=writer,
            metrics=metrics,
            cluster=cluster_of(settings, node_id, metrics),
            layers=LAYERS,
        )
    )


def cluster_of(settings: Settings, node_id: str, metrics: Metrics) -> Cluster | None:
    """Give what asks the Kubernetes API, if it is enabled; others do not carry its 7 MiB."""
    if not settings.kube.enabled:
        return None
    from katacsi.kube.cluster import KubeCluster  # noqa: PLC0415  # so that they do not

    return KubeCluster.of(
        settings.kube,
        controller=settings.driver_name,
        instance=node_id,
        observe=lambda verb, outcome, seconds: metrics.kube_seconds.labels(verb, outcome).observe(seconds),
    )


def handover_of(settings: Settings) -> Handover:
    """Give what changes the records.

    Raises:
        SettingsError: it is a command that is not installed.
    """
    chosen = settings.direct_volume
    if chosen.handover == "file":
        return FileHandover(settings.direct_volume_root)
    try:
        command.require(chosen.kata_runtime)
    except command.MissingTool as error:
        raise SettingsError(
            f"direct_volume.kata_runtime: {error.message}, or give its path, "
            "or set direct_volume.handover to `file`"
        ) from error
    return KataRuntimeHandover(settings.direct_volume_root, chosen.kata_runtime, chosen.kata_config)


async def prove_handover(settings: Settings) -> None:
    """Make sure that records can be handed over, before a pod needs one.

    Raises:
        SettingsError: the command does not work here; the message has what it said.
    """
    handover = handover_of(settings)
    if isinstance(handover, KataRuntimeHandover):
        try:
            await offloop.off_loop(handover.prove)
        except HostError as error:
            raise SettingsError(
                f"direct_volume.kata_runtime: {error.message}; docs/kata-contract.md says what the command "
                "needs; or set direct_volume.handover to `file`"
            ) from error


def socket_of(endpoint: str, base: Path) -> Path:
    """Give the socket's path that an endpoint means: `unix:///path`, `unix:path` or a path.

    Raises:
        SettingsError: another scheme; CSI is spoken on unix sockets only.
    """
    path = endpoint.removeprefix(_UNIX).removeprefix("unix:")
    if "://" in path or not path:
        raise SettingsError(f"--endpoint {endpoint}: give a unix socket, such as unix:///run/csi.sock")
    return base / path


async def serve(settings: Settings, *, socket: Path, node_id: str, role: Role = Role.ALL) -> bool:
    """Serve until SIGTERM or SIGINT, then finish what runs within `timeouts.drain`.

    Returns:
        Whether all came to its end. If not, the pools are still open, and held: the process has to end, and
        the next start resumes what was cut off.

    Raises:
        SettingsError: the configuration cannot be used.
    """
    check_node_id(node_id)
    memory.give_back()
    stop = stop_signal()
    metrics = Metrics.create(katacsi.__version__)
    command.observe(
        lambda tool, outcome, seconds: metrics.command_seconds.labels(tool, outcome).observe(seconds)
    )
    try:
        processes.look_in(Path(settings.host_proc))
    except HostError as error:
        raise SettingsError(
            f"host_proc: {error.message}; mount the node's /proc there, whole and as it is"
        ) from error
    stopping = StopSignal()
    workflows = workflows_of(settings, node_id, metrics, role=role, stopping=stopping)
    async with AsyncExitStack() as stack:
        _start_tracing(settings, node_id, stack)
        await prove_handover(settings)
        await workflows.start()
        stack.push_async_callback(workflows.close)
        await _start_metrics(workflows, stack)
        changes = Changes()
        cluster = workflows.context.cluster
        refused = Teller(cluster.tell, workflows.context.marks) if cluster is not None else None
        server = DrainingServer(
            services(
                workflows,
                changes,
                driver_name=settings.driver_name,
                version=katacsi.__version__,
                role=role,
                network=workflows.fencing,
                newer=settings.newer_capabilities,
            ),
            interceptor=Interceptor(metrics, METHODS, REDACTION, received=let_backends_ask, refused=refused),
            changes=changes,
        )
        # What is there now are modules and models that stay. A full garbage collection would look at all of
        # them, in vain, and stop the event loop for 40 ms (measured); frozen they are passed over. To collect
        # first would cost that much of the start, for a hundred objects.
        gc.freeze()
        gc.enable()
        offloop.stay_beside_loop()
        await server.listen(socket)
        finished = True

        async def drain() -> None:
            nonlocal finished
            finished = await server.drain(settings.timeouts.drain)

        async with AsyncExitStack() as served:
            served.push_async_callback(drain)
            log.info("serving", driver=settings.driver_name, version=katacsi.__version__, node=node_id)
            await _start_health(settings, socket, stack)
            await _start_registration(settings, socket, metrics, served)
            await stop.wait()
            log.info("stopping")
            stopping.set()
        if not finished:
            # Nothing is closed under a step that runs: least of all the lock that keeps others off its pool.
            stack.pop_all()
    log.info("stopped")
    return finished


def run(settings: Settings, *, socket: Path, node_id: str, role: Role = Role.ALL) -> None:
    """Set the log up and serve; returns when told to stop, or ends the process where work is left."""
    logs.configure(settings.log.level, settings.log.format)
    asyncio.run(_serve_and_leave(settings, socket, node_id, role))


async def _serve_and_leave(settings: Settings, socket: Path, node_id: str, role: Role) -> None:
    if not await serve(settings, socket=socket, node_id=node_id, role=role):
        # The interpreter would wait for every thread, and a backend may hang in one for hours.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _start_tracing(settings: Settings, node_id: str, stack: AsyncExitStack) -> None:
    """Have spans recorded and sent, where an endpoint is configured; the last ones when all is closed."""
    about = {"service.version": katacsi.__version__, "k8s.node.name": node_id}
    tracer = tracing.configured(settings.tracing.endpoint, {**about, "katacsi.driver": settings.driver_name})
    if tracer is not None:
        stack.push_async_callback(offloop.off_loop, tracer.close)
        stack.callback(tracing.use, None)
        tracing.use(tracer)


async def _start_metrics(workflows: Workflows, stack: AsyncExitStack) -> None:
    context = workflows.context
    if context.settings.metrics.address is None:
        return
    pages = _inventory(workflows, stack)
    make = partial(serve_metrics, context.metrics.registry, refresh=partial(refresh, context), pages=pages)
    await start_page("metrics", context.settings.metrics.address, make, stack)


async def _start_health(settings: Settings, socket: Path, stack: AsyncExitStack) -> None:
    await start_page("health", settings.health.address, partial(serve_health, socket), stack)


async def _start_registration(
    settings: Settings, socket: Path, metrics: Metrics, stack: AsyncExitStack
) -> None:
    chosen = settings.kubelet
    if chosen.registration_socket is None:
        return
    endpoint = Path(chosen.endpoint) if chosen.endpoint else socket
    registrar = Registrar(Path(chosen.registration_socket), settings.driver_name, endpoint, metrics)
    await registrar.start()
    stack.push_async_callback(registrar.close)


def _inventory(workflows: Workflows, stack: AsyncExitStack) -> dict[str, Page]:
    """Give the page of the inventory, where one is configured."""
    settings = workflows.context.settings.metrics
    if not settings.inventory:
        return {}
    # Only here: most drivers show none, and need not carry what draws it.
    from katacsi.inventory.answering import InventoryPage  # noqa: PLC0415
    from katacsi.inventory.looking import Lookout  # noqa: PLC0415

    lookout = Lookout(workflows.context, katacsi.__version__, orphans=workflows.orphans)
    stack.push_async_callback(lookout.close)
    return {"/volumes": InventoryPage(lookout, only_local=not settings.inventory_anywhere)}
