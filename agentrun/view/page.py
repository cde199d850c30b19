"""Renders a transcript as one HTML file that needs no network.

The page has the same content as the notebook view, and a table of the steps with links. It is
complete without its script (`page.js`), which adds keys, search, lenses, copies, and whole values.
Its content security policy allows only its style sheets and its script, by their digests. So
markup that was not escaped by mistake could neither run nor load anything. The file also contains
the journal as JSON, which `agentrun show FILE.html` (or `journal_in`) reads without a database.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from agentrun.core.errors import ConfigError
from agentrun.core.events import Event
from agentrun.core.summary import Relatives
from agentrun.core.transcript import Transcript
from agentrun.view.call_copies import CALL_COPIES
from agentrun.view.chat import conversation_of
from agentrun.view.html import WHOLE, RunAddress, render
from agentrun.view.jsonl import JsonlWriter, read_jsonl
from agentrun.view.safe import Markup, clip, element
from agentrun.view.style import CSS, PAGE_CSS

__all__ = ["SCRIPT", "as_page", "journal_in"]

# Indentation, empty lines, and lines of comments: the file of each run would have them.
_SPACE = re.compile(r"^\s*(?://.*\n)?", re.MULTILINE)
SCRIPT = Markup(_SPACE.sub("", Path(__file__).with_name("page.js").read_text("utf-8")))
_JOURNAL = '<script type="application/json" id="agentrun-journal">'
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
"""


def as_page(
    transcript: Transcript,
    journal: Iterable[Event],
    relatives: Relatives | None = None,
    address: RunAddress | None = None,
) -> str:
    """The transcript as a complete HTML document that also contains its journal.

    The relatives are named in the header. They are links where ``address`` gives a place.
    """
    shown = render(transcript, WHOLE, relatives=relatives, address=address)
    title = f"{clip(transcript.key, 100)} · {clip(transcript.agent, 100)} · {transcript.status}"
    policy = _policy((CSS, PAGE_CSS), SCRIPT)
    return "".join(
        [
            _HEAD.format(policy=policy),
            f"{element('title', title)}\n{element('style', PAGE_CSS)}\n</head>\n<body>\n",
            f"{element('main', shown)}\n",
            *_embed_journal(journal, transcript),
            f"{element('script', SCRIPT)}\n",
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


def _embed_journal(journal: Iterable[Event], transcript: Transcript) -> Iterator[str]:
    """The journal as a JSON array, one event per line, and what the script makes copies with.

    ``parts`` says where the parts stand that the lines refer to: the script cannot compute their
    names. ``messages`` is the conversation in the form of the chat API.
    """
    writer = JsonlWriter(keep_places=True)
    yield f"{_JOURNAL}\n[\n"
    yield ",\n".join(_without_tags(writer.line(event)) for event in journal)
    yield "\n]\n</script>\n"
    found = {"parts": writer.find_parts(), "messages": conversation_of(transcript)}
    text = _without_tags(json.dumps({**CALL_COPIES, **found}, separators=(",", ":")))
    yield f'<script type="application/json" id="agentrun-copies">{text}</script>\n'


def _without_tags(text: str) -> str:
    """JSON text without a `<`, which could end the element that it is in."""
    return text.replace("<", "\\u003c")


def _policy(styles: Iterable[str], script: str) -> str:
    allowed = " ".join(map(_digest, styles))
    return (
        f"default-src 'none'; style-src {allowed}; script-src {_digest(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(source: str) -> str:
    return f"'sha256-{b64encode(sha256(source.encode()).digest()).decode()}'"
