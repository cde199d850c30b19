"""Which conversation a request goes on with: the one that it begins like, wherever it was made."""

from __future__ import annotations

from agentrun.core.conversations import Conversations
from agentrun.core.messages import Message

SYSTEM = Message("system", "be brief")


def said(*texts: str) -> list[Message]:
    """Messages of a user and a model in turns."""
    return [Message(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)]


class Talk:
    """Requests and replies; what each request added, and to which conversation."""

    def __init__(self) -> None:
        self.conversations = Conversations()
        self.seen: list[tuple[int, list[str]]] = []

    def ask(self, place: str, messages: list[Message], reply: str) -> None:
        items = [{"role": one.role, "content": one.text} for one in messages]
        request = self.conversations.add_request(place, {"messages": items})
        self.conversations.add_reply(request, [Message("assistant", reply)])
        added = [message.text for message in request.new]
        self.seen.append((request.conversation.number, added))


def test_a_conversation_goes_on_in_other_tasks() -> None:
    talk = Talk()
    talk.ask("t1/", said("q0"), "a0")
    talk.ask("t2/", said("q0", "a0", "q1"), "a1")
    talk.ask("t3/", said("q0", "a0", "q1", "a1", "q2"), "a2")
    assert talk.seen == [(0, ["q0"]), (0, ["q1"]), (0, ["q2"])]


def test_instructions_in_common_make_no_conversation() -> None:
    talk = Talk()
    talk.ask("t1/", [SYSTEM, *said("q0")], "a0")
    talk.ask("t2/", [SYSTEM, *said("other")], "b0")
    talk.ask("t3/", [SYSTEM, *said("other", "b0", "more")], "b1")
    talk.ask("t4/", [SYSTEM, *said("q0", "a0", "q1")], "a1")
    assert talk.seen == [(0, ["be brief", "q0"]), (1, ["be brief", "other"]), (1, ["more"]),
                         (0, ["q1"])]  # fmt: skip


def test_two_requests_that_go_on_from_one_reply_are_two_conversations() -> None:
    talk = Talk()
    talk.ask("", said("q0"), "a0")
    talk.ask("t1/", said("q0", "a0", "left"), "l")
    talk.ask("t2/", said("q0", "a0", "right"), "r")
    talk.ask("t3/", said("q0", "a0", "left", "l", "more left"), "ll")
    talk.ask("t4/", said("q0", "a0", "right", "r", "more right"), "rr")
    assert talk.seen == [(0, ["q0"]), (0, ["left"]), (1, ["right"]), (0, ["more left"]),
                         (1, ["more right"])]  # fmt: skip


def test_a_conversation_that_lost_its_beginning_goes_on_where_it_was() -> None:
    talk = Talk()
    talk.ask("", [SYSTEM, *said("q0")], "a0")
    talk.ask("", [SYSTEM, *said("q0", "a0", "q1")], "a1")
    talk.ask("", [SYSTEM, *said("q1", "a1", "q2")], "a2")
    assert talk.seen == [(0, ["be brief", "q0"]), (0, ["q1"]), (0, ["q2"])]


def test_a_branch_is_a_conversation_of_its_own_unless_it_goes_on_with_all_of_another() -> None:
    talk = Talk()
    talk.ask("b:eu/", said("q0"), "a0")
    talk.ask("b:us/", said("q0"), "a0")
    talk.ask("b:us/t1/", said("q0", "a0", "q1"), "a1")
    talk.ask("b:both/", said("q0", "a0", "q1", "a1", "q2"), "a2")
    assert talk.seen == [(0, ["q0"]), (1, ["q0"]), (1, ["q1"]), (1, ["q2"])]


def test_a_reply_after_the_next_request_is_not_of_the_conversation() -> None:
    """Two calls of one conversation overlap: the reply to the earlier one is no part of it."""
    conversations = Conversations()

    def items(*texts: str) -> dict[str, list[dict[str, str]]]:
        return {"messages": [{"role": one.role, "content": one.text} for one in said(*texts)]}

    first = conversations.add_request("", items("q0"))
    conversations.add_request("", items("q0", "a0", "q1"))
    conversations.add_reply(first, [Message("assistant", "late")])
    third = conversations.add_request("", items("q0", "a0", "q1", "a1", "q2"))
    assert [message.text for message in third.new] == ["a1", "q2"]
    other = conversations.add_request("", items("q0", "late", "q9"))
    assert [message.text for message in other.new] == ["late", "q9"]
