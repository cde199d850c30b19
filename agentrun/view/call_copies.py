"""What the script of a page makes copies of model calls with: as curl and as Python.

The script reads the request out of the journal in the page and fills these texts: the page's
policy lets it take data, and the script stays small. A copy says in its first lines what of the
request it does not have. It names the variable that has the key, and never a key.
"""

from __future__ import annotations

from agentrun.core.apis import MESSAGES

__all__ = ["CALL_COPIES"]

_CURL = """\
curl --url '{url}' -H "{header}: {scheme}${key}" -H "Content-Type: application/json" -d @- <<'END'
{body}
END
"""
_PYTHON = """\
import os

import httpx

headers = {"{header}": "{scheme}" + os.environ["{key}"], "Content-Type": "application/json"}
body = {text}
reply = httpx.post("{url}", headers=headers, content=body, timeout=600)
print(reply.text)
"""
_OPENAI = ("Authorization", "Bearer ", "OPENAI_API_KEY")
_ANTHROPIC = ("x-api-key", "", "ANTHROPIC_API_KEY")

CALL_COPIES = {
    "forms": {"curl": _CURL, "Python": _PYTHON},
    "keys": {MESSAGES: _ANTHROPIC, "": _OPENAI},  # by the API
    "notes": {
        "always": "its headers, which are not recorded",
        "form": "its exact bytes: it was no JSON, and this is what is recorded of it",
        "messages": ", without tools and settings",
        "escaped": "some characters, which JSON does not have",
    },
}
