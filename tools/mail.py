"""Sending an e-mail (`idempotent`).

A mail server cannot be asked whether it has a message, but every mail system knows a message by
its Message-ID. Made from the idempotency key, the id is the same however often a crash has it
sent, and a second copy is recognised as the same message.
"""

from __future__ import annotations

import os
import smtplib
import uuid
from email.message import EmailMessage

import agentrun

__all__ = ["send_email"]

SENDER = "support@pottery.example"


@agentrun.tool(effect="idempotent", retries=2)
def send_email(to: str, subject: str, body: str, idempotency_key: str = "") -> str:
    """Send an e-mail to a customer.

    Args:
        to: the address
        subject: one line
        body: plain text
    """
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, to, subject
    message["Message-ID"] = f"<{idempotency_key or uuid.uuid4()}@pottery.example>"
    message.set_content(body)
    host, port = os.environ["SMTP_HOST"], int(os.environ["SMTP_PORT"])
    # Named, since smtplib would otherwise ask the DNS what this machine is called.
    with smtplib.SMTP(host, port, local_hostname="localhost", timeout=30) as server:
        server.send_message(message)
    return f"sent to {to}"
