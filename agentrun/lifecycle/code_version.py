"""The version of the code in this process. Each version tries a run that diverged once."""

from __future__ import annotations

import sys
import sysconfig
from functools import cache
from hashlib import blake2b
from pathlib import Path

__all__ = ["code_version"]


@cache
def code_version() -> str:
    """A digest of the files of all loaded modules, except installed packages.

    It is computed once, because the code of a process does not change. Two processes that load the
    same files have the same version. If two versions differ although the code is the same, a run
    is replayed once more, which has no effect.
    """
    digest = blake2b(digest_size=8)
    for path in sorted(_files()):
        try:
            digest.update(path.encode() + b"\0" + Path(path).read_bytes() + b"\0")
        except OSError:  # the file was removed after it was loaded
            continue
    return digest.hexdigest()


def _files() -> set[str]:
    installed = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    named = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    files = {str(Path(name).resolve()) for name in named if isinstance(name, str)}
    own = tuple(f"{Path(folder).resolve()}/" for folder in installed if folder)
    return {file for file in files if not file.startswith(own) and "/site-packages/" not in file}
