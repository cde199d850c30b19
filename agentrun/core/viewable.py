"""Values that people look at, as text with ``print`` and as a page in a notebook.

How a value is shown is decided in the room `view`, which `core` and `store` must not import. So
a class names the form in which its values are shown, and `view.renderers` registers the renderers
of that form here, by MIME type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

__all__ = ["Viewable", "renderers", "show_all"]

# The renderers by form and MIME type. `agentrun.view.renderers` registers them.
renderers: dict[tuple[str, str], Callable[[Any], str]] = {}


class Viewable:
    """Shows itself by the renderers of its form. Where there is none, by its ``repr``."""

    __slots__ = ()

    form: ClassVar[str]

    def __str__(self) -> str:
        return self._view("text/plain")

    def _repr_html_(self) -> str | None:
        return self._view("text/html") if (self.form, "text/html") in renderers else None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return show_all(self)

    def _view(self, mime: str) -> str:
        """Render without ever raising, because a notebook or a debugger calls this."""
        try:
            return renderers[self.form, mime](self)
        except Exception:
            return repr(self)


def show_all(value: Viewable) -> dict[str, str]:
    """A value as each MIME type that its form has, for a notebook to choose from."""
    mimes = {"text/plain", *(mime for form, mime in renderers if form == value.form)}
    return {mime: value._view(mime) for mime in sorted(mimes)}
