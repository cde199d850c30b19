"""The key of a run, which the caller chooses, and the run id, which derives from the key."""

from __future__ import annotations

from uuid import UUID, uuid5

from agentrun.core.errors import ConfigError

# The id derives from the key, so that two processes that submit the same key mean the same run.
_NAMESPACE = UUID("6f1a54a4-6a1c-5b0e-9f0e-a6e27a52b1d1")
_KEY = 2000  # the most bytes of a run's key, since it is indexed


def run_id_of(key: str) -> UUID:
    """The id of the run with this key, the same in every database."""
    return uuid5(_NAMESPACE, key.encode("utf-8", "surrogatepass").hex())


def check_key(key: str) -> str:
    """Return the key. Raises ConfigError if Postgres cannot store or index it."""
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(f"the run key {key!r} holds a lone surrogate") from None
    if "\x00" in key or not key:
        raise ConfigError(f"the run key {key!r} is empty or holds a NUL character")
    if (size := len(key.encode("utf-8"))) > _KEY:
        raise ConfigError(f"the run key {key[:40]!r}… is too long: {size} bytes, at most {_KEY}")
    return key
