"""`katacsi serve` as a process: what it imports, how it starts and ends, what it says of a bad start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest
from grpclib.client import Channel

from katacsi._gen import pluginregistration
from katacsi.csi.client import Client, csi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: What a node process has no use for.
FORBIDDEN = (
    "rich", "pygments", "markdown_it", "kubernetes", "aiohttp", "urllib3", "opentelemetry",
    "google", "requests", "prometheus_client.twisted",
    "katacsi.demo", "katacsi.doctor", "katacsi.testing", "katacsi.cli.volumes", "katacsi.cli.direct_volume",
    "katacsi.cli.backends", "katacsi.cli.config", "katacsi.cli.schema", "katacsi.cli.output",
    "katacsi.inventory", "katacsi.kube.client",
)  # fmt: skip


@pytest.fixture
def config(tmp_path):
    """A configuration with one pool; everything of it lies in the test's folder."""
    (tmp_path / "pool").mkdir()
    file = tmp_path / "config.yaml"
    file.write_text(
        f"direct_volume_root: {tmp_path}/records\n"
        f"state_directory: {tmp_path}/state\n"
        f"pools:\n  default: {{backend: loopfile, directory: {tmp_path}/pool}}\n"
    )
    return file


def clean_environment(**variables: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("KATACSI_", "CSI_"))}
    return {**kept, **variables}


@contextlib.contextmanager
def serving(
    config: Path, path: Path, launch: tuple[str, ...] = ("-m", "katacsi")
) -> Iterator[subprocess.Popen[str]]:
    """Start the driver, wait until it listens, and see that it ends."""
    process = subprocess.Popen(
        [sys.executable, *launch, "serve", "--node-id", "n1"],
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(KATACSI_CONFIG=str(config), CSI_ENDPOINT=f"unix://{path}"),
    )
    with process:
        try:
            deadline = time.monotonic() + 20
            while not listens(path):
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline, "the driver does not listen"
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def ended(process: subprocess.Popen[str]) -> str:
    """End the driver by SIGTERM; give what it said."""
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=20)[1]


def test_serve_carries_no_other_command_and_draws_nothing(config, tmp_path):
    """A node process never imports rich, another command, or a client that it does not use."""
    names = tmp_path / "modules"
    launch = (
        "import atexit, pathlib, sys; from katacsi.__main__ import main; "
        f"atexit.register(lambda: pathlib.Path({str(names)!r}).write_text(chr(10).join(sys.modules))); main()"
    )
    with serving(config, tmp_path / "csi.sock", ("-c", launch)) as process:
        ended(process)
    imported = names.read_text().splitlines()
    assert {"katacsi.app", "katacsi.cli.serve", "katacsi.backends.loopfile"} <= set(imported)
    assert [name for name in imported if name.startswith(FORBIDDEN)] == []


def test_serve_listens_privately_and_ends_well_on_sigterm(config, tmp_path):
    """The socket is for its owner alone; SIGTERM ends the process with exit code 0."""
    path = tmp_path / "csi.sock"
    with serving(config, path) as process:
        mode = stat.S_IMODE(path.stat().st_mode)
        ended(process)
    assert (oct(mode), process.returncode) == ("0o600", 0)


def test_a_pool_that_is_away_leaves_the_driver_ready(config, tmp_path):
    """Probe says ready at once, or the kubelet would restart the driver of the pools that are there."""
    (tmp_path / "pool").rmdir()
    path = tmp_path / "csi.sock"

    async def probe() -> tuple[bool, float]:
        async with Client(path) as client:
            before = time.monotonic()
            answer = await client.identity.probe(csi.ProbeRequest())
            return answer.ready, time.monotonic() - before

    with serving(config, path) as process:
        ready, seconds = asyncio.run(probe())
        said = ended(process)
    assert ready is True
    assert seconds < 1
    assert "pool cannot be used" in said


def test_serve_replaces_a_stale_socket(config, tmp_path):
    """After a kill -9 the driver starts again on the same path."""
    path = tmp_path / "csi.sock"
    with serving(config, path) as process:
        process.kill()
    assert path.exists()
    with serving(config, path) as process:
        ended(process)
    assert process.returncode == 0


def test_a_bad_configuration_is_exit_code_2_and_a_line_for_each_key(run, tmp_path):
    """Every wrong key is named, with what is legal, and there is no traceback."""
    file = tmp_path / "config.yaml"
    file.write_text("driver_nam: x\nlog: {level: loud}\npools: {}\n")
    result = run("serve", "--config", file, "--endpoint", "unix:///tmp/x.sock", "--node-id", "n")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"Error: {file}: ") for line in lines)
    assert {"driver_nam", "log.level"} == {line.split(": ")[2] for line in lines}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"--config": "/nonexistent/c.yaml"}, "/nonexistent/c.yaml"),
        ({"--endpoint": "tcp://0.0.0.0:1"}, "--endpoint tcp://0.0.0.0:1"),
        ({"--node-id": "n" * 64}, "--node-id"),
        ({"--node-id": "node/1"}, "--node-id"),
        ({"--mode": "both"}, "--mode"),
    ],
    ids=["config", "endpoint", "long node id", "odd node id", "mode"],
)
def test_a_start_that_cannot_work_is_exit_code_2(run, config, change, named):
    """What is wrong with the call is named; nothing is served."""
    arguments = {"--config": config, "--endpoint": f"unix://{config.parent}/s", "--node-id": "n", **change}
    result = run("serve", *(word for option in arguments.items() for word in option))
    assert result.exit_code == 2
    assert named in result.stderr
    assert not (config.parent / "s").exists()


def test_what_is_missing_is_named_with_its_variable(run):
    """Without --config the message says which option, and which variable stands in for it."""
    result = run("serve")
    assert result.exit_code == 2
    assert "--config" in result.stderr
    assert "KATACSI_CONFIG" in result.stderr


def registered(registration: Path) -> pluginregistration.PluginInfo:
    """What the kubelet is told at this socket, once it listens."""

    async def asked() -> pluginregistration.PluginInfo:
        channel = Channel(path=str(registration))
        calls = pluginregistration.RegistrationStub(channel)
        try:
            return await calls.get_info(pluginregistration.InfoRequest(), timeout=5)
        finally:
            channel.close()
            await asyncio.sleep(0.01)  # its transport closes in the next turns

    deadline = time.monotonic() + 10
    while not listens(registration):
        assert time.monotonic() < deadline, "the registration socket does not listen"
        time.sleep(0.01)
    return asyncio.run(asked())


def test_the_kubelet_hears_of_the_driver_while_it_serves(config, tmp_path):
    """The registration socket is there once the driver answers, names its socket, and goes with it."""
    registration = tmp_path / "local-reg.sock"
    path = tmp_path / "csi.sock"
    with config.open("a") as file:
        file.write(f"kubelet: {{registration_socket: {registration}}}\n")

    with serving(config, path) as process:
        found = registered(registration)
        process.kill()
    assert (found.name, found.endpoint) == ("local.katacsi.io", str(path))
    # A killed process leaves both files; the next one replaces them, and takes them away when it ends.
    assert registration.exists()
    with serving(config, path) as process:
        assert registered(registration) == found
        ended(process)
    assert (registration.exists(), path.exists(), process.returncode) == (False, False, 0)


def test_the_kubelets_own_path_of_the_socket_is_told(config, tmp_path):
    """In a container the socket lies elsewhere than on the node, whose path the kubelet needs."""
    registration = tmp_path / "local-reg.sock"
    with config.open("a") as file:
        file.write(
            f"kubelet: {{registration_socket: {registration}, endpoint: /var/lib/kubelet/plugins/l/csi.sock}}"
        )
    with serving(config, tmp_path / "csi.sock") as process:
        assert registered(registration).endpoint == "/var/lib/kubelet/plugins/l/csi.sock"
        ended(process)


def test_the_health_page_asks_the_drivers_probe(config, tmp_path):
    """`/healthz` of a driver that serves is 200, on the port that the log names."""
    with config.open("a") as file:
        file.write("health: {address: '127.0.0.1:0'}\nlog: {format: json}\n")
    with serving(config, tmp_path / "csi.sock") as process:
        port = 0
        while not port:
            line = json.loads(process.stderr.readline())
            port = line.get("port", 0) if line["event"] == "health" else 0
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            assert (answer.status, answer.read()) == (200, b"ok\n")
        ended(process)
