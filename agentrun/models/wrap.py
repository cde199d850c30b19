"""Makes one client record: `wrap` an SDK client, or give an SDK client one of our HTTP clients.

For code that creates its own client and accepts none, use `agentrun.models.install`.
"""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, Literal, TypeVar

from agentrun.core.errors import ConfigError
from agentrun.models.retries import DEFAULT_PATIENCE, DEFAULT_RETRIES, RetryPolicy
from agentrun.models.transport import RecordingBase, Settings, transports
from agentrun.models.web_sockets import refuse_model_web_sockets

__all__ = ["FAMILIES", "async_http_client", "http_client", "make_settings", "wrap"]

C = TypeVar("C")
Family = Literal["httpx", "httpx2"]
FAMILIES: tuple[Family, ...] = ("httpx2", "httpx")

TIMEOUT = 600.0  # seconds, as in the SDKs; the 5 s of a plain httpx client are too short
CONNECT_TIMEOUT = 5.0


def wrap(
    client: C,
    *,
    strict: bool = False,
    retries: int | None = None,
    patience: float | None = None,
    inflight: Literal["background"] | None = None,
) -> C:
    """Record the model calls of an OpenAI or Anthropic client, sync or async, Azure included.

    Args:
        client: an OpenAI or Anthropic client.
        strict: a model call outside a run raises `NoRun`. Default: it works as before, unrecorded.
        retries: how many further attempts a failed call gets; each is recorded. The SDK's own
            retries are switched off, and a later ``with_options(max_retries=…)`` has no effect.
            Default: the client's own ``max_retries``.
        patience: seconds that a call waits for a provider that cannot be reached (refused
            connection, unknown name, no route, failed TLS). Nothing is sent or billed then, so no
            attempt is used up. Default: 300. A worker executes other runs meanwhile.
        inflight: what becomes of a call that is in flight at a crash. By default it is made again,
            and may be paid twice. With ``"background"`` a Responses call is sent as a stored
            background response. Its id is recorded before any of it is handed on, so a resume
            reads that response and pays once; a cancelled run cancels it at the provider. The code
            gets what a plain call would return. Where the mode is missing (other APIs, a provider
            that refuses it, ``store=False``), calls are sent without it, and a warning says so.
            None keeps the setting of a client that is already wrapped.

    Returns:
        The same instance, changed in place; its copies (``with_options``) record too.

    Raises:
        ConfigError: ``client`` is not such a client, ``inflight`` has another value, or a number is
            negative.

    Example:
        >>> client = agentrun.wrap(OpenAI(), inflight="background")
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
    settings = make_settings(
        strict,
        _choose_retries(http, own, retries),
        _choose_patience(http, patience),
        background=_choose_background(http, inflight),
        sdk=True,
    )
    _insert_transport(http, module, settings)
    refuse_model_web_sockets()
    target.max_retries = 0
    return client


def http_client(
    *,
    strict: bool = False,
    retries: int = DEFAULT_RETRIES,
    patience: float = DEFAULT_PATIENCE,
    module: Family | None = None,
    **kw: Any,
) -> Any:
    """An HTTP client that records model calls, to give to an SDK client.

    It is an ``httpx2.Client`` if the installed openai uses httpx2 (3.0 and later), else an
    ``httpx.Client``.

    Args:
        strict: as in `wrap`.
        retries: as in `wrap`; how many further attempts a failed call gets.
        patience: as in `wrap`; seconds that a call waits for a provider that cannot be reached.
        module: "httpx" or "httpx2", to choose the class.
        kw: other arguments of that class.

    Raises:
        ConfigError: that module is not installed, or a number is negative.

    Example:
        >>> client = OpenAI(http_client=agentrun.http_client())
    """
    return _client("Client", make_settings(strict, retries, patience), module, kw)


def async_http_client(
    *,
    strict: bool = False,
    retries: int = DEFAULT_RETRIES,
    patience: float = DEFAULT_PATIENCE,
    module: Family | None = None,
    **kw: Any,
) -> Any:
    """Like `http_client`, for async SDK clients: ``httpx2.AsyncClient`` or ``httpx.AsyncClient``.

    Example:
        >>> client = AsyncOpenAI(http_client=agentrun.async_http_client())
    """
    return _client("AsyncClient", make_settings(strict, retries, patience), module, kw)


def _client(kind: str, settings: Settings, family: Family | None, kw: dict[str, Any]) -> Any:
    name = family or _default_family()
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed: pip install {name}") from error
    kw.setdefault("timeout", module.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT))
    kw.setdefault("follow_redirects", True)
    client = getattr(module, kind)(**kw)
    _insert_transport(client, module, settings)
    return client


def make_settings(
    strict: bool,
    retries: int | None,
    patience: float = DEFAULT_PATIENCE,
    *,
    background: bool = False,
    sdk: bool = False,
) -> Settings:
    """Check the options of a client. Raises `ConfigError` for negative numbers."""
    if retries is not None and retries < 0:
        raise ConfigError(f"retries must be 0 or more, not {retries}")
    if not patience >= 0:
        raise ConfigError(f"patience must be 0 seconds or more, not {patience}")
    return Settings(strict, sdk, background, RetryPolicy(retries, patience))


def _default_family() -> Family:
    """The HTTP module that the installed openai uses; without openai, the installed one."""
    try:
        return "httpx2" if int(version("openai").partition(".")[0]) >= 3 else "httpx"
    except (PackageNotFoundError, ValueError):
        for name in FAMILIES:
            if importlib.util.find_spec(name):
                return name
        return "httpx"


def _module_of(http: Any) -> ModuleType | None:
    """The HTTP module that a client belongs to; None if it is no HTTP client."""
    for kind in type(http).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in FAMILIES and kind.__name__ in ("Client", "AsyncClient"):
            return importlib.import_module(name)
    return None


def _insert_transport(http: Any, module: Any, settings: Settings) -> None:
    """Put our transport before the client's own transport and those mounted for proxies."""
    kinds = transports(module)
    kind = kinds.asyn if isinstance(http, module.AsyncClient) else kinds.sync

    def wrap_transport(inner: Any) -> Any:
        if inner is None:  # "no proxy for this host": the client's own transport serves it
            return None
        return kind(inner.inner if isinstance(inner, RecordingBase) else inner, settings)

    http._transport = wrap_transport(http._transport)
    http._mounts = {pattern: wrap_transport(inner) for pattern, inner in http._mounts.items()}


def _choose_retries(http: Any, own: int, requested: int | None) -> int:
    """The requested number, else the client's own, which an earlier `wrap` has moved here."""
    if requested is not None:
        return requested
    if own == 0 and isinstance(http._transport, RecordingBase):
        return http._transport.settings.policy.retries or 0
    return own


def _choose_patience(http: Any, requested: float | None) -> float:
    """The requested seconds, else those of an earlier `wrap`."""
    if requested is not None:
        return requested
    transport = http._transport
    wrapped = isinstance(transport, RecordingBase)
    return transport.settings.policy.patience if wrapped else DEFAULT_PATIENCE


def _choose_background(http: Any, inflight: str | None) -> bool:
    """Whether to use background mode: as requested, else as in an earlier `wrap`."""
    if inflight not in (None, "background"):
        raise ConfigError(f"inflight={inflight!r}: it must be 'background', or left out")
    transport = http._transport
    was_on = isinstance(transport, RecordingBase) and transport.settings.background
    return inflight == "background" or was_on
