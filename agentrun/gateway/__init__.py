"""`agentrun gateway`: a reverse proxy that outlives the agent, so that no call in flight is lost.

Any client, in any language, that calls a provider by base URL goes through it:
``http://127.0.0.1:8788/NAME/…`` is the upstream of that name. Two headers say more:

``Idempotency-Key``       names the call, as agentrun's transport does by itself. Without it a
                          request passes through untouched.
``Agentrun-On-Doubt``     what to do if an earlier call under the key is possibly billed and its
                          answer is gone: ``retry``, the default, or ``fail`` with 409.

* Of equal requests with one key one goes upstream; all are told its answer, whole and live. The
  gateway holds the call: a reader that goes away does not end it.
* Equal is what agentrun takes for equal: less what clients randomise, and less the limit on the
  reply, which a budget may have lowered since. Another request under the key of an answer is 422.
* Each upstream call is a row in `gateway_calls`: its intent is committed before it is sent, and the
  answer, byte for byte, once it is whole. Then any gateway on this database serves it again. If the
  database is away by then, the answer is held until it is back; readers do not wait for that.
* Refused (no connection, an error status): not billed, and the next request goes upstream.
* Broken (no whole answer), or lost (the gateway itself was killed): possibly billed. Its readers
  see a broken stream; the next request goes upstream, and is told how often that happened.
* The bytes of an answer wait in memory, the rest of a long one in a file without a name. Each
  reader takes them at its own pace, so a slow one costs nothing. Only so many calls are under way
  at once; the others wait their turn.
* Credentials pass through, and are neither stored nor logged; cookies are dropped.
"""
