#!/usr/bin/env python3
"""Build the container image; this is what `make image` does.

    image.py                                   katacsi:<version>, in the builder's own storage
    image.py --base registry.example/debian:12 on another base
    image.py --tag registry.example/katacsi:1  under another name
    image.py --archive katacsi.tar             and write it to a file, which `ctr images import` takes

It is built by buildah, podman or docker, whichever is there. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent


class Unavailable(Exception):
    """The image cannot be built here; the message says why and what to do."""


@dataclass(frozen=True)
class Builder:
    """A program that builds images from a Containerfile."""

    name: str
    """`buildah`, `podman` or `docker`: their commands differ."""
    command: tuple[str, ...]
    """How it is started, with the options that come before its commands."""
    quiet: bool = False
    """Whether what it says is shown only when it fails."""

    def build(self, tag: str, base: str = "") -> None:
        """Build the image from this tree.

        Raises:
            Unavailable: a step failed; its output was shown.
        """
        verb = ("build", "--file", "Containerfile") if self.name != "buildah" else ("bud", "--layers")
        arguments = {"VERSION": version(), "REVISION": revision(), **({"BASE": base} if base else {})}
        words = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        self.run(*verb, *words, "--tag", tag, ".")

    def size(self, tag: str) -> int:
        """Return the bytes of the image's files."""
        if self.name == "buildah":
            said = self._said("images", "--json", tag)
            size = str(json.loads(said)[0]["size"]).replace(" ", "")
            number, unit = re.fullmatch(r"([0-9.]+)([KMG]?B)", size).groups()  # type: ignore[union-attr]
            return int(float(number) * {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}[unit])
        return int(self._said("image", "inspect", "--format", "{{.Size}}", tag))

    def save(self, tag: str, file: Path, name: str) -> None:
        """Write the image into a file of docker's archive format, under a name of its own."""
        file.unlink(missing_ok=True)  # none of them writes into an archive that is there
        if self.name == "docker":
            self.run("tag", tag, name)
            self.run("save", "--output", str(file), name)
        else:
            self.run("push", tag, f"docker-archive:{file}:{name}")

    def run(self, *words: str) -> None:
        """Run one of its commands in this tree.

        Raises:
            Unavailable: it failed.
        """
        answer = subprocess.run(
            [*self.command, *words],
            cwd=TREE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if self.quiet else sys.stderr,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if answer.returncode:
            said = f":\n{answer.stdout[-3000:]}" if self.quiet else ""
            raise Unavailable(f"{self.name} {words[0]} failed with exit code {answer.returncode}{said}")

    def _said(self, *words: str) -> str:
        return subprocess.run(
            [*self.command, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True
        ).stdout


def version() -> str:
    """Return the driver's version."""
    text = (TREE / "src" / "katacsi" / "__init__.py").read_text("utf-8")
    return text.rpartition('__version__ = "')[2].partition('"')[0]


def revision() -> str:
    """Return the commit that is built, with `-dirty` where files differ from it."""
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=TREE,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"


def installed() -> Builder:
    """Return the builder of this machine; as root it is installed where there is none.

    Raises:
        Unavailable: there is none, and none can be installed.
    """
    answer = subprocess.run(
        [TREE / "tools" / "bootstrap.sh", "builder"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    path = answer.stdout.strip()
    if answer.returncode or not path:
        raise Unavailable("no container builder: see above")
    return Builder(Path(path).name, (path,))


def main() -> int:
    """Build, and print the name and the size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default="", help="a Debian image with apt; default: the Containerfile's")
    parser.add_argument(
        "--tag", default=f"katacsi:{version()}", help="the image's name; default: %(default)s"
    )
    parser.add_argument("--archive", type=Path, help="also write it to this file, in docker's archive format")
    asked = parser.parse_args()
    try:
        builder = installed()
        builder.build(asked.tag, asked.base)
        size = builder.size(asked.tag)
        if asked.archive:
            builder.save(asked.tag, asked.archive.absolute(), asked.tag)
    except Unavailable as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    print(f"{asked.tag}: {size / 1e6:.0f} MB, built by {builder.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
