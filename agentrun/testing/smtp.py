"""The process of the mail double: an SMTP server that stores every message it accepts.

A message is on disk before the double sends the ``250`` that accepts it. A client that is killed in
between has sent a mail without knowing it, which is the case that a test of an agent needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
from collections.abc import AsyncIterator
from email.message import EmailMessage
from typing import Any

from agentrun.testing.double_base import BrokenExchange, DoubleState, RefusedRequest
from agentrun.testing.ledger import digest
from agentrun.testing.server import listen, run
from agentrun.testing.wire import HttpAnswer, HttpRequest, Link, json_answer

__all__ = ["SmtpService", "SmtpSession"]

SIMPLE = {
    "NOOP": "250 OK",
    "VRFY": "252 will try",
    "HELO": "250 double",
    "EHLO": "250-double\r\n250-8BITMIME\r\n250 SIZE 10485760",
}


class SmtpService:
    """The HTTP side of the mail double: it has control paths only."""

    keeps_text = False

    def configure(self, settings: dict[str, Any]) -> None:
        """Refuse settings: a mail sink has none."""
        raise ValueError("a mail sink has no settings")

    def describe(self, request: HttpRequest) -> dict[str, Any]:
        """Method and path."""
        return {"method": request.method, "path": request.path}

    def answer(self, request: HttpRequest, state: DoubleState) -> HttpAnswer:
        """Refuse the request: mail comes by SMTP."""
        return json_answer({"error": "mail is sent to the SMTP port"}, 404)

    def refuse(self, request: HttpRequest, code: int, headers: dict[str, str]) -> HttpAnswer:
        """An error answer."""
        return json_answer({"error": f"armed to answer {code}"}, code, headers)


class SmtpSession:
    """One SMTP connection, for any number of messages."""

    def __init__(self, link: Link, state: DoubleState) -> None:
        self._link = link
        self._state = state
        self._sender = ""
        self._recipients: list[str] = []

    async def serve(self) -> None:
        """Serve until the client quits or disconnects, or a fault closes the connection."""
        await self._say("220 double ESMTP")
        with contextlib.suppress(BrokenExchange):
            while line := await self._link.reader.readline():
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                verb = text[:4].upper()
                if verb == "QUIT":
                    await self._say("221 Bye")
                    return
                await self._obey(verb, text)

    async def _obey(self, verb: str, text: str) -> None:
        match verb:
            case "MAIL":
                self._sender, self._recipients = _address(text), []
                await self._say("250 OK")
            case "RCPT":
                self._recipients.append(_address(text))
                await self._say("250 OK")
            case "RSET":
                self._sender, self._recipients = "", []
                await self._say("250 OK")
            case "DATA" if self._recipients:
                await self._say("354 End data with <CR><LF>.<CR><LF>")
                await self._message(await self._data())
            case "DATA":
                await self._say("503 RCPT first")
            case _:
                await self._say(SIMPLE.get(verb, "502 not implemented"))

    async def _data(self) -> bytes:
        lines = []
        while (line := await self._link.reader.readline()) != b".\r\n":
            if not line:
                # An unfinished message is not accepted.
                raise BrokenExchange("the client has disconnected")
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        return b"".join(lines)

    async def _message(self, raw: bytes) -> None:
        facts = _facts(raw, self._sender, self._recipients)
        where = {"method": "DATA", "path": "/"}
        noted: dict[str, Any] = {**where, "headers": {}, "body": None, "digest": digest(facts)}
        text = {"content": facts["raw"], "conversation": facts["raw"]}
        exchange = self._state.open(noted, where | text, self._link.disconnected)
        try:
            await exchange.reach_received()
            await exchange.reach_effect(facts)
            await self._say("250 OK: accepted")
            exchange.mark_delivered()
        except RefusedRequest as refusal:
            exchange.mark_refused(str(refusal))
            await self._say(f"{refusal.fault.code} the mail double was armed to refuse")
        except (BrokenExchange, ConnectionError) as error:
            exchange.mark_broken(str(error))
            raise BrokenExchange(str(error)) from error
        except asyncio.CancelledError:
            exchange.mark_broken("the double was stopped")
            raise

    async def _say(self, text: str) -> None:
        await self._link.write(text.encode() + b"\r\n")


def _address(text: str) -> str:
    """The address of ``MAIL FROM:<a@b> SIZE=1``."""
    return text.partition(":")[2].strip().split(" ")[0].strip("<>")


def _facts(raw: bytes, sender: str, recipients: list[str]) -> dict[str, Any]:
    message = email.message_from_bytes(raw, EmailMessage, policy=email.policy.default)
    return {
        "message_id": str(message["message-id"] or ""),
        "subject": str(message["subject"] or ""),
        "sender": sender,
        "recipients": list(recipients),
        "raw": raw.decode("utf-8", "replace"),
    }


@contextlib.asynccontextmanager
async def _beside(state: DoubleState) -> AsyncIterator[int]:
    async with listen(lambda link: SmtpSession(link, state).serve()) as port:
        yield port


if __name__ == "__main__":
    run(SmtpService(), beside=_beside, description=__doc__)
