"""The top-level folders `tools`, `prompts` and `migrations`, under one import path.

In the wheel, these folders lie inside this package. In a checkout (or an editable install of one)
they lie at the root of the checkout, so the root is added to this package's ``__path__``. In both
cases the tools are imported as ``agentrun.bundled.tools``, and no package named ``tools`` ever
reaches site-packages.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["folder", "resource"]


def _is_checkout(root: Path) -> bool:
    try:
        return 'name = "agentrun-harness"' in (root / "pyproject.toml").read_text("utf-8")
    except OSError:
        return False


_root = Path(__file__).resolve().parents[2]
if _is_checkout(_root):
    __path__.append(str(_root))


def folder(name: str) -> Path:
    """Find a bundled folder by name; ``FileNotFoundError`` if this installation lacks it."""
    for place in __path__:
        if (found := Path(place) / name).is_dir():
            return found
    raise FileNotFoundError(
        f"no folder {name!r} in {', '.join(__path__)}: reinstall agentrun-harness"
    )


def resource(folder_name: str, name: str) -> Path:
    """Find a bundled file, such as ``resource("prompts", "support.md")``."""
    path = folder(folder_name) / name
    if not path.is_file():
        raise FileNotFoundError(f"no file {name!r} in {path.parent}")
    return path
