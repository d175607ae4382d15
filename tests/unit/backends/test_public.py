"""What is public for authors of backends: these names, under this version of the contract."""

from __future__ import annotations

import hashlib
import inspect

from katacsi import errors
from katacsi.backends import api, tools


def _surface() -> str:
    """Every public name, with the parameters of what can be called and the fields of what can be made."""
    lines = []
    for module in (api, tools):
        for name in sorted(module.__all__):
            value = getattr(module, name)
            lines.append(f"{module.__name__}.{name}")
            if inspect.isfunction(value):
                lines.append(f"{name}({', '.join(inspect.signature(value).parameters)})")
            if inspect.isclass(value):
                for part, method in sorted(vars(value).items()):
                    if not part.startswith("_") and inspect.isfunction(method):
                        lines.append(f"{name}.{part}({', '.join(inspect.signature(method).parameters)})")
                fields = getattr(value, "__dataclass_fields__", {})
                lines.extend(f"{name}.{field}" for field in fields)
    lines.extend(name for name, _ in inspect.getmembers(errors, inspect.isclass))
    return "\n".join(lines)


def test_what_is_public_changes_with_its_version():
    """A changed name, parameter or field: raise `api.CONTRACT`, tell it in CHANGELOG.md, note the mark.

    More to have raises the minor number; what would break a backend that exists, the major one.
    """
    mark = hashlib.sha256(_surface().encode()).hexdigest()[:12]
    assert (api.CONTRACT, mark) == ((1, 0), "7e14fa60732f"), _surface()


def test_every_public_name_is_there():
    """Nothing is promised that cannot be imported, and nothing twice."""
    for module in (api, tools):
        assert len(set(module.__all__)) == len(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)
