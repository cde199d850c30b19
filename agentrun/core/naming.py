"""Sensitive names, such as ``password``, and whether the value under such a name is a secret.

Names are compared by their words: ``apiKey``, ``API_KEY``, ``x-api-key`` and ``api.key`` all end
with the words ``api key``. In dicts and JSON, almost any text under a sensitive name is a secret.
In plain text the value must also look like a secret, because code and prose often mention
passwords without showing one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

__all__ = ["HINTS", "SECRET_HEADERS", "fold", "is_blank", "is_random", "is_sensitive",
           "looks_secret", "values_of_names"]  # fmt: skip

# HTTP headers that hold a credential; they are never stored.
SECRET_HEADERS = frozenset(
    {"set-cookie", "cookie", "authorization", "proxy-authorization", "api-key", "x-api-key"}
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The last word of a sensitive name, and the kind of secret that its value is.
_LAST = {
    "password": "password", "passwd": "password", "pwd": "password", "passphrase": "password",
    "pass": "password", "passcode": "password", "pw": "password",
    "secret": "secret", "secrets": "secret", "token": "token", "tokens": "token",
    "pat": "token", "jwt": "token", "apikey": "api key", "apitoken": "token",
    "accesskey": "key", "secretkey": "key", "privatekey": "key", "accountkey": "key",
    "authtoken": "token", "accesstoken": "token", "authorization": "authorization",
    "authkey": "key", "auth": "authorization", "cookie": "cookie", "cookies": "cookie",
    "credential": "credentials", "credentials": "credentials", "dsn": "connection string",
    "sessionid": "session", "sessid": "session", "userpassword": "password",
    "dbpassword": "password", "sharedaccesskey": "key", "sharedkey": "key", "signingkey": "key",
}  # fmt: skip
# Words that make a name sensitive together with a last word that alone is not: ``key`` …
_KEYS = _words(
    "api access account secret private shared auth master signing encryption service subscription "
    "app application admin consumer storage license bot deploy session client ssh webhook hmac jwt "
    "token primary secondary anon role openai anthropic azure groq mistral cohere gemini google "
    "deploykey sendgrid stripe pinecone tavily xai hf"
)
_STRINGS = _words("connection conn database db redis mongo mongodb amqp broker")

# Words before ``token`` that mean no credential: of language models, parsers and pagination.
_NO_TOKENS = _words(
    "eos bos pad unk sep cls mask special next page continuation continue stop start end first "
    "last prev previous current cursor sync image audio video input output prompt completion max "
    "min num total text word stream begin close open left right lookahead syntax lex lexer parse "
    "parser added sub vocab reasoning cached new old per think cancellation cancel separator "
    "delimiter logprob fim tool role user assistant system padding marker pagination skip time "
    "type placeholder the a an this any no each one two by of to color design change request "
    "client idempotency lock invalidation resume delta job pool activation update verification"
)

_NAME = re.compile(r"[\w$@-][\w.-]*(?: [\w.-]+){0,2}")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# Any text with a sensitive name has one of these literals in its lower-case form.
HINTS = (
    "passw", "pwd", "passphrase", "passcode", "secret", "token", "api_key", "apikey", "api-key",
    "access_key", "accesskey", "access-key", "account_key", "accountkey", "account-key",
    "private_key", "privatekey", "private-key", "_key", "-key", "authorization", "cookie",
    "credential", "connectionstring", "connection_string", "connection-string", "_dsn", "\"dsn",
    "database_url", "auth", "_pass", "_pat", "jwt", "session", "sharedkey", "signingkey",
)  # fmt: skip
_IN_TEXT = tuple(hint.strip('"') for hint in HINTS)


def fold(name: str) -> tuple[str, ...]:
    """The words of a name, in lower case and without numbers: ``xApiKey-2`` → ``x api key``."""
    return tuple(word.lower() for word in _WORDS.findall(name) if not word.isdigit())


def is_sensitive(name: str, own: frozenset[str] = frozenset()) -> str | None:
    """The kind of secret that a value under ``name`` is. None for an ordinary name.

    ``own`` are further sensitive names of the caller. They are compared by their words.
    """
    if len(name) > 80 or _NAME.fullmatch(name) is None:
        return None
    kind = _kind(name)
    if kind is None and own:
        words = fold(name)
        return next((one for one in own if fold(one) == words), None)
    return kind


@lru_cache(4096)
def _kind(name: str) -> str | None:
    words = fold(name)
    if not words:
        return None
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    kind = _LAST.get(last)
    if kind == "token" and (before in _NO_TOKENS or last == "tokens"):
        return None
    if last in ("pass", "pw", "pat", "auth", "secrets", "credentials") and not before:
        return None if last in ("pass", "pat", "pw") else kind
    if kind is not None:
        return kind
    if last == "key" and before in _KEYS:
        return "api key" if before == "api" else "key"
    if last in ("string", "str", "url", "uri") and before in _STRINGS:
        return "connection string"
    if words[-2:] == ("password", "value"):
        return "password"
    return None


# -- values ----------------------------------------------------------------------------------------

# Placeholders of code and documentation, and values that are no secret, such as ``changeme``.
_BLANK = re.compile(
    r"\$\{?[A-Za-z_][\w.]*[^}]*\}?|\$\(.*|\{\{?.*\}?\}|%s|%\(?\w+\)?s?|<.*>|\[.*\]|\*+|\.+|x+|-+|_+"
    r"|(?:your|my|the|some|example|sample|test|dummy|fake|changeme|change|insert|replace|todo|none"
    r"|null|nil|true|false|undefined|string|redacted|hidden|secret|password|passwd|pass|pw|pwd"
    r"|masked"
    r"|token|key|user|username|admin|root|postgres|guest|default|foo|bar|baz|abc|value|placeholder"
    r"|optional|required|empty|str|bytes|int|bool|self|env|os|process|getenv|config|settings)"
    r"(?:[\s_.-]?(?:your|my|the|api|access|auth|example|sample|test|dummy|fake|secret|password|pass"
    r"|token|key|user|value|here|name|me|in|foo|bar|goes|id|optional|required))*"
    r"[\s!?.:,;0-9_-]{0,4}",
    re.IGNORECASE | re.ASCII | re.DOTALL,
)
_PROSE = re.compile(r"\b(?:the|a|an|of|is|for|your|to|and|or|with|that|must|used|if|in)\b", re.I)
_CHANGE = re.compile(r"\d[A-Za-z]|[A-Za-z]\d")  # from a letter to a digit, or back
_WORD = re.compile(r"[A-Za-z]{1,24}(?:[._ -][A-Za-z]{1,24}){0,3}[.:!?]?")
_PATH = re.compile(r"(?:[A-Za-z]:)?[\\/~.][\w.\\/~-]*", re.ASCII)


def is_blank(value: str) -> bool:
    """Whether a value is a placeholder, or empty."""
    text = value.strip()
    return not text or text.endswith(("...", "…")) or _BLANK.fullmatch(text) is not None


def is_random(text: str) -> bool:
    """Whether a text looks like random characters, and not like words."""
    digits = sum(map(str.isdigit, text))
    letters = sum(map(str.isalpha, text))
    if digits < 2 or letters < 2 or len(set(text)) < 8:
        return False
    if digits + letters < 12 or (digits >= 4 and len(text) >= 20 and text.isalnum()):
        return True
    mixed = any(map(str.isupper, text)) and any(map(str.islower, text))
    changes = len(_CHANGE.findall(text))
    return changes >= (2 if mixed else 3)


_MIXED = r"(?=[^A-Za-z]*[A-Za-z])(?=\D*\d)"
_SHORT = {
    "password": re.compile(_MIXED + r"[^\s()\[\]{}<>|`\\/:]{5,64}", re.ASCII),
    "secret": re.compile(_MIXED + r"[^\s()\[\]{}<>|`\\/:]{6,64}", re.ASCII),
    "api key": re.compile(_MIXED + r"[^\s()\[\]{}<>|`\\/:]{6,64}", re.ASCII),
}
_STRONG = ("password", "secret", "authorization", "cookie", "api key")


def looks_secret(value: str, kind: str, *, named: bool) -> bool:
    """Whether ``value`` can be a secret of this kind.

    ``named``: the value stands under the name in a dict or in JSON, not in plain text.
    """
    if is_blank(value):
        return False
    if not named:
        own = kind not in _STRONG and kind not in _LAST.values()
        return (own and " " not in value) or _looks_like_one(value)
    if kind in _STRONG or kind not in _LAST.values():  # not in _LAST: a name in ``own``
        prose = len(value.split()) > 4 and len(_PROSE.findall(value)) > 1
        return not prose and _PATH.fullmatch(value) is None
    if kind == "connection string" and re.search(r"(?i)password|pwd|key=|://\S*:\S*@", value):
        return True
    return len(value) >= 8 and " " not in value and is_random(value)


def _looks_like_one(value: str) -> bool:
    """Whether a value in plain text is random and no word, call, path or version."""
    if not 8 <= len(value) <= 512 or re.search(r"\s|[()\[\]{}<>|`]|::|//|\\", value):
        return False
    if _PATH.fullmatch(value) or re.fullmatch(r"[\w.-]+\.[a-z]{1,12}", value):
        return False
    if re.fullmatch(r"[A-Za-z_]\w*(?:\.\w+)*", value):  # may be a name in code
        parts = (part for part in re.split(r"[._]", value) if len(part) >= 8)
        return any(is_random(part) and len(_CHANGE.findall(part)) >= 3 for part in parts)
    return is_random(value)


def is_worth_knowing(value: str, *, named: bool = True) -> bool:
    """Whether a value from a secret source, such as a variable, can be masked wherever it occurs.

    An ordinary word cannot: it would disappear from ordinary text. ``named``: the value had
    a sensitive name.
    """
    if is_blank(value) or len(value) < 8 or _WORD.fullmatch(value) or _PATH.fullmatch(value):
        return False
    return is_random(value) or (named and len(value) >= 12)


# -- names in plain text --------------------------------------------------------------------------

_ASSIGNED = re.compile(
    r"(?<![A-Za-z0-9_.-])(?P<name>[A-Za-z_][A-Za-z0-9_.-]{0,60})(?P<close>\\?[\"'])?"
    r"\s{0,2}(?:=>|:=|[=:])\s{0,2}"
    r"(?:[rbuf]{0,2}(?P<quote>\\?[\"'])(?P<quoted>(?:[^\"'\\\n]){1,512})(?P=quote)"
    r"|(?P<bare>[^\s\"'&;,(){}\[\]<>|`\\]{6,512}))",
    re.ASCII,
)
_FLAG = re.compile(
    r"(?<![\w-])--?(?P<name>[a-z][a-z-]{2,40})[ =]"
    r"(?P<bare>[^\s\"'&;,(){}\[\]<>|`\\$-][^\s\"']{5,256})"
)
_QUERY = re.compile(r"[?&](?P<name>[A-Za-z_.-]{1,40})=(?P<bare>[^\s\"'&#<>(){}\[\]\\]{6,512})")


def values_of_names(text: str, lower: str, own: frozenset[str]) -> Iterator[tuple[int, int, str]]:
    """The secrets under sensitive names in plain text: start, end and kind of each."""
    if not any(map(lower.__contains__, _IN_TEXT)) and not own:
        return
    for pattern in (_ASSIGNED, _FLAG, _QUERY):
        for found in _matches(pattern, text, own):
            kind = is_sensitive(found["name"], own)
            if kind in (None, "cookie"):  # a rule in `core/rules.py` knows the syntax of cookies
                continue
            if found["bare"] is None:
                group = "quoted"
            elif _is_code(found["bare"], text[found.end("bare") : found.end("bare") + 1]):
                continue
            else:
                group = "bare"
            if kind == "token" and len(found[group]) < 12:
                continue
            short = _is_short(found[group], kind, quoted=group == "quoted")
            if short or looks_secret(found[group], kind, named=False):
                yield *found.span(group), kind


def _matches(pattern: re.Pattern[str], text: str, own: frozenset[str]) -> Iterator[re.Match[str]]:
    """The names with their values. The value of an ordinary name may hold a name: ``log: pw=x``."""
    found = pattern.search(text)
    while found is not None:
        yield found
        value = "quoted" if found["bare"] is None else "bare"
        ordinary = is_sensitive(found["name"], own) is None
        inside = ordinary and ("=" in found[value] or ":" in found[value])
        found = pattern.search(text, found.start(value) if inside else found.end())


def _is_short(value: str, kind: str, *, quoted: bool) -> bool:
    """Whether a value in plain text is a short password, such as ``hunter2``.

    Between quotes, letters and a digit are enough. Without quotes, the value may be the name of
    a variable.
    """
    if kind not in _SHORT or not _SHORT[kind].fullmatch(value) or is_blank(value):
        return False
    alike = re.fullmatch(r"\W*\w?[xX*]+\W*", value) is not None
    return not alike and (quoted or (kind == "password" and "_" not in value))


def _is_code(value: str, after: str) -> bool:
    """Whether a value without quotes is code: a call, an index or an attribute."""
    return (
        after in ("(", "[") or re.fullmatch(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", value) is not None
    )
