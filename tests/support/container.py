"""The image, unpacked, and run by runc as the kubelet has a privileged pod run: its root is read-only."""

from __future__ import annotations

import json
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .driver import Driver

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from katacsi.csi.client import Client

#: The numbers of <linux/capability.h> are places in this list.
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL",
    "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
    "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip


@dataclass(frozen=True)
class Image:
    """An image, unpacked.

    Attributes:
        root: its files.
        config: what it says of itself: Entrypoint, Env, Labels.
        layers: the bytes of each layer.
    """

    root: Path
    config: dict[str, Any]
    layers: list[int]

    @classmethod
    def unpacked(cls, archive: Path, folder: Path) -> Image:
        """Unpack an archive of docker's format, layer over layer."""
        parts, root = folder / "parts", folder / "root"
        _untar(archive, parts)
        (manifest,) = json.loads((parts / "manifest.json").read_bytes())
        layers = [parts / name for name in manifest["Layers"]]
        for layer in layers:
            _untar(layer, root)
        assert not list(root.rglob(".wh.*")), "a layer takes something away"
        config = json.loads((parts / manifest["Config"]).read_bytes())["config"]
        return cls(root, config, [layer.stat().st_size for layer in layers])

    def command(self, *words: str) -> list[str]:
        """What is started when a pod gives these words as `args`."""
        return [*self.config["Entrypoint"], *words]


class Container:
    """A container of the image. Its process ends with `runc run`, and nothing of it is left.

    Args:
        image, runc: what is run, and by which program.
        scratch: an existing folder for what runc needs.
        argv: the command line of its process.
        seen: folders of the machine that it has at the same paths.
        privileged: whether it is root with all capabilities; else nobody, with none.
    """

    def __init__(
        self,
        image: Image,
        runc: Path,
        scratch: Path,
        argv: Sequence[str],
        *,
        seen: Sequence[Path] = (),
        privileged: bool = True,
    ) -> None:
        self.name = f"katacsi-{uuid.uuid4().hex[:12]}"
        self._bundle = scratch / self.name
        self._bundle.mkdir()
        self._runc = [str(runc), "--root", str(scratch / "runc")]
        specification = _specification(image, argv, seen, self.name)
        if not privileged:
            specification["process"] |= {"user": {"uid": 65534, "gid": 65534}, "capabilities": {}}
        (self._bundle / "config.json").write_text(json.dumps(specification))

    @property
    def argv(self) -> list[str]:
        """What starts it, and stays until it has ended."""
        return [*self._runc, "run", "--bundle", str(self._bundle), self.name]

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        try:
            return subprocess.run(
                self.argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
            )
        finally:
            self.remove()

    def python(self, code: str) -> str:
        """Run Python in it, beside its process; give what it prints."""
        answer = subprocess.run(
            [*self._runc, "exec", self.name, "/usr/bin/python3", "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def remove(self) -> None:
        """End what is left of it, if anything is."""
        subprocess.run([*self._runc, "delete", "--force", self.name], capture_output=True, check=False)


class ContainedDriver(Driver):
    """`katacsi serve` in a container. Of the machine it sees /dev and its own scratch folders, like a pod."""

    def __init__(self, image: Image, runc: Path, scratch: Path, bundles: Path) -> None:
        super().__init__(scratch)
        self.client: Client | None = None
        self.pods, self.staging = scratch / "pods", scratch / "staging"
        serve = (
            "serve",
            "--config",
            self.config,
            "--endpoint",
            f"unix://{self.socket}",
            "--node-id",
            "node-1",
        )
        self.container = Container(
            image, runc, bundles, image.command(*map(str, serve)), seen=[scratch, self.run]
        )
        self._argv = self.container.argv

    def __enter__(self) -> ContainedDriver:
        # What is mounted inside has to be seen outside: mountPropagation Bidirectional asks the same.
        for words in (
            ("--bind", self.scratch, self.scratch),
            ("--make-private", self.scratch),
            ("--make-shared", self.scratch),
        ):
            subprocess.run(["mount", *words], check=True)
        try:
            return super().__enter__()
        except BaseException:
            self._leave()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self._leave()

    def _leave(self) -> None:
        self.container.remove()
        subprocess.run(["umount", "--recursive", self.scratch], check=True)


def _untar(archive: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(["tar", "--extract", "--numeric-owner", "-C", folder, "--file", archive], check=True)


def _specification(image: Image, argv: Sequence[str], seen: Sequence[Path], name: str) -> dict[str, Any]:
    mask = int(Path("/proc/self/status").read_text("ascii").partition("CapEff:")[2].split()[0], 16)
    # A privileged pod has them all; here as many as this machine has.
    held = [f"CAP_{each}" for number, each in enumerate(CAPABILITIES) if mask >> number & 1]
    tmpfs = ["nosuid", "nodev", "mode=0755"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(argv),
            "env": image.config["Env"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), held),
        },
        "root": {"path": str(image.root), "readonly": True},
        "hostname": "node-1",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]},
            {"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]},
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": tmpfs},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": tmpfs},
            *(
                {
                    "destination": str(path),
                    "type": "bind",
                    "source": str(path),
                    "options": ["rbind", "rshared"],
                }
                for path in seen
            ),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("mount", "pid", "ipc", "uts")],
            "resources": {"devices": [{"allow": True, "access": "rwm"}]},
            "rootfsPropagation": "rshared",
            "cgroupsPath": f"/{name}",
        },
    }
