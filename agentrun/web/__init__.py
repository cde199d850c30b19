"""The web pages: runs, one run live, the inbox, spend, comparisons, SQL and health.

This room is named `web` and not `ui`: a module `agentrun.ui` would take the place of the function
`agentrun.ui`, as soon as somebody imports it.

Each page is a function from a request to a `Page`, whose data are frozen dataclasses. The same data
make the HTML and its ``.json`` twin. What people may do is checked in one place, `web.guard`. All
text passes `view.safe` once, when a template prints it (`web.page`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentrun.core.errors import ConfigError
from agentrun.store.database import Database
from agentrun.web.people import Authorize, Person

if TYPE_CHECKING:
    from agentrun.web.app import WebApp

__all__ = ["Person", "ui"]


def ui(
    database: Database | None = None,
    *,
    authorize: Authorize | None = None,
    allow_decisions: bool = False,
    sql: bool = False,
    hosts: Iterable[str] = (),
) -> WebApp:
    """Make the web pages as an ASGI application, to be mounted in yours. Needs the extra ``ui``.

    Args:
        database: the database that is shown. Default: that of this process, at each request.
        authorize: says who asks: a `Person`, or None to refuse the request. It may be async.
            Without it, everybody whom your application lets through may read.
        allow_decisions: let people decide, cancel, resume and redo. The journal records them under
            the name that ``authorize`` gives. Default: the pages only read.
        sql: offer the page for queries, which read everything that the pages' login may read.
        hosts: host names by which people reach your application, besides localhost and
            loopback addresses. Requests by other names are refused.

    Raises:
        ConfigError: a package is missing; or decisions are allowed and nothing names who decides.

    Example:
        >>> pages = agentrun.ui(authorize=lambda request: agentrun.Person("ana"))
    """
    if allow_decisions and authorize is None:
        raise ConfigError("agentrun.ui(allow_decisions=True) records who decides: give authorize=")
    try:
        from agentrun.web.app import make_app
    except ImportError as error:
        raise ConfigError(
            f"the web pages need {error.name}: pip install 'agentrun-harness[ui]'"
        ) from error
    return make_app(
        database, authorize=authorize, allow_decisions=allow_decisions, sql=sql, hosts=hosts
    )
