"""How a client comes to record: `wrap` an SDK client, or give one of our HTTP clients to it.

For code that owns its client and takes none there is `agentrun.models.install`.
"""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, Literal, TypeVar

from agentrun.core.errors import ConfigError
from agentrun.models.retry import DEFAULT_RETRIES, RetryPolicy
from agentrun.models.transport import Recording, Settings, transports

__all__ = ["FAMILIES", "async_http_client", "http_client", "settings", "wrap"]

C = TypeVar("C")
Family = Literal["httpx", "httpx2"]
FAMILIES: tuple[Family, ...] = ("httpx2", "httpx")

TIMEOUT = 600.0  # seconds; the SDKs' own. The 5 s of a bare httpx client is no time for a model
CONNECT_TIMEOUT = 5.0


def wrap(
    client: C,
    *,
    strict: bool = False,
    retries: int | None = None,
    inflight: Literal["background"] | None = None,
) -> C:
    """Record the model calls of an OpenAI or Anthropic client, sync or async, Azure included.

    Returns the same instance, changed in place; its copies (``with_options``) record too.
    Outside a run it works as before; with ``strict`` a model call there raises `NoRun`.

    ``retries`` is how many further attempts a failed call gets (default: the client's own
    ``max_retries``). They are recorded; the SDK's own are switched off, and a number given
    later to ``with_options(max_retries=…)`` counts no more.

    ``inflight`` is what becomes of a call that is in flight at a crash. By default it is made
    again, and may be paid twice. With ``"background"`` a Responses call goes out as a stored
    background response, whose id is recorded before anything of it is handed on: whoever resumes
    the run picks that up, and pays once; a cancelled run cancels it at the provider. The code
    sees what a plain call would give. Where there is no such mode (other APIs, a provider that
    refuses it, ``store=False``) calls go as plain ones, and a warning says so. None leaves a
    wrapped client as it was told before.

    Raises `ConfigError` if this is no such client, or ``inflight`` has another value.
    """
    target: Any = client
    http = getattr(target, "_client", None)
    module = _module_of(http)
    own = getattr(target, "max_retries", None)
    if module is None or not isinstance(own, int):
        raise ConfigError(
            f"wrap() takes an OpenAI or Anthropic client, not {type(client).__name__}; for code "
            "that takes an HTTP client use agentrun.http_client() or async_http_client()"
        )
    told = settings(strict, _retries(http, own, retries), _background(http, inflight))
    _record(http, module, told)
    target.max_retries = 0
    return client


def http_client(
    *, strict: bool = False, retries: int = DEFAULT_RETRIES, module: Family | None = None, **kw: Any
) -> Any:
    """An HTTP client that records model calls, for code that makes its own SDK client of it.

    ``OpenAI(http_client=agentrun.http_client())``. It is an ``httpx2.Client`` if the installed
    openai uses httpx2 (3.0 and later), else an ``httpx.Client``; ``module`` chooses. Other
    arguments go to that class. ``strict`` and ``retries`` as in `wrap`.

    Raises `ConfigError` if that module is not installed.
    """
    return _client("Client", strict, retries, module, kw)


def async_http_client(
    *, strict: bool = False, retries: int = DEFAULT_RETRIES, module: Family | None = None, **kw: Any
) -> Any:
    """The async twin of `http_client`: an ``httpx2.AsyncClient`` or ``httpx.AsyncClient``."""
    return _client("AsyncClient", strict, retries, module, kw)


def _client(
    kind: str, strict: bool, retries: int, family: Family | None, kw: dict[str, Any]
) -> Any:
    name = family or _default_family()
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed: pip install {name}") from error
    kw.setdefault("timeout", module.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT))
    kw.setdefault("follow_redirects", True)
    client = getattr(module, kind)(**kw)
    _record(client, module, settings(strict, retries))
    return client


def settings(strict: bool, retries: int | None, background: bool = False) -> Settings:
    """What a client is told. Raises `ConfigError` for a negative number of retries."""
    if retries is not None and retries < 0:
        raise ConfigError(f"retries must be 0 or more, not {retries}")
    return Settings(strict, background, RetryPolicy(retries))


def _default_family() -> Family:
    """The one the installed openai uses; without openai, the one that is there."""
    try:
        return "httpx2" if int(version("openai").partition(".")[0]) >= 3 else "httpx"
    except (PackageNotFoundError, ValueError):
        return next((name for name in FAMILIES if importlib.util.find_spec(name)), "httpx")


def _module_of(http: Any) -> ModuleType | None:
    """The HTTP module whose client this is; it is loaded, since an instance exists."""
    for kind in type(http).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in FAMILIES and kind.__name__ in ("Client", "AsyncClient"):
            return importlib.import_module(name)
    return None


def _record(http: Any, module: Any, settings: Settings) -> None:
    """Put our transport before the client's own, and before those mounted for proxies."""
    kinds = transports(module)
    kind = kinds.asyn if isinstance(http, module.AsyncClient) else kinds.sync

    def before(inner: Any) -> Any:
        if inner is None:  # "no proxy for this host": the client's own transport serves it
            return None
        return kind(inner.inner if isinstance(inner, Recording) else inner, settings)

    http._transport = before(http._transport)
    http._mounts = {pattern: before(inner) for pattern, inner in http._mounts.items()}


def _retries(http: Any, own: int, given: int | None) -> int:
    """The number given, else the client's own; wrapping set that to 0 and kept it here."""
    if given is not None:
        return given
    if own == 0 and isinstance(http._transport, Recording):
        return http._transport.settings.policy.retries or 0
    return own


def _background(http: Any, inflight: str | None) -> bool:
    """Whether calls go out in the background: as told, else as the client was told before."""
    if inflight not in (None, "background"):
        raise ConfigError(f"inflight={inflight!r}; give 'background', or leave it out")
    before = isinstance(http._transport, Recording) and http._transport.settings.background
    return inflight == "background" or before
