"""The files of a cluster of one node: keys, tokens, and the configuration of each part.

Everything lies in one folder, so that the end of a cluster is the end of that folder. Standard library only.
"""

from __future__ import annotations

import json
import secrets
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import kube_settings

if TYPE_CHECKING:
    from pathlib import Path

NODE = "node-1"
NODE_IP = "10.77.0.1"
#: The address of the service `kubernetes`. It is the node's own: nothing here stands in for kube-proxy.
SERVICE_IP = "10.96.0.1"
POD_NET = "10.78.0"
API = f"https://{NODE_IP}:443"

#: Each part's user and group, as in a real cluster: the authorizers know their roles.
USERS = {
    "admin": ("admin", "system:masters"),
    # With accounts of their own its 40 controllers would take 4 s more to start.
    "kube-controller-manager": ("system:kube-controller-manager", "system:masters"),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
}

#: Every request of an account that is not Kubernetes' own is logged, with the rule that let it in.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "None",
            "userGroups": ["system:serviceaccounts:kube-system", "system:masters", "system:nodes"],
        },
        {
            "level": "None",
            "users": [
                "system:apiserver",
                "system:kube-scheduler",
                "system:kube-controller-manager",
                "system:anonymous",
            ],
        },
        {"level": "Metadata", "omitManagedFields": True},
    ],
}


@dataclass(frozen=True)
class Files:
    """The folder of a cluster. What is on its disks survives a reboot of its node; /run does not."""

    folder: Path

    @property
    def log(self) -> Path:
        """Return the folder of the logs, one file for each process; /var/log inside."""
        return self.folder / "log"

    @property
    def certificate(self) -> Path:
        """Return the certificate of the API server, which is its own authority."""
        return self.folder / "pki" / "api.crt"

    @property
    def audit_log(self) -> Path:
        """Return the audit log of the API server, a JSON object a line."""
        return self.log / "audit.json"

    @property
    def ready(self) -> Path:
        """Return the file that is there once the cluster is up: how many seconds each step took."""
        return self.folder / "ready.json"

    @property
    def cgroup(self) -> str:
        """Return the name of the cluster's cgroup."""
        return self.folder.name

    def kubeconfig(self, name: str) -> Path:
        """Return the kubeconfig of a part or of an account."""
        return self.folder / f"{name}.kubeconfig"

    def token(self, name: str = "admin") -> str:
        """Return the token in a kubeconfig."""
        user = json.loads(self.kubeconfig(name).read_text("utf-8"))["users"][0]["user"]
        return str(user["token"])

    def write_kubeconfig(self, name: str, token: str) -> Path:
        """Write the kubeconfig of an account, and return its path."""
        path = self.kubeconfig(name)
        cluster = {"server": API, "certificate-authority": str(self.certificate)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "me", "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(content), "utf-8")
        return path

    def write(self, cni_plugin: Path, runc: Path) -> None:
        """Write everything that a fresh cluster starts from."""
        for name in (
            "log/pods",
            "log/containers",
            "etcd",
            "kubelet",
            "containerd",
            "cni/bin",
            "cni/conf",
            "pki",
        ):
            (self.folder / name).mkdir(parents=True)
        self._make_keys()
        lines = []
        for name, (user, group) in USERS.items():
            token = secrets.token_hex(16)
            lines.append(f'{token},{user},{name},"{group}"\n')
            self.write_kubeconfig(name, token)
        (self.folder / "pki/tokens.csv").write_text("".join(lines), "utf-8")
        (self.folder / "audit-policy.json").write_text(json.dumps(AUDIT_POLICY), "utf-8")
        kubelet = json.dumps(kube_settings.kubelet(self.cgroup), indent=1)
        (self.folder / "kubelet.json").write_text(kubelet, "utf-8")
        containerd = kube_settings.containerd(self.folder, runc)
        (self.folder / "containerd.toml").write_text(containerd, "utf-8")
        for name in ("lab", "loopback"):
            plugin = self.folder / "cni/bin" / name
            plugin.write_bytes(cni_plugin.read_bytes())
            plugin.chmod(0o755)
        network = {
            "cniVersion": "1.0.0",
            "name": "lab",
            "plugins": [{"type": "lab", "net": POD_NET, "state": "/run/katacsi-cni"}],
        }
        (self.folder / "cni/conf/10-lab.conflist").write_text(json.dumps(network), "utf-8")

    def _make_keys(self) -> None:
        """Make the key of the accounts' tokens, and a certificate that is its own authority."""
        pki = self.folder / "pki"
        curve = "ec_paramgen_curve:prime256v1"
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{pki}/accounts.key")
        _openssl("ec", "-in", f"{pki}/accounts.key", "-pubout", "-out", f"{pki}/accounts.pub")
        names = [f"IP:{address}" for address in (NODE_IP, SERVICE_IP, "127.0.0.1")]
        names += [f"DNS:kubernetes{more}" for more in ("", ".default", ".default.svc")]
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", curve, "-nodes", "-days", "30"),
            *("-subj", "/CN=katacsi-lab", "-addext", f"subjectAltName={','.join(names)}"),
            *("-keyout", f"{pki}/api.key", "-out", f"{pki}/api.crt"),
        )


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
