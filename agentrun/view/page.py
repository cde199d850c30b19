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
from agentrun.view.chat import conversation_of
from agentrun.view.html import WHOLE, RunAddress, render
from agentrun.view.jsonl import read_jsonl, write_jsonl
from agentrun.view.safe import Markup, clip, element
from agentrun.view.style import CSS, PAGE_CSS

__all__ = ["SCRIPT", "as_page", "journal_in"]

SCRIPT = Markup(Path(__file__).with_name("page.js").read_text("utf-8"))
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
            *_embed_journal(journal),
            _embed_chat(transcript),
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


def _embed_journal(journal: Iterable[Event]) -> Iterator[str]:
    """The journal as a JSON array, one event per line. It has no `<` that could end the tag."""
    yield f"{_JOURNAL}\n[\n"
    yield ",\n".join(line.replace("<", "\\u003c") for line in write_jsonl(journal))
    yield "\n]\n</script>\n"


def _embed_chat(transcript: Transcript) -> str:
    """The conversation as a request of the chat API, for the copies that the script makes."""
    models = (step.model for step in transcript.steps if step.kind == "model")
    request = {"model": next(models, None) or "", "messages": conversation_of(transcript)}
    text = json.dumps(request).replace("<", "\\u003c")
    return f'<script type="application/json" id="agentrun-chat">{text}</script>\n'


def _policy(styles: Iterable[str], script: str) -> str:
    allowed = " ".join(map(_digest, styles))
    return (
        f"default-src 'none'; style-src {allowed}; script-src {_digest(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(source: str) -> str:
    return f"'sha256-{b64encode(sha256(source.encode()).digest()).decode()}'"
