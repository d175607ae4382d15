"""A base for the image, made of Debian packages by mmdebstrap: what a registry's slim image is to operators.

It has this machine's mirrors, certificates and settings of apt and pip, so that the Containerfile's steps
reach what this machine reaches. None of that gets into the image, whose last stage starts from nothing.
Root; standard library only.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from debian_packages import Packages, digest
from image import Unavailable

#: Builder and maker of the base, unpacked into the cache.
TOOLS = Packages(name="image", main="buildah", main_file=Path("/usr/bin/buildah"), others=("mmdebstrap",))
#: How a base is made; another number makes every base anew.
RECIPE = 1
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
#: What of apt's settings tells how this machine reaches its mirrors.
_REACHING = re.compile(r"^Acquire::(Check-|https?::|Retries|ForceIPv)")
#: Likewise of pip's.
_PIP = ("index-url", "extra-index-url", "timeout", "default-timeout")
_DOCUMENTATION = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")


@dataclass(frozen=True)
class Base:
    """What a base is made of."""

    suite: str
    mirrors: tuple[str, ...]
    """Lines as in sources.list; empty: mmdebstrap's own."""
    apt: tuple[str, ...]
    pip: str
    packages: tuple[str, ...] = ("ca-certificates",)
    """Besides Debian's smallest set. A public base has no more either."""
    recipe: int = RECIPE

    @classmethod
    def of_this_machine(cls) -> Base:
        """Describe a base of this machine's release."""
        system = dict(
            line.split("=", 1)
            for line in Path("/etc/os-release").read_text("utf-8").splitlines()
            if "=" in line
        )
        suite = system.get("VERSION_CODENAME", "").strip('"')
        if not suite:
            raise Unavailable(
                "/etc/os-release has no VERSION_CODENAME: the base is made of Debian's or Ubuntu's packages"
            )
        form = "$(ORIGIN)|$(CODENAME)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
        targets = [
            line.split("|")
            for line in _said("apt-get", "indextargets", "--format", form, "Created-By: Packages")
        ]
        mirrors = [
            line
            for origin, name, line in targets
            if origin in ("Debian", "Ubuntu") and name.split("-")[0] == suite
        ]
        return cls(
            suite,
            tuple(sorted(set(mirrors))),
            tuple(line for line in _said("apt-config", "dump") if _REACHING.match(line)),
            _pip_settings(),
        )

    @property
    def name(self) -> str:
        """Name it by what it is made of."""
        return f"base-{digest(json.dumps(asdict(self)).encode())}"

    def archive(self, tools: Path) -> Path:
        """Return it as a tar file, made on first use.

        Raises:
            Unavailable: mmdebstrap failed; the message has what it said last.
        """
        file = TOOLS.folder / f"{self.name}.tar"
        if file.exists():
            return file
        with tempfile.TemporaryDirectory(prefix=".base-", dir=TOOLS.folder) as name:
            scratch = Path(name)
            (scratch / "pip.conf").write_text(self.pip, "utf-8")
            hooks = [f'cp {scratch}/pip.conf "$1/etc/pip.conf"']
            if CERTIFICATES.exists():
                hooks.append(f'cp {CERTIFICATES} "$1{CERTIFICATES}"')
            run(
                tools,
                [
                    *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=tar"),
                    f"--include={','.join(self.packages)}",
                    *(f"--dpkgopt=path-exclude={pattern}" for pattern in _DOCUMENTATION),
                    # Licences stay, as in the slim images.
                    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
                    *(f"--aptopt={option}" for option in self.apt),
                    *(f"--customize-hook={hook}" for hook in hooks),
                    *(self.suite, str(scratch / "base.tar"), *self.mirrors),
                ],
                {"TMPDIR": name},
            )
            (scratch / "base.tar").rename(file)
        return file


def command(tools: Path, variables: dict[str, str]) -> list[str]:
    """Return the words that start a program where the unpacked packages are at their places in /usr.

    Their programs start themselves again, and find libraries and helpers at fixed paths: an environment
    would not do. The mounts are in a namespace of their own and go with the program.
    """
    overlay = 'mount -t overlay -o "lowerdir=$0:/usr" overlay /usr && exec "$@"'
    return [
        *("unshare", "--mount", "--propagation=private", "--", "env"),
        *(f"{name}={value}" for name, value in variables.items()),
        *("sh", "-c", overlay, str(tools / "usr")),
    ]


def run(tools: Path, argv: list[str], variables: dict[str, str]) -> None:
    """Run a program of the unpacked packages.

    Raises:
        Unavailable: it failed; the message has what it said last.
    """
    answer = subprocess.run(
        [*command(tools, variables), *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise Unavailable(f"{argv[0]} failed with exit code {answer.returncode}:\n{answer.stdout[-3000:]}")


def _pip_settings() -> str:
    """Return a pip.conf with what pip is told here of indexes and certificates."""
    said = [line.partition("=") for line in _said(sys.executable, "-m", "pip", "config", "list")]
    # Of a setting that is told twice, the first one wins.
    found = {name.rpartition(".")[2]: value.strip("'") for name, _, value in reversed(said)}
    kept: dict[str, str] = {name: found[name] for name in _PIP if name in found}
    if "cert" in found:
        kept["cert"] = str(CERTIFICATES)
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in kept.items())


def _said(*argv: str) -> list[str]:
    answer = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return [] if answer.returncode else answer.stdout.splitlines()
