"""Which client disturbs the server least: processor time per call of three of them, against both drivers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
import servers
from client import Connection
from grpclib.client import Channel, UnaryUnaryMethod
from rich.console import Console
from rich.table import Table
from scratch import scratch

import gotools

if TYPE_CHECKING:
    from pathlib import Path

METHOD = "/csi.v1.Node/NodeGetCapabilities"
CALLS = 2000


class _Bytes:
    """A codec that leaves bytes alone, so that only the transport is compared."""

    __content_subtype__ = "proto"

    def encode(self, message, message_type):
        return message

    def decode(self, data, message_type):
        return data


def main(folder: Path) -> int:
    """Print the table."""
    table = Table("server", "client", title="One unary call, one after the other", title_justify="left")
    for head in ("client CPU µs", "latency µs"):
        table.add_column(head, justify="right")
    with scratch(folder) as home:
        drivers = [servers.katacsi(home)]
        try:
            drivers.append(servers.host_path(home, gotools.tool_path("hostpathplugin")))
        except gotools.Unavailable as reason:
            print(reason)
        for driver in drivers:
            driver.start()
            try:
                for name, calls in (("by hand", _by_hand), ("grpcio", _grpcio), ("grpclib", _grpclib)):
                    cpu, latency = calls(driver)
                    table.add_row(driver.name, name, f"{cpu * 1e6:.0f}", f"{latency * 1e6:.0f}")
            finally:
                driver.stop()
    Console().print(table)
    return 0


def _timed(call) -> tuple[float, float]:
    call()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.process_time() - cpu) / CALLS, (time.perf_counter() - wall) / CALLS


def _by_hand(driver: servers.Server) -> tuple[float, float]:
    connection = Connection(driver.socket)
    try:
        return _timed(lambda: connection.call(METHOD, b""))
    finally:
        connection.close()


def _grpcio(driver: servers.Server) -> tuple[float, float]:
    with grpc.insecure_channel(f"unix:{driver.socket}") as channel:
        call = channel.unary_unary(METHOD)
        return _timed(lambda: call(b""))


def _grpclib(driver: servers.Server) -> tuple[float, float]:
    return asyncio.run(_grpclib_calls(driver))


async def _grpclib_calls(driver: servers.Server) -> tuple[float, float]:
    channel = Channel(path=str(driver.socket), codec=_Bytes())
    method = UnaryUnaryMethod(channel, METHOD, bytes, bytes)
    try:
        await method(b"")
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(CALLS):
            await method(b"")
        return (time.process_time() - cpu) / CALLS, (time.perf_counter() - wall) / CALLS
    finally:
        channel.close()
