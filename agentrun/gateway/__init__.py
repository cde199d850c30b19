"""`agentrun gateway`: a reverse proxy that outlives the agent, so that no call in flight is lost.

A client in any language uses the gateway by its base URL: ``http://127.0.0.1:8788/NAME/…`` is the
upstream with that name. A request may have two headers for the gateway:

``Idempotency-Key``       names the call; agentrun's transport sends it by itself. A request without
                          it passes through unchanged.
``Agentrun-On-Doubt``     what to do if an earlier call under the key is possibly billed and its
                          answer is lost: ``retry`` (the default), or ``fail`` with 409.

* Of equal requests with one key, one goes upstream. All of them receive its whole answer while it
  arrives. The gateway owns the call: it goes on after a reader disconnects.
* Two requests are equal if agentrun takes them for equal. Data that clients randomise is ignored,
  and so is the limit on the reply, because a budget may have lowered it since. A different request
  under a key that has an answer is refused with 422.
* Each upstream call is a row in `gateway_calls`. Its intent is committed before it is sent, and its
  answer, byte for byte, once it is whole. After that, any gateway on this database can serve the
  answer again. If the database is unreachable, the gateway keeps the answer in memory until it can
  store it. Readers do not wait for that.
* A refused call (no connection, an error status) is not billed. The next request goes upstream.
* A broken call (its answer is not whole) and a lost call (its gateway was killed) are possibly
  billed. Readers see a broken stream. The next request goes upstream, and its answer says how many
  calls before it are possibly billed.
* The beginning of an answer is kept in memory, the rest of a long answer in a file without a name.
  Each reader reads at its own pace, so a slow reader delays no other. The number of calls under way
  is limited; further calls wait.
* Credentials pass through, and are neither stored nor logged. Cookies are dropped.
"""
