"""A small API server of Kubernetes' kind on HTTPS: objects in a dict, and every way to fail at will."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

from aiohttp import web

from katacsi.kube.credentials import InCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

_REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "AlreadyExists",
    429: "TooManyRequests",
}


class KubeApi:
    """The server, and the service account folder that a pod of its cluster would have.

    Attributes:
        objects: what GET answers, by path; POST, PATCH and DELETE change it as Kubernetes does.
        lists: paths of lists, which have what lies directly below.
        requests: "METHOD path" of every request that was let in, in order.
        bodies: what POST and PATCH sent, in order.
        queries: the query of each request, in order.
        failing: the status that every request gets, and the headers with it; 0: none.
        meanwhile: called with each "METHOD path" before its answer; gives the status to refuse it with, or 0.
        hanging: whether requests are read and never answered.
        delay_s: how long every answer takes.
        token: the only one that is accepted.
        forbidden: what the account may not do, such as "get pods", when it asks.
    """

    def __init__(self, folder: Path) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.lists: set[str] = set()
        self.requests: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.queries: list[dict[str, str]] = []
        self.failing = 0
        self.meanwhile: Callable[[str], int] = lambda request: 0
        self.hanging = False
        self.delay_s = 0.0
        self.token = "token-1"
        self.forbidden: set[str] = set()
        self.port = 0
        self.account = folder / "serviceaccount"
        self._folder = folder
        self._site: web.TCPSite | None = None
        self._runner: web.AppRunner | None = None
        self._authorities = 0

    @property
    def credentials(self) -> InCluster:
        """How a driver in a pod finds the server."""
        environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}
        return InCluster(self.account, environment)

    def write_kubeconfig(self) -> Path:
        """Write how a driver outside of a pod finds the server."""
        file = self._folder / "kubeconfig"
        cluster = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority": f"{self.account}/ca.crt",
        }
        file.write_text(
            json.dumps(
                {
                    "current-context": "it",
                    "contexts": [{"name": "it", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"token": self.token}}],
                }
            )
        )
        return file

    async def start(self) -> None:
        """Serve, on the same port again where it served before."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        # A handler that hangs is cancelled when its client goes, as the real server does.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority, certificate, key = self._new_certificate()
        context.load_cert_chain(certificate, key)
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context)
        await self._site.start()
        self.port = self._runner.addresses[0][1]
        self.account.mkdir(exist_ok=True)
        (self.account / "token").write_text(self.token)
        self._authority = authority
        self.give_authority()

    def give_authority(self) -> None:
        """Let the kubelet bring the pod the authority of the certificate that is shown now."""
        (self.account / "ca.crt").write_text(self._authority.read_text())

    async def stop(self) -> None:
        """Go away."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def rotate_certificate(self) -> None:
        """Show a certificate of another authority from now on; the pod does not have that one yet."""
        former = (self.account / "ca.crt").read_text()
        await self.stop()
        await self.start()
        (self.account / "ca.crt").write_text(former)

    def rotate_token(self, *, give: bool = True) -> None:
        """Accept another token from now on; the pod gets it, or not yet."""
        self.token += "+"
        if give:
            (self.account / "token").write_text(self.token)

    # -- what it answers -------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60 if self.hanging else self.delay_s)
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        if self.failing:
            return _status(self.failing, f"scripted {self.failing}")
        self.requests.append(f"{request.method} {request.path}")
        self.queries.append(dict(request.query))
        if status := self.meanwhile(self.requests[-1]):
            return _status(status, f"scripted {status}")
        if request.path in self.lists:
            return web.json_response({"items": self._below(request.path, request.query), "metadata": {}})
        return await (self._create if request.method == "POST" else self._existing)(request)

    async def _existing(self, request: web.Request) -> web.StreamResponse:
        if (found := self.objects.get(request.path)) is None:
            return _status(404, f'"{request.path}" not found')
        if request.method == "GET":
            return web.json_response(found)
        sent = await request.json()
        if conflict := _conflict(found, sent.get("preconditions") or sent.get("metadata") or {}):
            return conflict
        if request.method == "PATCH":
            assert request.headers["content-type"] == "application/merge-patch+json"
            self.bodies.append(sent)
            _merge(found, sent)
        else:
            found["metadata"]["deletionTimestamp"] = "now"
        self._changed(request.path, found)
        return web.json_response(found)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if body.get("kind") == "SelfSubjectAccessReview":
            asked = body["spec"]["resourceAttributes"]
            allowed = f"{asked['verb']} {asked['resource']}" not in self.forbidden
            return web.json_response({**body, "status": {"allowed": allowed}}, status=201)
        path = f"{request.path}/{body['metadata']['name']}"
        if path in self.objects:
            return _status(409, "already exists")
        self.objects[path] = body
        return web.json_response(body, status=201)

    def _below(self, path: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
        key, _, value = query.get("labelSelector", "").partition("=")
        return [
            found
            for each, found in self.objects.items()
            if each.rpartition("/")[0] == path
            and (not key or found["metadata"].get("labels", {}).get(key) == value)
        ]

    def _changed(self, path: str, found: dict[str, Any]) -> None:
        metadata = found.setdefault("metadata", {})
        metadata["resourceVersion"] = str(int(metadata.get("resourceVersion", "0")) + 1)
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            del self.objects[path]

    def _new_certificate(self) -> tuple[Path, Path, Path]:
        self._authorities += 1
        key = self._folder / f"key-{self._authorities}.pem"
        certificate = self._folder / f"cert-{self._authorities}.pem"
        command = (
            "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2 "
            f"-subj /CN=kube-{self._authorities} -addext subjectAltName=IP:127.0.0.1 "
            f"-keyout {key} -out {certificate}"
        )
        subprocess.run(command.split(), check=True, capture_output=True)
        return certificate, certificate, key


def _status(code: int, message: str, *, reason: str = "") -> web.Response:
    reason = reason or _REASONS.get(code, "InternalError")
    answer = {"kind": "Status", "apiVersion": "v1", "message": message, "reason": reason, "code": code}
    return web.Response(status=code, text=json.dumps(answer), content_type="application/json")


def _conflict(found: dict[str, Any], wanted: dict[str, Any]) -> web.Response | None:
    """Refuse what is meant for another object, or for another version of it."""
    for key in ("uid", "resourceVersion"):
        if wanted.get(key, "") not in ("", None, found["metadata"].get(key)):
            return _status(409, f"the {key} differs", reason="Conflict")
    return None


def _merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[KubeApi]:
    """Serve until the block ends."""
    api = KubeApi(folder)
    await api.start()
    try:
        yield api
    finally:
        await api.stop()
