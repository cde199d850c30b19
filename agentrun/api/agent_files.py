"""Import a file that defines agents, as the CLI and workers do: by path, never as `__main__`.

The file's folder goes on the import path, as it does for ``python FILE``, so that the file can
import its neighbours. No run may start during the import, because each import would start one:
`DurableAgent.run` raises ConfigError while `importing` is set.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from agentrun.api.agent import DurableAgent
from agentrun.core.errors import ConfigError
from agentrun.lifecycle.registry import importing, registered

__all__ = ["load", "load_module", "pick"]


def load(file: str | Path) -> dict[str, DurableAgent[..., Any]]:
    """Import a Python file; return the agents that it defines or imports, by name.

    Raises:
        ConfigError: there is no such file, or the import raised. The message names the file, the
            line and the exception, which is also the ``__cause__``.
    """
    module = load_module(file)
    names = {value.name for value in vars(module).values() if isinstance(value, DurableAgent)}
    return {name: cast("DurableAgent[..., Any]", registered(name)) for name in sorted(names)}


def load_module(file: str | Path) -> ModuleType:
    """Import a Python file. Raises ConfigError as `load` does."""
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"there is no file {str(file)!r}")
    return _execute(path)


def pick(
    agents: dict[str, DurableAgent[..., Any]], name: str | None, file: str
) -> DurableAgent[..., Any]:
    """The agent of this name, or the only agent if ``name`` is None.

    Raises ConfigError if there is no such agent, or if there are several and no name is given.
    """
    if not agents:
        raise ConfigError(f"{file} defines no agent: decorate a function with @agentrun.agent")
    known = ", ".join(agents)
    if name is None and len(agents) > 1:
        raise ConfigError(f"{file} has several agents; name one, as in {file}:AGENT: {known}")
    if name is not None and name not in agents:
        raise ConfigError(f"{file} has no agent named {name!r}; it has: {known}")
    return agents[name] if name is not None else next(iter(agents.values()))


def _execute(path: Path) -> ModuleType:
    # The module is named after the file, so that its classes have the same name in each process.
    # If a module of this name is loaded already, a prefix keeps the two apart.
    taken = path.stem in sys.modules
    module = ModuleType(f"agentrun_file_{path.stem}" if taken else path.stem)
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    token = importing.set(path.name)
    try:
        # An importer would write a .pyc. If the file is edited within the same second, Python
        # would take that .pyc for up to date.
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise ConfigError(_import_error_text(path, error)) from error
    finally:
        importing.reset(token)
    return module


def _import_error_text(path: Path, error: BaseException) -> str:
    """File, line and exception; also the file that raised it, if that is another one."""
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
