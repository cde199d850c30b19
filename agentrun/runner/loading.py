"""Import the file that defines agents, as the CLI and workers do: by path, never as `__main__`.

The file's folder goes on the import path, as it does for ``python FILE``, so that its neighbours
are found. What the file does when imported is its own; only a run must not begin there, or every
import would begin one: `DurableAgent.run` refuses while `importing` is set.
"""

from __future__ import annotations

import sys
import traceback
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from agentrun.core.errors import ConfigError

if TYPE_CHECKING:
    from agentrun.runner.agent import DurableAgent

__all__ = ["importing", "load", "load_module", "pick"]

importing: ContextVar[str | None] = ContextVar("agentrun_importing", default=None)


def load(file: str | Path) -> dict[str, DurableAgent[..., Any]]:
    """Import a Python file; return the agents it defines or imports, by name.

    Raises:
        ConfigError: there is no such file, or it raised while it was imported; the message
            names file, line and exception, which is the ``__cause__``.
    """
    from agentrun.runner.agent import DurableAgent, registered

    module = load_module(file)
    names = {value.name for value in vars(module).values() if isinstance(value, DurableAgent)}
    return {name: registered(name) for name in sorted(names)}


def load_module(file: str | Path) -> ModuleType:
    """Import a Python file. Raises ConfigError as `load` does."""
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"there is no file {str(file)!r}")
    return _execute(path)


def pick(
    agents: dict[str, DurableAgent[..., Any]], name: str | None, file: str
) -> DurableAgent[..., Any]:
    """The agent of this name; without a name the only one. Raises ConfigError."""
    if not agents:
        raise ConfigError(f"{file} defines no agent: decorate a function with @agentrun.agent")
    known = ", ".join(agents)
    if name is None and len(agents) > 1:
        raise ConfigError(f"{file} has several agents; name one, as in {file}:AGENT: {known}")
    if name is not None and name not in agents:
        raise ConfigError(f"{file} has no agent named {name!r}; it has: {known}")
    return agents[name] if name is not None else next(iter(agents.values()))


def _execute(path: Path) -> ModuleType:
    # Its own name, so that what it defines is called the same wherever it is imported; not that
    # of a module which is loaded already, be it another file of this name.
    taken = path.stem in sys.modules
    module = ModuleType(f"agentrun_file_{path.stem}" if taken else path.stem)
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    token = importing.set(path.name)
    try:
        # Not through an importer: that would leave a .pyc behind, which may be taken for newer
        # than a file edited within the same second.
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise ConfigError(_told(path, error)) from error
    finally:
        importing.reset(token)
    return module


def _told(path: Path, error: BaseException) -> str:
    """File, line and exception; and where it came from, if that is another file."""
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        frames.append((error.filename or "", error.lineno))
        text = f"{type(error).__name__}: {error.msg}"
    own = [line for file, line in frames if file == str(path)]
    where = f", line {own[-1]}" if own else ""
    source, line = frames[-1]
    raised = f" (raised in {source}, line {line})" if own and source != str(path) else ""
    if isinstance(error, ConfigError):
        return f"{path}{where}: {error}"
    return f"{path} cannot be imported{where}: {text}{raised}"
