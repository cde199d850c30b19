"""Commands of agentrun that a person copies into a shell, for a run of any key."""

from __future__ import annotations

import shlex

__all__ = ["quote_word", "write_command"]

_SHORT = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def write_command(name: str, key: str, *words: object, options: str = "") -> str:
    """``agentrun NAME KEY WORDS OPTIONS`` for a shell. The words are taken as they are.

    A key that begins with ``-`` would be read as an option, so it stands behind ``--``.

    Example:
        >>> write_command("redo", "ticket 42", 3, options="--once")
        "agentrun redo 'ticket 42' 3 --once"
        >>> write_command("redo", "-42", 3, options="--once")
        'agentrun redo --once -- -42 3'
    """
    place = [quote_word(key), *map(str, words)]
    given = [options] if options else []
    arguments = [*given, "--", *place] if key.startswith("-") else [*place, *given]
    return " ".join(["agentrun", name, *arguments])


def quote_word(text: str) -> str:
    """The text as one word of a shell, on one line and without a character that nobody sees.

    Such characters are written as ``$'…'``, which bash, zsh and ksh read.

    Example:
        >>> print(quote_word("two\\tcells"))
        $'two\\tcells'
    """
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escape, text))}'"


def _escape(char: str) -> str:
    if char in _SHORT:
        return _SHORT[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\{code:03o}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
