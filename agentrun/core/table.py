"""`Table`: the rows of a query, as people and data frames take them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from agentrun.core.errors import ConfigError
from agentrun.core.viewable import Viewable

if TYPE_CHECKING:
    import pandas
    import polars

__all__ = ["Table", "find_repeated_name"]

_SCALARS = (bool, int, float, str, bytes, date, time, timedelta, Decimal)
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True, repr=False)
class Table(Viewable):
    """The rows of a query, as `sql` returns them. It prints as text, and as HTML in a notebook.

    ``columns`` are the names, ``rows`` the tuples of values with the types of psycopg: a numeric
    is a Decimal, a timestamptz a datetime with its zone. ``truncated`` says that the query has
    more rows than were asked for.

    Example:
        >>> for key, status in agentrun.sql("SELECT key, status FROM runs"):
        ...     print(key, status)
        ticket-42 done
    """

    form = "table"

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    def __repr__(self) -> str:
        more = " and more" if self.truncated else ""
        names = (repr(name)[1:-1] for name in self.columns)  # without control characters
        return f"<Table of {len(self.rows)} rows{more}: {', '.join(names)}>"

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a DataFrame of pandas.

        Integers and truth values with nulls keep their type; Decimals and JSON are objects.

        Raises:
            ConfigError: pandas is not installed.

        Example:
            >>> frame = agentrun.sql("SELECT agent, cost FROM spend").to_pandas()
        """
        try:
            import pandas
        except ImportError as error:
            raise _missing("pandas") from error
        values = [
            pandas.Series(column, dtype=_pandas_type(column), name=number)
            for number, column in enumerate(self._by_column())
        ]
        frame = pandas.concat(values, axis=1) if values else pandas.DataFrame()
        frame.columns = pandas.Index(list(self.columns))
        return frame

    def to_polars(self) -> polars.DataFrame:
        """The rows as a DataFrame of polars.

        Values that polars has no type for, such as JSON, are objects.

        Raises:
            ConfigError: polars is not installed, or two columns have the same name.

        Example:
            >>> frame = agentrun.sql("SELECT agent, cost FROM spend").to_polars()
        """
        try:
            import polars
        except ImportError as error:
            raise _missing("polars") from error
        if (name := find_repeated_name(self.columns)) is not None:
            raise ConfigError(f"two columns are named {name!r}: rename one with AS")
        types = [_polars_type(column, polars) for column in self._by_column()]
        pairs = zip(self.columns, self._by_column(), types, strict=True)
        return polars.DataFrame([polars.Series(name, list(v), dtype=t) for name, v, t in pairs])

    def _by_column(self) -> list[Sequence[Any]]:
        return list(zip(*self.rows, strict=True)) if self.rows else [()] * len(self.columns)


def find_repeated_name(columns: Sequence[str]) -> str | None:
    """A name that two columns have, since an object or a frame could hold only one of them."""
    return min((name for name, count in Counter(columns).items() if count > 1), default=None)


def _missing(package: str) -> ConfigError:
    return ConfigError(f"{package} is not installed: pip install 'agentrun-harness[{package}]'")


def _kinds(column: Sequence[Any]) -> set[type]:
    return {type(value) for value in column if value is not None}


def _pandas_type(column: Sequence[Any]) -> Any:
    """The dtype that keeps the values as they are; None lets pandas choose."""
    kinds = _kinds(column)
    if kinds == {int}:
        fits = all(value in _INT64 for value in column if value is not None)
        return ("Int64" if None in column else "int64") if fits else object
    if kinds == {bool} and None in column:
        return "boolean"
    return None if kinds and kinds <= {bool, float, str, datetime} else object


def _polars_type(column: Sequence[Any], polars: Any) -> Any:
    """The dtype that keeps the values as they are; None lets polars choose."""
    kinds = _kinds(column)
    values = [value for value in column if value is not None]
    if kinds == {Decimal}:
        exponents = [value.as_tuple().exponent for value in values]
        if not all(isinstance(exponent, int) for exponent in exponents):
            return polars.Object  # NaN and infinity
        scale = max(0, *(-exponent for exponent in exponents))
        whole = max(value.adjusted() for value in values) + 1
        return polars.Decimal(38, scale) if max(whole, 1) + scale <= 38 else polars.Object
    if kinds == {int} and not all(value in _INT64 for value in values):
        return polars.Object
    if len(kinds) > 1 or not all(issubclass(kind, _SCALARS) for kind in kinds):
        return polars.Object
    return None
