"""The process `katacsi watch-nodes`: looks until it is told to stop; pages say how it goes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import platform
import random
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from katacsi import logs  # isort: skip -- first: it keeps structlog from importing rich

import structlog

import katacsi
from katacsi.errors import KatacsiError, SettingsError
from katacsi.httpserver import Answer, HttpServer
from katacsi.kube.cluster import api_of
from katacsi.kube.credentials import SERVICE_ACCOUNT
from katacsi.kube.events import EventRecorder
from katacsi.metrics import NodeWatchMetrics
from katacsi.metrics_page import serve_metrics
from katacsi.nodewatch.decision import Rules
from katacsi.nodewatch.watcher import NodeWatcher
from katacsi.running import start_page, stop_signal

if TYPE_CHECKING:
    from katacsi.httpserver import Request
    from katacsi.kube.objects import ObjectRef
    from katacsi.settings import Settings

log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Set the log up and watch; returns when told to stop."""
    logs.configure(settings.log.level, settings.log.format)
    gc.enable()
    asyncio.run(watch(settings))


async def watch(settings: Settings) -> None:
    """Watch until SIGTERM or SIGINT.

    Raises:
        SettingsError: the configuration cannot be used, or there are no credentials.
    """
    stop = stop_signal()
    chosen = settings.watch_nodes
    namespace = chosen.namespace or _own_namespace(needed=chosen.release)
    metrics = NodeWatchMetrics.create(katacsi.__version__)
    async with AsyncExitStack() as stack:
        api = api_of(
            settings.kube,
            lambda verb, outcome, seconds: metrics.kube_seconds.labels(verb, outcome).observe(seconds),
        )
        stack.push_async_callback(api.close)
        await api.start()
        recorder = EventRecorder(api, controller=settings.driver_name, instance=platform.node())
        stack.push_async_callback(recorder.close)
        await start_page("metrics", settings.metrics.address, partial(serve_metrics, metrics.registry), stack)
        await start_page("health", settings.health.address, _serve_health, stack)
        watcher = NodeWatcher(
            api,
            Rules(settings.driver_name, settings.topology_key, chosen.grace, chosen.release),
            interval_s=chosen.interval,
            namespace=namespace,
            tell=recorder.tell if settings.kube.events else _tell_nobody,
            metrics=metrics,
        )
        log.info("watching nodes", driver=settings.driver_name, release=chosen.release)
        looking = asyncio.create_task(_look_again_and_again(watcher, chosen.interval, metrics))
        try:
            await _first_of(stop, looking)
        finally:
            # A write that was sent is done or not; the next look, here or in another process, goes on.
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking
    log.info("stopped")


async def _look_again_and_again(watcher: NodeWatcher, interval_s: float, metrics: NodeWatchMetrics) -> None:
    failures = 0
    while True:
        try:
            await watcher.look()
        except KatacsiError as error:
            failures += 1
            metrics.failed_looks.inc()
            log.warning("cannot look at the nodes", error=error.message, failures=failures)
        else:
            failures = 0
        pause = min(2.0 ** min(failures, 16), interval_s) if failures else interval_s
        # Two of us that were started together do not ask together for ever.
        await asyncio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311  # no secret


async def _first_of(stop: asyncio.Event, looking: asyncio.Task[None]) -> None:
    """Wait for the signal; an error that nobody expected ends the process, and the kubelet starts it anew."""
    told = asyncio.create_task(stop.wait())
    await asyncio.wait({told, looking}, return_when=asyncio.FIRST_COMPLETED)
    if looking.done():
        told.cancel()
        looking.result()


async def _serve_health(host: str, port: int) -> HttpServer:
    server = HttpServer({"/healthz": _alive})
    await server.start(host, port)
    return server


async def _alive(request: Request) -> Answer:
    """Say that the event loop turns: no request outlasts kube.timeout, and a restart brings no API back."""
    del request
    return Answer(b"ok\n")


def _own_namespace(*, needed: bool) -> str:
    try:
        return (SERVICE_ACCOUNT / "namespace").read_text("ascii").strip()
    except OSError as error:
        if not needed:
            return ""
        raise SettingsError(
            f"watch_nodes.namespace: this is no pod, whose namespace would be taken ({error.strerror}: "
            f"{error.filename}); name the one in which the driver's provisioners run"
        ) from error


def _tell_nobody(about: ObjectRef, action: str, reason: str, note: str) -> None:
    log.info("not told, as kube.events says", about=str(about), action=action, reason=reason, note=note)
