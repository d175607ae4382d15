"""The configuration: one YAML file, overlaid by KATACSI_* variables, checked before anything starts.

A variable names a key by its path, with two underscores between levels: KATACSI_KUBE__ENABLED=true sets
`kube: {enabled: true}`. Its value is read as YAML, so numbers, booleans and lists work. (pydantic-settings
does the same for 6 MiB and some 60 ms more per node process, measured; these lines stand in for it.)
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from katacsi.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

ENVIRONMENT_PREFIX = "KATACSI_"
#: Variables that belong to the project's tooling, not to the driver's configuration.
_NOT_SETTINGS = (
    "KATACSI_CACHE",
    "KATACSI_CONFIG",
    "KATACSI_COUNTS",
    "KATACSI_LAB_ENGINE",
    "KATACSI_PYTHON",
    "KATACSI_REQUIRE",
    "KATACSI_TEST_",
)

#: CSI, Topology: a key's prefix is a domain name in lower case, of at most 63 characters.
_DOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_TOPOLOGY = "topology."
_MAX_DRIVER_NAME = 63 - len(_TOPOLOGY)
#: CSI, Topology: what a value may be.
_SEGMENT = r"[a-zA-Z0-9]([-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?"

Model = TypeVar("Model", bound=BaseModel)
Seconds = Annotated[float, Field(gt=0)]
Address = Annotated[str, Field(pattern=r"^[^:]*:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$")]
#: The kubelet has another working directory.
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00]+$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KubeSettings(_Section):
    """What katacsi asks of the Kubernetes API."""

    enabled: bool = Field(
        default=False,
        description="Ask the Kubernetes API for PVC annotations and pod runtimes. When off, `auto` means a "
        'host mount and `katacsi.io/direct: "true"` means direct.',
    )
    kubeconfig: AbsolutePath | None = Field(
        default=None,
        description="A kubeconfig file, whose current context is used. None: the service account of the pod "
        "that katacsi runs in.",
    )
    timeout: Seconds = Field(default=5, description="Seconds that one request to the API may take.")
    kata_handlers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=("kata*",),
        description="Which RuntimeClass handlers are Kata's: patterns as a shell has them (`*`, `?`, "
        "`[abc]`). It is the `handler` of the RuntimeClass that is compared, not its name.",
    )
    default_runtime_is_kata: bool = Field(
        default=False,
        description="Whether pods without a runtimeClassName run in Kata, as they do on nodes whose "
        "container runtime has Kata as its default.",
    )
    runtime_class_cache: float = Field(
        default=60, ge=0, description="Seconds for which the handler of a RuntimeClass is remembered."
    )
    cluster_name: str = Field(
        default="",
        description="What to call this cluster in the volumes that are made for it. A volume without a "
        "PersistentVolume is an orphan only where it was made for the cluster of this name; give one where a "
        "pool's disk may have volumes of another cluster.",
        pattern=r"^([a-z0-9]([-.a-z0-9]{0,61}[a-z0-9])?)?$",
    )
    orphan_interval: float = Field(
        default=3600,
        ge=0,
        description="Seconds between two looks for volumes on this node that have no PersistentVolume; 0: "
        "never. A look costs a GET for each volume that is not in use here, and a list of the "
        "PersistentVolumes where one of them finds none.",
    )
    events: bool = Field(
        default=True,
        description="Write an Event on the pod, the PVC, the volume or the snapshot for every refusal that a "
        "person has to act on.",
    )


class DirectVolumeSettings(_Section):
    """How Kata is told of direct volumes."""

    handover: Literal["file", "kata-runtime"] = Field(
        default="file",
        description="Who writes the records: `file` is katacsi itself, each record whole or not at all; "
        "`kata-runtime` has the command `kata-runtime direct-volume` do it, which knows Kata's own "
        "`direct_volume_root` only.",
    )
    kata_runtime: str = Field(
        default="kata-runtime", min_length=1, description="That command: a name on the PATH, or a path."
    )
    kata_config: Path | None = Field(
        default=None,
        description="Kata's configuration file for that command, which does nothing without one that it can "
        "load. Default: where the command looks by itself.",
    )


class LogSettings(_Section):
    """What the log looks like."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe level that is written."
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`auto` is `console` on a terminal and `json` elsewhere."
    )


class KubeletSettings(_Section):
    """How the kubelet finds the driver."""

    registration_socket: AbsolutePath | None = Field(
        default=None,
        description="Register the driver with the kubelet by this socket, which belongs into the kubelet's "
        "folder `plugins_registry`, such as "
        "`/var/lib/kubelet/plugins_registry/local.katacsi.io-reg.sock`; it exists while the driver serves. "
        "None: a node-driver-registrar beside the driver does it.",
    )
    endpoint: AbsolutePath | None = Field(
        default=None,
        description="The CSI socket by the path that the kubelet sees, such as "
        "`/var/lib/kubelet/plugins/local.katacsi.io/csi.sock`. Default: the socket that is served.",
    )

    @property
    def root(self) -> Path:
        """The kubelet's own folder, as far as it is known here."""
        socket = self.registration_socket
        known = socket is not None and Path(socket).parent.name == "plugins_registry"
        return Path(socket).parents[1] if socket is not None and known else Path("/var/lib/kubelet")


class HealthSettings(_Section):
    """Where a liveness probe asks."""

    address: Address | None = Field(
        default=None,
        description="`HOST:PORT` of `/healthz`, which asks the driver's own Probe over its socket: 200, or "
        "503 with the reason; none: no page. Port 0 takes a free one and logs it.",
    )


class MetricsSettings(_Section):
    """Where Prometheus finds the metrics, and a person the inventory."""

    address: Address | None = Field(
        default=None,
        description="`HOST:PORT` of the metrics page (`/metrics`, `/healthz`); none: no page. Port 0 takes "
        "a free one and logs it.",
    )
    inventory: bool = Field(
        default=False,
        description="Also show the pools, the volumes and the pods that have them, at `/volumes` of that "
        "address: a page, or JSON (`?format=json`). Whoever reaches the address can read it, names of pods "
        "and volumes included, so the address has to be a loopback one (`127.0.0.1:9808`, for `kubectl "
        "port-forward`).",
    )
    inventory_anywhere: bool = Field(
        default=False,
        description="Allow the inventory on any address; for networks in which everybody may read it.",
    )

    @model_validator(mode="after")
    def _is_private(self) -> Self:
        if not self.inventory:
            return self
        if self.address is None:
            raise ValueError("inventory: is a page of `address`, which is not set; give one: 127.0.0.1:9808")
        if not self.inventory_anywhere and not _is_loopback(self.address):
            raise ValueError(
                f"inventory: would show everybody who reaches {self.address} the names of pods and volumes; "
                "use a loopback `address` such as 127.0.0.1:9808, or allow it by `inventory_anywhere: true`"
            )
        return self


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class TracingSettings(_Section):
    """Where OpenTelemetry traces go."""

    endpoint: str | None = Field(
        default=None,
        description="A collector that takes OTLP over HTTP, such as `http://otel-collector.monitoring:4318`; "
        "`/v1/traces` is added. None: that of OTEL_EXPORTER_OTLP_ENDPOINT (or "
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT), else no traces. Needs the extra `katacsi[tracing]`.",
        pattern=r"^https?://[^/\s]+(/\S*)?$",
    )


class TimeoutSettings(_Section):
    """Limits in seconds; the defaults suit slow disks."""

    mkfs: Seconds = Field(default=600, description="Making one filesystem.")
    check: Seconds = Field(default=1800, description="Checking or growing one filesystem.")
    probe: Seconds = Field(default=60, description="Looking for signatures on one device.")
    drain: Seconds = Field(
        default=25,
        description="How long SIGTERM waits for running calls; less than the pod's termination grace.",
    )


class WatchNodesSettings(_Section):
    """What `katacsi watch-nodes` does when a node with volumes is gone."""

    interval: Seconds = Field(default=60, description="Seconds from one look at the cluster to the next.")
    grace: Seconds = Field(
        default=600,
        description="Seconds for which a Node has to be seen absent before anything is said or done. They "
        "begin anew when `katacsi watch-nodes` starts, and time in which the API could not be asked is not "
        "counted.",
    )
    release: bool = Field(
        default=False,
        description="Delete the PersistentVolumes of such a node that no claim has any more and whose "
        "policy is Delete, and its CSIStorageCapacity objects. The data is not touched: when the node comes "
        "back, it is there, and belongs to no PersistentVolume.",
    )
    namespace: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
        description="Where the provisioners' CSIStorageCapacity objects are. Default: the namespace of the "
        "pod that katacsi runs in.",
    )


class Settings(_Section):
    """Everything katacsi is told. Unknown keys are refused."""

    driver_name: str = Field(
        default="local.katacsi.io",
        description="The CSI driver name, unique in the cluster: a domain name in lower case, of at most "
        f"{_MAX_DRIVER_NAME} characters, since it is part of the topology key `topology.<driver name>/node`.",
        json_schema_extra={"pattern": f"^{_DOMAIN}$", "maxLength": _MAX_DRIVER_NAME},
    )
    direct_volume_root: Path = Field(
        default=Path("/run/kata-containers/shared/direct-volumes"),
        description="Where the Kata runtimes look for direct-volume records.",
    )
    direct_volume: DirectVolumeSettings = Field(
        default_factory=DirectVolumeSettings, description=DirectVolumeSettings.__doc__
    )
    state_directory: Path | None = Field(
        default=None,
        description="What was published and staged since boot; a folder on tmpfs. "
        "Default: /run/katacsi/<driver name>.",
    )
    node_directory: Path | None = Field(
        default=None,
        description="What pools of storage in the network have to remember of this node beyond a reboot; a "
        "folder on disk. Local pools keep nothing there. Default: /var/lib/katacsi/<driver name>.",
    )
    host_proc: AbsolutePath = Field(
        default="/proc",
        description="Where the processes of the node are seen: a guest or a process that holds a volume is "
        "looked for there. In a container without the node's process ids, the node's `/proc` mounted at "
        "another path, such as `/host/proc`.",
    )
    kube: KubeSettings = Field(default_factory=KubeSettings, description=KubeSettings.__doc__)
    pools: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Named pools, each a backend (`backend: loopfile`) with that backend's own keys. "
        "Names are lower-case letters, digits and dashes, at most 31.",
    )
    default_filesystem: Literal["ext4", "xfs"] = Field(
        default="ext4", description="The filesystem of volumes whose StorageClass names none."
    )
    default_volume_size: int = Field(
        default=1 << 30, gt=0, description="Bytes of a volume whose request names no size."
    )
    guest_filesystems: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="Whether the host kernel may mount a filesystem that a Kata guest has written. A tenant "
        "could have crafted it, so the default refuses; `allow` lets direct volumes be host-mounted later "
        "and lets direct xfs volumes grow.",
    )
    newer_capabilities: bool = Field(
        default=False,
        description="Also offer volume health as CSI has it since 1.13, by calls of its own, besides the "
        "volume condition of CSI up to 1.12; older sidecars may refuse capabilities they do not know.",
    )
    max_volumes_per_node: int = Field(
        default=0, ge=0, description="Volumes a node may have published at once; 0: no limit."
    )
    kubelet: KubeletSettings = Field(default_factory=KubeletSettings, description=KubeletSettings.__doc__)
    health: HealthSettings = Field(default_factory=HealthSettings, description=HealthSettings.__doc__)
    log: LogSettings = Field(default_factory=LogSettings, description=LogSettings.__doc__)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings, description=MetricsSettings.__doc__)
    tracing: TracingSettings = Field(default_factory=TracingSettings, description=TracingSettings.__doc__)
    watch_nodes: WatchNodesSettings = Field(
        default_factory=WatchNodesSettings, description=WatchNodesSettings.__doc__
    )
    timeouts: TimeoutSettings = Field(default_factory=TimeoutSettings, description=TimeoutSettings.__doc__)

    @field_validator("driver_name")
    @classmethod
    def _can_be_a_topology_key(cls, name: str) -> str:
        if len(name) > _MAX_DRIVER_NAME or not re.fullmatch(_DOMAIN, name):
            raise ValueError(
                f"{name!r} cannot name the driver: CSI wants a domain name in lower case in a topology key, "
                f"which leaves {_MAX_DRIVER_NAME} letters, digits, dashes and dots; choose one such as "
                "local.katacsi.io"
            )
        return name

    @model_validator(mode="after")
    def _leaves_the_kubelets_folder_alone(self) -> Self:
        root = self.kubelet.root
        for name, pool in self.pools.items():
            for key, value in pool.items():
                if isinstance(value, str) and Path(os.path.normpath(value)).is_relative_to(root):
                    raise ValueError(
                        f"pools.{name}.{key}: {value} lies in the kubelet's own folder ({root}), which the "
                        f"kubelet cleans up; choose a folder outside, such as /var/lib/katacsi/{name}"
                    )
        return self

    @property
    def state_path(self) -> Path:
        """The state directory, its default filled in."""
        return self.state_directory or Path("/run/katacsi") / self.driver_name

    @property
    def node_path(self) -> Path:
        """The node's folder, its default filled in."""
        return self.node_directory or Path("/var/lib/katacsi") / self.driver_name

    def may_mount(self, *, guest_written: bool) -> bool:
        """Whether the host's kernel may mount a filesystem, or its tools may take it for sound."""
        return not guest_written or self.guest_filesystems == "allow"

    @property
    def topology_key(self) -> str:
        """The topology key that names the node a local volume lives on."""
        return f"{_TOPOLOGY}{self.driver_name}/node"


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read and check the configuration.

    Raises:
        SettingsError: the file cannot be read, is not YAML, or a key or value is not legal; the message
            names each.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); give an existing file by --config"
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8: {error}; give a YAML file by --config") from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not YAML: {error}") from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: has to be a mapping of settings, not a {type(raw).__name__}")
    return parse(_overlay(raw, environment), where=str(path))


def parse(raw: Mapping[str, Any], *, where: str) -> Settings:
    """Check settings that were read already.

    Raises:
        SettingsError: as `load`.
    """
    settings = check(Settings, raw, where=where)
    for name, pool in settings.pools.items():
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
            raise SettingsError(
                f"{where}: pools.{name}: a pool name is lower-case letters, digits and dashes, starts with a "
                "letter and has at most 31 characters"
            )
        if not isinstance(pool.get("backend"), str):
            raise SettingsError(
                f"{where}: pools.{name}.backend: name the backend, such as `backend: loopfile`"
            )
    return settings


def check_node_id(node_id: str) -> str:
    """Give a node's name back if it can be a value of the topology key.

    Raises:
        SettingsError: CSI does not allow it; with the remedy.
    """
    if not re.fullmatch(_SEGMENT, node_id):
        raise SettingsError(
            f"--node-id {node_id!r}: CSI allows the name of a place 63 letters, digits, dashes, dots and "
            "underscores, a letter or digit first and last; give another that is unique in the cluster, such "
            "as the host's name without its domain"
        )
    return node_id


def check(model: type[Model], raw: Mapping[str, Any], *, where: str) -> Model:
    """Check a raw mapping against a model of settings.

    Raises:
        SettingsError: with one line for each offending key.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            key = ".".join(str(part) for part in item["loc"]) or "(all)"
            if item["type"] == "extra_forbidden":
                lines.append(
                    f"{where}: {key}: unknown key; known are {', '.join(sorted(model.model_fields))}"
                )
            else:
                lines.append(f"{where}: {key}: {item['msg'].removeprefix('Value error, ')}")
        raise SettingsError("\n".join(lines)) from error


def _overlay(raw: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Give the settings with the environment's values on top, without changing the original."""
    result = dict(raw)
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable.startswith(_NOT_SETTINGS):
            continue
        keys = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if keys[0] not in Settings.model_fields:
            raise SettingsError(f"{variable}: there is no setting {keys[0]!r}; see `katacsi config schema`")
        level = result
        for key in keys[:-1]:
            below = level.get(key)
            level[key] = dict(below) if isinstance(below, dict) else {}
            level = level[key]
        try:
            level[keys[-1]] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(f"{variable}: not a YAML value: {error}") from error
    return result
