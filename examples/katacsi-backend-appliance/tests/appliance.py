"""A small appliance: volumes as files, an HTTP API, and one node at a time by its own doing.

It fences by moving a volume's bytes to a file of another name: what a node that was fenced off still writes
goes to the old one. `python appliance.py FOLDER PORT` serves until it is killed; everything lasts.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

ROOM = 256 << 20
NODES = {"node-1", "node-2"}


class Refused(Exception):
    """An answer that is not OK: the status, the kind, and words."""


class Store:
    """The volumes; each change is one transaction, on the disk before it is told."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "store.json"
        self.lock = threading.Lock()
        if self._file.exists():
            self.state = json.loads(self._file.read_bytes())
        else:
            self.state = {"serial": secrets.token_hex(4), "volumes": {}}
            self.save()

    def save(self) -> None:
        new = self._folder / "store.new"
        with new.open("w") as file:
            json.dump(self.state, file)
            file.flush()
            os.fsync(file.fileno())
        new.rename(self._file)
        self._sync()

    def _sync(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def volume(self, name: str) -> dict:
        try:
            return self.state["volumes"][name]
        except KeyError:
            raise Refused(404, "no such volume", f"there is no volume {name}") from None

    def image(self, name: str) -> Path:
        return self._folder / f"{name}.{self.volume(name)['generation']}.img"

    def shown(self, name: str) -> dict:
        volume = self.volume(name)
        fault = "" if self.image(name).exists() else f"the bytes of {name} are gone; restore them"
        access = volume["access"] and {**volume["access"], "export": str(self.image(name))}
        return {**volume, "access": access, "fault": fault}

    def free(self) -> int:
        return max(0, ROOM - sum(volume["size"] for volume in self.state["volumes"].values()))

    # -- the API -----------------------------------------------------------------------------------

    def get_pool(self) -> dict:
        return {"serial": self.state["serial"], "free": self.free()}

    def get_volumes(self, after: str, limit: int) -> dict:
        names = sorted(name for name in self.state["volumes"] if name > after)
        page = names[:limit] if limit else names
        following = page[-1] if len(page) < len(names) else ""
        return {"volumes": [(name, self.shown(name)) for name in page], "next": following}

    def put_volume(self, name: str, body: dict) -> dict:
        if name in self.state["volumes"]:
            if self.volume(name)["size"] != body["size"]:
                raise Refused(409, "name taken", f"volume {name} has another size")
            return self.shown(name)
        if body["size"] > self.free():
            raise Refused(507, "full", f"{body['size']} bytes were asked for, {self.free()} are free")
        self.state["volumes"][name] = {**body, "access": None, "generation": 0}
        with self.image(name).open("wb") as image:
            image.truncate(body["size"])
            os.fsync(image.fileno())
        self.save()
        return self.shown(name)

    def delete_volume(self, name: str) -> None:
        if name not in self.state["volumes"]:
            return
        if access := self.volume(name)["access"]:
            raise Refused(409, "published", f"volume {name} is published to {access['node']}; unpublish it")
        image = self.image(name)
        del self.state["volumes"][name]
        self.save()
        image.unlink(missing_ok=True)

    def put_facts(self, name: str, body: dict) -> None:
        if self.volume(name)["facts"] != body["expected"]:
            raise Refused(412, "facts changed", f"volume {name}: its facts changed meanwhile; retry")
        self.volume(name)["facts"] = body["new"]
        self.save()

    def put_access(self, name: str, body: dict) -> dict:
        volume = self.volume(name)
        if body["node"] not in NODES:
            raise Refused(404, "no such node", f"node {body['node']} is not registered; register it")
        if access := volume["access"]:
            if access["node"] != body["node"]:
                raise Refused(409, "another node", f"volume {name} is published to {access['node']}")
            if access["read_only"] != body["read_only"]:
                raise Refused(
                    409, "other access", f"volume {name} is published to {access['node']} otherwise"
                )
        else:
            volume["access"] = {"node": body["node"], "read_only": body["read_only"]}
            self.save()
        return {"export": str(self.image(name))}

    def delete_access(self, name: str, body: dict) -> None:
        volume = self.state["volumes"].get(name)
        if not volume or not volume["access"] or body["node"] not in ("", volume["access"]["node"]):
            return
        former = self.image(name)
        volume["generation"] += 1
        # The copy is there before anybody hears of it; what is cut off here is done again.
        shutil.copyfile(former, self.image(name))
        with self.image(name).open("rb") as image:
            os.fsync(image.fileno())
        volume["access"] = None
        self.save()
        former.unlink()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    store: Store

    def do(self) -> None:
        parts = urlsplit(self.path)
        words = [word for word in parts.path.split("/") if word]
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        try:
            with self.store.lock:
                answer, status = self.answered(self.command.lower(), words, query, body), 200
        except Refused as error:
            status, kind, fact = error.args
            answer = {"error": kind, "words": fact}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_DELETE = do

    def answered(self, verb: str, words: list[str], query: dict, body: dict) -> object:
        match verb, words:
            case "get", ["pool"]:
                return self.store.get_pool()
            case "get", ["volumes"]:
                return self.store.get_volumes(query.get("after", ""), int(query.get("limit", 0)))
            case "get", ["volumes", name]:
                return self.store.shown(name)
            case "put", ["volumes", name]:
                return self.store.put_volume(name, body)
            case "delete", ["volumes", name]:
                return self.store.delete_volume(name)
            case "put" | "delete", ["volumes", name, ("facts" | "access") as what]:
                return getattr(self.store, f"{verb}_{what}")(name, body)
        raise Refused(404, "no such thing", f"{verb} /{'/'.join(words)}")

    def log_message(self, *args: object) -> None:
        """Say nothing: tests make thousands of requests."""


def main() -> None:
    """Serve."""
    Handler.store = Store(Path(sys.argv[1]))
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
