"""Deliberate defects of `agentrun/gateway/`."""

from __future__ import annotations

from defects import Mutation

DEFECTS: dict[str, Mutation] = {
    "a gateway keeps cookies with its answers": Mutation(
        "headers_from",
        "dropped |= _COOKIES",
        "",
        "proof/test_canaries.py::test_no_secret_is_left_anywhere",
    ),
    # -- the limits of a gateway -------------------------------------------------------------------
    "half a body is waited for": Mutation(
        "service._pieces",
        """
        asyncio.timeout(limits.sending):
            while True:
                async with asyncio.timeout(limits.silence):
        """,
        """
        asyncio.timeout(None):
            while True:
                async with asyncio.timeout(None):
        """,
        "gateway/test_gateway_limits.py::test_who_does_not_go_on_is_cut_off",
    ),
    "half a head is waited for": Mutation(
        "_TimedConnection.connection_made",
        "self._timer = self.loop.call_later(self.silence, transport.close)",
        "pass",
        "gateway/test_gateway_limits.py::test_who_does_not_go_on_is_cut_off",
    ),
    "requests are held without end": Mutation(
        "GatewayService._whole_body",
        "self._buffer.take(len(piece), stack)",
        "",
        "gateway/test_gateway_limits.py::test_no_more_is_held_than_there_is_room_for",
    ),
    "connections are taken without end": Mutation(
        "serving._server",
        "limit_concurrency=limits.connections,",
        "",
        "gateway/test_gateway_limits.py::test_a_connection_too_many_is_told_so",
    ),
    "a gateway waits for its database though it is to end": Mutation(
        "_until_drained",
        "PROCESS.hurry()",
        "",
        "gateway/test_gateway_limits.py::test_sigterm_ends_it_while_its_database_is_away",
    ),
    # -- who may do what ---------------------------------------------------------------------------
    "an answer is for whoever knows its key": Mutation(
        "bind_key",
        'json.dumps([key, upstream, query.decode("latin-1"), who])',
        "json.dumps([key, upstream])",
        "gateway/test_gateway.py::test_an_answer_is_for_whoever_has_the_credential_it_was_asked_with",
    ),
    "a web page asks the gateway": Mutation(
        "GatewayService.__call__",
        "self._door.check(request.headers)",
        "",
        "gateway/test_gateway.py::test_a_web_page_gets_nothing",
    ),
    "a path leads out of its upstream": Mutation(
        "GatewayService._target",
        "check_path(rest)",
        "",
        "gateway/test_gateway.py::test_no_path_leads_out_of_its_upstream",
    ),
}
