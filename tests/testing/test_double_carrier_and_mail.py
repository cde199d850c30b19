"""The carrier and the mail sink: an effect that happened and was not heard of."""

from __future__ import annotations

import json
import smtplib
import subprocess
import sys
import urllib.error
import urllib.request
from email.message import EmailMessage
from typing import Any

import pytest

from agentrun.testing import Carrier, Fault, SmtpSink

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
BOOK = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
opener.open(sys.argv[1] + "/pickups", b'{"reference": "order-7"}')
"""
SEND = """
import sys, smtplib
with smtplib.SMTP("127.0.0.1", int(sys.argv[1])) as smtp:
    smtp.sendmail("a@x.test", ["b@x.test"], "Message-ID: <1@x.test>\\r\\n\\r\\nhello")
"""


def book(carrier: Carrier, reference: str) -> dict[str, Any]:
    body = json.dumps({"reference": reference, "address": "Oslo"}).encode()
    with OPENER.open(f"{carrier.url}/pickups", body) as answer:
        assert answer.status == 201
        return dict(json.load(answer))


def send(sink: SmtpSink, message_id: str, body: str = "hello") -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@x.test", "b@x.test", "naïve"
    message["Message-ID"] = message_id
    message.set_content(body)
    with smtplib.SMTP(sink.host, sink.port) as smtp:
        smtp.send_message(message)


def killed_while_held(script: str, argument: str, double: Carrier | SmtpSink) -> None:
    client = subprocess.Popen([sys.executable, "-c", script, argument])
    double.wait_for("held")
    client.kill()
    client.wait()
    double.wait_for("aborted")


def test_every_post_books_another_pickup() -> None:
    with Carrier() as carrier:
        first, second = book(carrier, "order-7"), book(carrier, "order-7")
        assert first["id"] != second["id"]
        assert len(carrier.pickups("order-7")) == 2
        assert carrier.pickups("order-8") == []


def test_a_pickup_is_looked_up_by_reference_without_an_effect() -> None:
    with Carrier() as carrier:
        booked = book(carrier, "order-7")
        book(carrier, "order-8")
        with OPENER.open(f"{carrier.url}/pickups?reference=order-7") as answer:
            assert json.load(answer) == {"pickups": [booked]}
        assert len(carrier.effects()) == 2
        assert carrier.ledger()[-1].path == "/pickups?reference=order-7"


def test_a_client_killed_after_the_booking_has_booked() -> None:
    with Carrier(faults=[Fault.hold(at="effect", when={"method": "POST"})]) as carrier:
        killed_while_held(BOOK, carrier.url, carrier)
        [pickup] = carrier.pickups("order-7")
        with OPENER.open(f"{carrier.url}/pickups?reference=order-7") as answer:
            assert json.load(answer)["pickups"] == [pickup]


def test_a_carrier_that_refuses_has_not_booked() -> None:
    with Carrier(faults=[Fault.error(503)]) as carrier:
        with pytest.raises(urllib.error.HTTPError, match="503") as error:
            book(carrier, "order-7")
        error.value.close()
        assert carrier.pickups() == []
        assert book(carrier, "order-7")["status"] == "booked"


def test_a_request_without_a_reference_is_refused() -> None:
    with Carrier() as carrier:
        with pytest.raises(urllib.error.HTTPError, match="400") as error:
            OPENER.open(f"{carrier.url}/pickups", b"{}")
        error.value.close()
        assert carrier.ledger()[0].outcome == "refused"


def test_bookings_survive_the_carrier(tmp_path: Any) -> None:
    for reference in ("order-7", "order-8"):
        with Carrier(ledger=tmp_path / "book.jsonl") as carrier:
            book(carrier, reference)
    assert [pickup["id"] for pickup in carrier.pickups()] == ["PU-1001", "PU-1002"]


def test_mail_is_kept_whole() -> None:
    with SmtpSink() as sink:
        send(sink, "<1@x.test>", ".a line that begins with a dot\n")
        [mail] = sink.messages()
    assert (mail["message_id"], mail["sender"]) == ("<1@x.test>", "a@x.test")
    assert mail["recipients"] == ["b@x.test"]
    assert mail["subject"] == "naïve"
    assert mail["raw"].endswith("\r\n\r\n.a line that begins with a dot\r\n")


def test_a_mail_sent_twice_is_two_messages_and_one_distinct() -> None:
    with SmtpSink() as sink:
        for message_id in ("<1@x.test>", "<1@x.test>", "<2@x.test>"):
            send(sink, message_id)
        assert len(sink.messages()) == 3
        assert sink.distinct() == 2


def test_a_client_killed_after_the_mail_was_accepted_has_sent_it() -> None:
    with SmtpSink(faults=[Fault.hold(at="effect")]) as sink:
        killed_while_held(SEND, str(sink.port), sink)
        assert [mail["message_id"] for mail in sink.messages()] == ["<1@x.test>"]


def test_a_connection_dropped_before_the_mail_is_accepted_keeps_nothing() -> None:
    with SmtpSink(faults=[Fault.drop()]) as sink:
        with pytest.raises(smtplib.SMTPServerDisconnected):
            send(sink, "<1@x.test>")
        assert sink.messages() == []
        assert sink.ledger()[0].outcome == "refused"


def test_a_refused_mail_is_not_kept_and_the_next_is() -> None:
    with SmtpSink(faults=[Fault.error(451, when={"contains": "<1@x.test>"})]) as sink:
        with pytest.raises(smtplib.SMTPDataError, match="451"):
            send(sink, "<1@x.test>")
        send(sink, "<2@x.test>")
        assert [mail["message_id"] for mail in sink.messages()] == ["<2@x.test>"]
