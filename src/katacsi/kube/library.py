"""What is used of kubernetes-asyncio, imported without its thousand modules of models.

`import kubernetes_asyncio` loads every API class and every model: 40 MiB and a third of a second for each
node process (measured with 36.1), of which these few calls on plain dicts need nothing. So its modules for
connections and credentials are imported below packages that stand in for its own, which have the same folders
and run no code. They are taken away afterwards: whoever imports the library later gets the whole of it.
tests/host/test_kubernetes_driver.py holds a node process to what all this saves.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from katacsi.standins import anything, module, package, standing_in

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT: Final = "kubernetes_asyncio"
_PACKAGES: Final = ("client", "config")
#: A whole HTTP client, of which Configuration takes a header for passwords, which Kubernetes has no more.
_UNUSED: Final = "urllib3"


#: aiohttp reads the system's certificate authorities for a default of its own: 3 MiB for every node. The
#: authority of a cluster comes with its credentials; where a kubeconfig names none, the system's are read for
#: that connection. Compiled helpers speed up thousands of requests a second, and cost 2 MiB more than their
#: twins in Python.
_LEAN: Final = {
    "SSL_CERT_FILE": os.devnull,
    "SSL_CERT_DIR": os.devnull,
    "AIOHTTP_NO_EXTENSIONS": "1",
    "FROZENLIST_NO_EXTENSIONS": "1",
    "PROPCACHE_NO_EXTENSIONS": "1",
    "YARL_NO_EXTENSIONS": "1",
}


@contextmanager
def _lean() -> Iterator[None]:
    """Let aiohttp be imported with no more than a request now and then needs."""
    former = {name: os.environ.get(name) for name in _LEAN}
    os.environ.update(_LEAN)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def environments_proxies() -> ModuleType:
    """Give as much of urllib.request as aiohttp uses; the real one is imported where a proxy is named."""

    def named() -> bool:
        return any(name.lower().endswith("_proxy") for name in os.environ)

    def real() -> Any:  # noqa: ANN401  # the module
        return importlib.import_module("urllib.request")

    made = ModuleType("urllib.request")
    made.getproxies = lambda: real().getproxies() if named() else {}  # type: ignore[attr-defined]  # as the real one
    made.proxy_bypass = lambda host: named() and real().proxy_bypass(host)  # type: ignore[attr-defined]  # as the real one
    return made


#: What one may hook into each step of a request: twenty classes for half a MiB, and none is used here.
with _lean(), standing_in((anything("aiohttp.tracing"), environments_proxies())):
    import aiohttp

__all__ = ["Library", "aiohttp", "library", "load_kube_config"]

# At debug level it writes the body of every answer, and a pod's has the values of its environment.
logging.getLogger(_ROOT).setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Library:
    """The classes that `katacsi.kube` builds on; untyped, since their stubs would bring all models."""

    Configuration: Any
    Connection: Any
    InClusterConfigLoader: Any
    ApiException: type[Exception]
    ConfigException: type[Exception]


@cache
def library() -> Library:
    """Import what talks to an API server, and the credentials of a pod."""
    with _stand_ins():
        configuration = importlib.import_module(f"{_ROOT}.client.configuration").Configuration
        sys.modules[f"{_ROOT}.client"].Configuration = configuration  # type: ignore[attr-defined]  # as the real one
        return Library(
            Configuration=configuration,
            Connection=importlib.import_module(f"{_ROOT}.client.rest").RESTClientObject,
            InClusterConfigLoader=importlib.import_module(
                f"{_ROOT}.config.incluster_config"
            ).InClusterConfigLoader,
            ApiException=importlib.import_module(f"{_ROOT}.client.exceptions").ApiException,
            ConfigException=importlib.import_module(f"{_ROOT}.config.config_exception").ConfigException,
        )


@cache
def load_kube_config() -> Any:  # noqa: ANN401  # the library's coroutine function
    """Import what reads a kubeconfig file; a process in a pod never needs it."""
    configuration = library().Configuration
    with _stand_ins():
        client = sys.modules[f"{_ROOT}.client"]
        client.Configuration = configuration  # type: ignore[attr-defined]  # as the real one
        # Named by functions of that module that are not used here; the class would bring the models.
        vars(client).setdefault("ApiClient", None)
        return importlib.import_module(f"{_ROOT}.config.kube_config").load_kube_config


def _stand_ins() -> AbstractContextManager[None]:
    """Have packages without content in the place of the library's, unless somebody imported it already."""
    if _ROOT in sys.modules:
        return nullcontext()
    found = importlib.util.find_spec(_ROOT)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{_ROOT} is not installed; install katacsi with its dependencies")
    folder = Path(found.origin).parent
    return standing_in(
        (
            package(_ROOT, str(folder)),
            *(package(f"{_ROOT}.{name}", str(folder / name)) for name in _PACKAGES),
            module(_UNUSED),
            # Configuration sets its level of debugging.
            module("http.client", "HTTPConnection"),
        )
    )
