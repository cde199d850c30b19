"""Renders a transcript as one HTML file that needs no network and no script.

The page has the same content as the notebook view, and a table of the steps with links. Its content
security policy allows only its two style sheets, by their digests. So markup that was not escaped
by mistake could neither run nor load anything. The file also contains the journal as JSON, which
`agentrun show FILE.html` (or `journal_in`) reads without a database.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import sha256

from agentrun.core.errors import ConfigError
from agentrun.core.events import Event
from agentrun.core.transcript import Transcript
from agentrun.view.html import WHOLE, render
from agentrun.view.jsonl import read_jsonl, write_jsonl
from agentrun.view.safe import clip, element
from agentrun.view.style import CSS, PAGE_CSS

__all__ = ["as_page", "journal_in"]

_JOURNAL = '<script type="application/json" id="agentrun-journal">'
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
"""


def as_page(transcript: Transcript, journal: Iterable[Event]) -> str:
    """The transcript as a complete HTML document that also contains its journal."""
    title = f"{clip(transcript.key, 100)} · {clip(transcript.agent, 100)} · {transcript.status}"
    return "".join(
        [
            _HEAD.format(policy=_policy(CSS, PAGE_CSS)),
            f"{element('title', title)}\n{element('style', PAGE_CSS)}\n</head>\n<body>\n",
            f"{element('main', render(transcript, WHOLE))}\n",
            *_embed_journal(journal),
            "</body>\n</html>\n",
        ]
    )


def journal_in(page: str) -> Iterator[Event]:
    """Read the journal in a page. Raises ConfigError if the file has none."""
    # Recorded text has no `<` in the page, so this tag can only be the one written below.
    found = re.search(re.escape(_JOURNAL) + r"\n\[\n(.*?)\n?\]\n</script>", page, re.DOTALL)
    if found is None:
        raise ConfigError(
            "this HTML file contains no journal: use a file that `agentrun export --html` wrote"
        )
    return read_jsonl(line.removesuffix(",") for line in found[1].split("\n"))


def _embed_journal(journal: Iterable[Event]) -> Iterator[str]:
    """The journal as a JSON array, one event per line. It has no `<` that could end the tag."""
    yield f"{_JOURNAL}\n[\n"
    yield ",\n".join(line.replace("<", "\\u003c") for line in write_jsonl(journal))
    yield "\n]\n</script>\n"


def _policy(*styles: str) -> str:
    digests = (b64encode(sha256(style.encode()).digest()).decode() for style in styles)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; style-src {allowed}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
