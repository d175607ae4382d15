"""Registration with the kubelet, over a real socket: what it is told, and what a refusal brings about."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from grpclib.client import Channel

from katacsi._gen import pluginregistration as kubelet
from katacsi.errors import SettingsError
from katacsi.kubelet.registration import Registrar
from katacsi.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "local.katacsi.io"
ENDPOINT = "/var/lib/kubelet/plugins/local.katacsi.io/csi.sock"


@pytest.fixture
def path() -> Iterator[Path]:
    """Where the kubelet looks for the driver's socket."""
    # Not tmp_path, which gets too long for a socket's path where several processes test.
    with tempfile.TemporaryDirectory(prefix="ktc-") as folder:
        registry = Path(folder) / "plugins_registry"
        registry.mkdir()
        yield registry / f"{NAME}-reg.sock"


@pytest.fixture
def registrar(path):
    """One that does not let the test wait after a refusal."""
    from pathlib import Path

    return Registrar(path, NAME, Path(ENDPOINT), Metrics.create(), first_pause_s=0.01)


class Kubelet:
    """What the kubelet does with a socket."""

    def __init__(self, path: Path) -> None:
        self._channel = Channel(path=str(path))
        self._calls = kubelet.RegistrationStub(self._channel)

    async def __aenter__(self) -> kubelet.RegistrationStub:
        return self._calls

    async def __aexit__(self, *_) -> None:
        self._channel.close()
        await asyncio.sleep(0.01)  # its transport closes in the next turns


async def say(path: Path, *, registered: bool, error: str = "") -> None:
    async with Kubelet(path) as calls:
        await calls.notify_registration_status(
            kubelet.RegistrationStatus(plugin_registered=registered, error=error)
        )


def identity(path: Path) -> tuple[int, int] | None:
    """Tell one file from the next at its path; an inode's number may be used again at once."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


async def until_another(path: Path, former: object) -> object:
    """Wait until another socket lies at the path."""
    async with asyncio.timeout(5):
        while (found := identity(path)) in (None, former):  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(0.005)
    return found


async def test_the_kubelet_is_told_what_and_where_the_driver_is(registrar, path):
    """GetInfo names a CSI plugin, the driver, its socket by the kubelet's path, and CSI's version."""
    await registrar.start()
    async with Kubelet(path) as calls:
        info = await calls.get_info(kubelet.InfoRequest())
    await registrar.close()
    assert (info.type, info.name, info.endpoint) == ("CSIPlugin", NAME, ENDPOINT)
    assert info.supported_versions == ["1.0.0"]


def test_the_messages_have_the_kubelets_numbers():
    """Field numbers and types are those that the kubelet reads and writes, written out by hand here."""
    info = kubelet.PluginInfo(type="T", name="N", endpoint="E", supported_versions=["1.0.0"])
    assert bytes(info) == b"\x0a\x01T\x12\x01N\x1a\x01E\x22\x051.0.0"
    status = kubelet.RegistrationStatus.parse(b"\x08\x01\x12\x02no")
    assert (status.plugin_registered, status.error) == (True, "no")
    paths = set(kubelet.RegistrationBase().__mapping__())
    service = "/pluginregistration.Registration/"
    assert paths == {f"{service}GetInfo", f"{service}NotifyRegistrationStatus"}


async def test_a_refusal_is_told_loudly_and_tried_again(registrar, path, log_stream):
    """The kubelet asks a socket that it refused no more: it gets a new one, and the log has its reason."""
    await registrar.start()
    former = identity(path)
    await say(path, registered=False, error="driver name x is not known")
    former = await until_another(path, former)
    await say(path, registered=False, error="")
    await until_another(path, former)
    async with Kubelet(path) as calls:
        assert (await calls.get_info(kubelet.InfoRequest())).name == NAME
    await registrar.close()
    lines = [json.loads(line) for line in log_stream.getvalue().splitlines()]
    refused = [line for line in lines if line["event"].startswith("the kubelet refused the driver")]
    assert [line["level"] for line in refused] == ["error", "error"]
    assert [line["reason"] for line in refused] == [
        "driver name x is not known",
        "the kubelet gave no reason",
    ]
    assert [line["tries_again_in_s"] for line in refused] == [0.01, 0.02]


async def test_a_driver_that_was_taken_keeps_its_socket(registrar, path):
    """A new socket would have the kubelet drop the driver. A later refusal waits as short as the first."""
    await registrar.start()
    former = identity(path)
    await say(path, registered=False, error="not yet")
    former = await until_another(path, former)
    assert registrar._pause_s == 0.02
    await say(path, registered=True)
    await asyncio.sleep(0.1)
    assert identity(path) == former
    assert registrar._pause_s == 0.01
    await registrar.close()


async def test_closing_removes_the_socket_also_while_a_new_try_waits(path):
    """The socket says that the driver serves; when it ends, the kubelet has to let go of it."""
    from pathlib import Path

    registrar = Registrar(path, NAME, Path(ENDPOINT), Metrics.create(), first_pause_s=60)
    await registrar.start()
    await say(path, registered=False, error="no")
    await registrar.close()
    assert list(path.parent.iterdir()) == []


async def test_a_socket_that_a_reboot_left_is_replaced(registrar, path):
    """The folder survives a reboot, and with it the socket's file, on which nobody listens."""
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(path))
    await registrar.start()
    async with Kubelet(path) as calls:
        assert (await calls.get_info(kubelet.InfoRequest())).name == NAME
    await registrar.close()


async def test_a_folder_that_is_not_there_is_named_with_the_remedy(registrar, path):
    """A container without the kubelet's folder does not start, and says what it lacks."""
    path.parent.rmdir()
    with pytest.raises(SettingsError, match=r"kubelet\.registration_socket: .*plugins_registry"):
        await registrar.start()
