"""Process 1 of a cluster: starts its parts, says when it is up, and collects the dead until it is killed.

    kube_inside.py <folder of the cluster> boot
    kube_inside.py <folder of the cluster> kubelet      # become the kubelet, which was ended before

Runs in the namespaces that tools/kube_lab.py makes. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import kube_machine
from kube_files import API, NODE, NODE_IP, Files

if TYPE_CHECKING:
    from collections.abc import Callable

#: A loaded machine is slow, not broken.
PATIENCE_S = 300
#: All that storage, workloads and accounts need; what is left out only costs time.
CONTROLLERS = "*,-resourcequota-controller,-cronjob-controller,-horizontal-pod-autoscaler-controller"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SOCKET = "/run/containerd/containerd.sock"


class Node:
    """A node that boots."""

    def __init__(self, files: Files) -> None:
        self._files = files
        settings = json.loads((files.folder / "programs.json").read_text("utf-8"))
        self._programs: dict[str, str] = settings
        self._began = time.monotonic()
        self._times: dict[str, float] = {}

    def boot(self) -> None:
        """Start everything, and write how long it took once pods can run."""
        kube_machine.make(self._files)
        self._took("namespaces")
        self._start_api()
        self._start(
            "containerd", self._programs["containerd"], "--config", f"{self._files.folder}/containerd.toml"
        )
        token = self._files.token()
        self._wait("kube-apiserver", lambda: self._ask(f"{API}/readyz", token) == "ok")
        self._start_controllers()
        containerd = [self._programs["ctr"], "--address", SOCKET, "--namespace", "k8s.io"]
        self._wait("containerd", lambda: _works(*containerd, "version"))
        for image in sorted((self._files.folder / "images").glob("*.tar")):
            subprocess.run([*containerd, "images", "import", str(image)], check=True, capture_output=True)
        self._took("images")
        self._start("kubelet", *self.kubelet())
        self._wait("kube-controller-manager", lambda: self._ask("https://127.0.0.1:10257/healthz") == "ok")
        self._wait("kube-scheduler", lambda: self._ask("https://127.0.0.1:10259/healthz") == "ok")
        self._wait("node", lambda: self._node_is_ready(token))
        account = f"{API}/api/v1/namespaces/default/serviceaccounts/default"
        self._wait("account", lambda: bool(self._ask(account, token)))
        fresh = self._files.ready.with_suffix(".new")
        fresh.write_text(json.dumps(self._times), "utf-8")
        fresh.rename(self._files.ready)

    def kubelet(self) -> list[str]:
        """Return the kubelet's command line."""
        folder = self._files.folder
        return [
            *(self._programs["kube"], "kubelet", "--config", f"{folder}/kubelet.json", "--v=2"),
            *("--kubeconfig", str(self._files.kubeconfig("kubelet"))),
            *(f"--hostname-override={NODE}", f"--node-ip={NODE_IP}", f"--cert-dir={folder}/kubelet-pki"),
        ]

    def _start_api(self) -> None:
        folder, pki = self._files.folder, self._files.folder / "pki"
        client = "http://127.0.0.1:2379"
        self._start(
            *("etcd", self._programs["etcd"], "--data-dir", f"{folder}/etcd/data"),
            *("--unsafe-no-fsync", "--log-level=warn", "--listen-peer-urls=http://127.0.0.1:2380"),
            *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
        )
        self._start(
            *("kube-apiserver", self._programs["kube"], "kube-apiserver", f"--etcd-servers={client}"),
            # Port 443: without kube-proxy pods reach the service's address only if the server has its port.
            *("--bind-address=0.0.0.0", "--secure-port=443", f"--advertise-address={NODE_IP}"),
            *("--service-cluster-ip-range=10.96.0.0/24", "--allow-privileged=true"),
            *(f"--tls-cert-file={pki}/api.crt", f"--tls-private-key-file={pki}/api.key"),
            *(f"--token-auth-file={pki}/tokens.csv", "--authorization-mode=Node,RBAC"),
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/accounts.pub",
            f"--service-account-signing-key-file={pki}/accounts.key",
            f"--audit-policy-file={folder}/audit-policy.json",
            *(f"--audit-log-path={self._files.audit_log}", "--audit-log-mode=blocking"),
            "--kubelet-preferred-address-types=InternalIP",
        )
        self._wait("etcd", lambda: "true" in self._ask(f"{client}/health"))

    def _start_controllers(self) -> None:
        folder = self._files.folder
        more = {
            "kube-scheduler": (),
            "kube-controller-manager": (
                f"--controllers={CONTROLLERS}",
                f"--root-ca-file={self._files.certificate}",
                f"--service-account-private-key-file={folder}/pki/accounts.key",
                # A node whose kubelet is stopped, or that is only an object, keeps its pods.
                "--node-monitor-grace-period=1h",
            ),
        }
        for part, options in more.items():
            config = self._files.kubeconfig(part)
            self._start(
                *(part, self._programs["kube"], part, f"--kubeconfig={config}", "--bind-address=127.0.0.1"),
                *(f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}"),
                *("--leader-elect=false", *options),
            )

    def _node_is_ready(self, token: str) -> bool:
        node = json.loads(self._ask(f"{API}/api/v1/nodes/{NODE}", token))
        return any(
            each["type"] == "Ready" and each["status"] == "True" for each in node["status"]["conditions"]
        )

    def _start(self, name: str, *argv: str) -> None:
        with (self._files.log / f"{name}.log").open("ab") as log:
            subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                env=self.environment(),
            )

    def environment(self) -> dict[str, str]:
        """Return what the parts find in their environment: containerd looks for its shim on the PATH."""
        return {"PATH": f"{Path(self._programs['containerd']).parent}:{SYSTEM_PATH}", "HOME": "/root"}

    def _ask(self, url: str, token: str = "") -> str:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
        context = None
        if url.startswith(API):
            context = ssl.create_default_context(cafile=str(self._files.certificate))
        elif url.startswith("https:"):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with urllib.request.urlopen(request, timeout=20, context=context) as answer:
            return str(answer.read(), "utf-8")

    def _wait(self, what: str, test: Callable[[], bool]) -> None:
        began, error = time.monotonic(), "it did not say"
        while time.monotonic() < began + PATIENCE_S:
            try:
                if test():
                    self._took(what)
                    return
            except (OSError, ValueError, KeyError) as caught:
                error = str(caught)
            time.sleep(0.05)
        sys.exit(f"{what} is not ready after {PATIENCE_S} s: {error}; see {self._files.log}")

    def _took(self, what: str) -> None:
        self._times[what] = round(time.monotonic() - self._began, 2)


def _works(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def main() -> None:
    """Boot and stay, or become the kubelet."""
    files = Files(Path(sys.argv[1]))
    node = Node(files)
    if sys.argv[2] == "kubelet":
        argv = node.kubelet()
        os.execve(argv[0], argv, node.environment())
    node.boot()
    while True:  # containerd's shims become children of ours
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)
            continue
        time.sleep(1)


if __name__ == "__main__":
    main()
