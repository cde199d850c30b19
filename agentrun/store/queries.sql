-- Every statement that agentrun sends while it runs. One name, one statement; `store/sql.py`
-- splits the file. Parameters in arrays travel in binary (%b). No statement is built at run time.

-- name: append
-- The one write path of the journal: group commit, fencing and the projection, in one statement.
--
-- A run's first row in the batch (head) is inserted only if the row before it is there and has
-- its epoch (one less for a claim). That predecessor is committed and never changes, and
-- (run_id, seq) is unique, so nobody can hold n + 1 who has not seen n. Its worker is compared
-- for a server that lost a claim in a failover and gave the epoch away again. Heads are sorted:
-- one lock order for all writers, or batches of two processes deadlock. Whoever appends holds on to
-- the run, or finds that it was pruned: the row at n + 1 that refuses a former owner may be on its
-- way out, and the insert, which waits for that, would then find room.
WITH b AS MATERIALIZED (
    SELECT * FROM unnest(
        %(run_id)b::uuid[], %(seq)b::bigint[], %(head)b::boolean[], %(epoch)b::bigint[],
        %(worker)b::text[], %(event)b::text[], %(step)b::integer[], %(turn)b::integer[],
        %(kind)b::text[], %(name)b::text[], %(ident)b::text[], %(attempt)b::integer[],
        %(effect)b::text[], %(key)b::text[], %(status)b::text[], %(started_at)b::timestamptz[],
        %(fingerprint)b::text[], %(overlapping)b::boolean[], %(model)b::text[],
        %(input_tokens)b::integer[], %(output_tokens)b::integer[], %(cached_tokens)b::integer[],
        %(reasoning_tokens)b::integer[], %(audio_tokens)b::integer[], %(cost)b::text[], %(priced_by)b::text[],
        %(by)b::text[], %(reason)b::text[], %(wake_at)b::timestamptz[], %(codec)b::smallint[],
        %(input)b::text[], %(output)b::text[], %(run_status)b::text[]
    ) AS b(run_id, seq, head, epoch, worker, event, step, turn, kind, name, ident, attempt,
           effect, key, status, started_at, fingerprint, overlapping, model, input_tokens,
           output_tokens, cached_tokens, reasoning_tokens, audio_tokens, cost, priced_by, by,
           reason, wake_at, codec, input, output, run_status)
),
heads AS (
    INSERT INTO agentrun.journal (
        run_id, seq, epoch, worker, batch, event, step, turn, kind, name, ident, attempt, effect,
        key, status, started_at, fingerprint, overlapping, model, input_tokens, output_tokens,
        cached_tokens, reasoning_tokens, audio_tokens, cost, priced_by, by, reason, wake_at,
        codec, input, output)
    SELECT
        run_id, seq, epoch, worker, %(batch)s::uuid, event, step, turn, kind, name, ident, attempt,
        effect, key, status, started_at, fingerprint, overlapping, model, input_tokens,
        output_tokens, cached_tokens, reasoning_tokens, audio_tokens, cost::numeric, priced_by,
        by, reason, wake_at, codec, input::json, output::json
    FROM b
    WHERE head AND EXISTS (
        SELECT FROM agentrun.journal p
        WHERE p.run_id = b.run_id AND p.seq = b.seq - 1
          AND (b.event = 'claimed' OR p.worker = b.worker)
          AND p.epoch = b.epoch - (b.event = 'claimed')::int)
      AND EXISTS (SELECT FROM agentrun.runs r WHERE r.run_id = b.run_id FOR KEY SHARE)
    ORDER BY b.run_id
    ON CONFLICT (run_id, seq) DO NOTHING
    RETURNING run_id
),
rest AS (
    INSERT INTO agentrun.journal (
        run_id, seq, epoch, worker, batch, event, step, turn, kind, name, ident, attempt, effect,
        key, status, started_at, fingerprint, overlapping, model, input_tokens, output_tokens,
        cached_tokens, reasoning_tokens, audio_tokens, cost, priced_by, by, reason, wake_at,
        codec, input, output)
    SELECT
        run_id, seq, epoch, worker, %(batch)s::uuid, event, step, turn, kind, name, ident, attempt,
        effect, key, status, started_at, fingerprint, overlapping, model, input_tokens,
        output_tokens, cached_tokens, reasoning_tokens, audio_tokens, cost::numeric, priced_by,
        by, reason, wake_at, codec, input::json, output::json
    FROM b JOIN heads USING (run_id)
    WHERE NOT b.head
),
stored AS (
    INSERT INTO agentrun.payloads (run_id, digest, size, zstd, blob)
    SELECT p.run_id, p.digest, p.size, p.zstd, p.blob
    FROM unnest(%(payload_run)b::uuid[], %(payload_digest)b::text[], %(payload_size)b::bigint[],
                %(payload_zstd)b::bytea[], %(payload_blob)b::text[])
         AS p(run_id, digest, size, zstd, blob)
    JOIN heads USING (run_id)
    ORDER BY p.run_id, p.digest
    ON CONFLICT (run_id, digest) DO NOTHING
),
moved AS (
    UPDATE agentrun.runs r
    SET status = b.run_status,
        owner = CASE WHEN b.run_status = 'running' THEN b.worker END,
        epoch = b.epoch,
        wake_at = b.wake_at,
        open_doubt = CASE WHEN b.event = 'parked' THEN b.step END,
        reason = CASE WHEN b.event IN ('parked', 'run_failed', 'run_cancelled') THEN b.reason END,
        changed_at = clock_timestamp()
    FROM b JOIN heads USING (run_id)
    WHERE r.run_id = b.run_id AND b.run_status IS NOT NULL
)
SELECT run_id FROM heads

-- name: append_plain
-- `append` for one or two rows of one run that move nothing in `runs` and bring no payloads, as
-- the steps of a lone run do: the same look at the row before, once for both rows, at a quarter
-- of the price. A seq that is taken is a unique_violation, which refuses both: nothing is torn.
-- Every parameter travels as text, so that the statement is prepared once, whatever is NULL.
INSERT INTO agentrun.journal (
    run_id, seq, epoch, worker, batch,
    event, step, turn, kind, name, ident, attempt, effect, key, status, started_at, fingerprint,
    overlapping, model, by, reason, wake_at, input_tokens, output_tokens, cached_tokens,
    reasoning_tokens, audio_tokens, cost, priced_by, codec, input, output)
SELECT
    %(run)s::uuid, %(first)s::bigint + b.n, %(epoch)s::bigint, %(worker)s::text, %(batch)s::uuid,
    event, step, turn, kind, name, ident, attempt, effect, key, status, started_at, fingerprint,
    overlapping, model, by, reason, wake_at, input_tokens, output_tokens, cached_tokens,
    reasoning_tokens, audio_tokens, cost, priced_by, codec, input, output
FROM (VALUES
    (0, %(event_1)s::text, %(step_1)s::integer, %(turn_1)s::integer, %(kind_1)s::text,
         %(name_1)s::text, %(ident_1)s::text, %(attempt_1)s::integer, %(effect_1)s::text,
         %(key_1)s::text, %(status_1)s::text, %(started_at_1)s::timestamptz,
         %(fingerprint_1)s::text, %(overlapping_1)s::boolean, %(model_1)s::text, %(by_1)s::text,
         %(reason_1)s::text, %(wake_at_1)s::timestamptz, %(input_tokens_1)s::integer,
         %(output_tokens_1)s::integer, %(cached_tokens_1)s::integer,
         %(reasoning_tokens_1)s::integer, %(audio_tokens_1)s::integer, %(cost_1)s::numeric,
         %(priced_by_1)s::text, %(codec_1)s::smallint, %(input_1)s::json, %(output_1)s::json),
    (1, %(event_2)s::text, %(step_2)s::integer, %(turn_2)s::integer, %(kind_2)s::text,
         %(name_2)s::text, %(ident_2)s::text, %(attempt_2)s::integer, %(effect_2)s::text,
         %(key_2)s::text, %(status_2)s::text, %(started_at_2)s::timestamptz,
         %(fingerprint_2)s::text, %(overlapping_2)s::boolean, %(model_2)s::text, %(by_2)s::text,
         %(reason_2)s::text, %(wake_at_2)s::timestamptz, %(input_tokens_2)s::integer,
         %(output_tokens_2)s::integer, %(cached_tokens_2)s::integer,
         %(reasoning_tokens_2)s::integer, %(audio_tokens_2)s::integer, %(cost_2)s::numeric,
         %(priced_by_2)s::text, %(codec_2)s::smallint, %(input_2)s::json, %(output_2)s::json)
    ) AS b(
        n, event, step, turn, kind, name, ident, attempt, effect, key, status, started_at,
        fingerprint, overlapping, model, by, reason, wake_at, input_tokens, output_tokens,
        cached_tokens, reasoning_tokens, audio_tokens, cost, priced_by, codec, input, output)
WHERE b.n < %(rows)s::integer AND EXISTS (
    SELECT FROM agentrun.journal p
    WHERE p.run_id = %(run)s::uuid AND p.seq = %(first)s::bigint - 1
      AND p.worker = %(worker)s::text AND p.epoch = %(epoch)s::bigint)
  AND EXISTS (SELECT FROM agentrun.runs r WHERE r.run_id = %(run)s::uuid FOR KEY SHARE)

-- name: settled
-- After a lost answer and a resend: which heads carry my nonce?
SELECT j.run_id FROM agentrun.journal j
JOIN unnest(%(run_id)b::uuid[], %(seq)b::bigint[]) AS h(run_id, seq) USING (run_id, seq)
WHERE j.batch = %(batch)s

-- name: cut_short
-- Of refused runs: those without the row that they were to follow, though it was acknowledged. One
-- that was pruned lost nothing: another worker saw it to its end.
SELECT h.run_id
FROM unnest(%(run_id)b::uuid[], %(seq)b::bigint[], %(epoch)b::bigint[], %(worker)b::text[])
    AS h(run_id, seq, epoch, worker)
WHERE NOT EXISTS (
    SELECT FROM agentrun.journal p
    WHERE p.run_id = h.run_id AND p.seq = h.seq - 1 AND p.epoch = h.epoch AND p.worker = h.worker)
  AND NOT EXISTS (SELECT FROM agentrun.tombstones t WHERE t.run_id = h.run_id)

-- name: settle_soon
-- Before a tool's COMMIT: should that never arrive, the server ends the transaction all the same,
-- or the row at its seq would stay locked until the server notices that the client is gone.
SELECT set_config('idle_in_transaction_session_timeout', %(milliseconds)s, true)

-- name: create
-- A run and its first event, together; an existing run of that key, or its tombstone, is left alone.
-- A child run holds on to its parent, which is not pruned without it.
WITH created AS (
    INSERT INTO agentrun.runs (run_id, key, agent, status, queue, priority, parent, wake_at)
    SELECT %(run_id)s, %(key)s, %(agent)s, 'queued', %(queue)s, %(priority)s, %(parent)s,
           clock_timestamp() + make_interval(secs => %(delay)s)
    WHERE NOT EXISTS (SELECT FROM agentrun.tombstones t WHERE t.key = %(key)s)
      AND (%(parent)s::uuid IS NULL
           OR EXISTS (SELECT FROM agentrun.runs p WHERE p.run_id = %(parent)s FOR KEY SHARE))
    ON CONFLICT DO NOTHING
    RETURNING run_id
), first AS (
    INSERT INTO agentrun.journal (run_id, seq, epoch, worker, batch, event, name, fingerprint,
                                  key, codec, input)
    SELECT run_id, 1, 0, %(worker)s, %(batch)s, 'created', %(agent)s, %(fingerprint)s,
           %(key)s, %(codec)s, %(input)s::text::json
    FROM created
), stored AS (
    INSERT INTO agentrun.payloads (run_id, digest, size, zstd, blob)
    SELECT created.run_id, p.digest, p.size, p.zstd, p.blob
    FROM created, unnest(%(payload_digest)b::text[], %(payload_size)b::bigint[],
                         %(payload_zstd)b::bytea[], %(payload_blob)b::text[])
                  AS p(digest, size, zstd, blob)
), budgeted AS (
    INSERT INTO agentrun.budgets (
        run_id, usd, tokens, turns, model_calls, wall, on_exhausted)
    SELECT created.run_id, l.usd, l.tokens, l.turns, l.model_calls, l.wall, l.on_exhausted
    FROM created, json_populate_record(NULL::agentrun.budgets, %(budget)s::text::json) l
    WHERE %(budget)s::text IS NOT NULL
)
SELECT run_id FROM created

-- name: run
-- One run by key; `due`: it is parked no longer, since its time or a letter came.
SELECT r.run_id, r.key, r.agent, r.status, r.owner, r.epoch, r.open_doubt, r.reason,
       r.created_at, r.changed_at, coalesce(r.wake_at <= clock_timestamp(), false) AS due,
       (SELECT c.fingerprint FROM agentrun.journal c WHERE c.run_id = r.run_id AND c.seq = 1)
           AS fingerprint
FROM agentrun.runs r WHERE r.key = %(key)s

-- name: keys
-- Keys that begin with a prefix (for commands that accept a unique prefix), newest first.
SELECT key FROM agentrun.runs WHERE starts_with(key, %(prefix)s)
ORDER BY created_at DESC LIMIT %(limit)s

-- name: runs
-- Newest runs first, for `agentrun ls`.
SELECT r.key, r.agent, r.status, r.owner, r.reason, r.created_at, r.changed_at,
       w.dead_at IS NOT NULL OR w.beat_at + w.lease < clock_timestamp() AS owner_dead
FROM agentrun.runs r LEFT JOIN agentrun.workers w ON w.worker = r.owner
WHERE %(status)s::text IS NULL OR r.status = %(status)s
ORDER BY r.created_at DESC LIMIT %(limit)s

-- name: events
-- The journal of one run from a place on, in order: the one read path.
SELECT run_id, seq, epoch, worker, event, at, step, turn, kind, name, ident, attempt, effect, key,
       status, started_at, fingerprint, overlapping, model, input_tokens, output_tokens,
       cached_tokens, reasoning_tokens, audio_tokens, cost, priced_by, by, reason, wake_at, codec,
       input::text AS input, output::text AS output
FROM agentrun.journal WHERE run_id = %(run_id)s AND seq > %(after)s ORDER BY seq

-- name: payload
SELECT size, zstd, blob FROM agentrun.payloads WHERE run_id = %(run_id)s AND digest = %(digest)s

-- name: tail
-- The last event of a run: what a claim must follow.
SELECT seq, epoch FROM agentrun.journal WHERE run_id = %(run_id)s ORDER BY seq DESC LIMIT 1

-- name: register
-- A worker announces itself. `direct` is false behind a pooler, where the session is not ours, and
-- may be older than our first contact with the server.
INSERT INTO agentrun.workers
    (worker, host, pid, process, lease, session_pid, session_start, server_start)
SELECT %(worker)s, %(host)s, %(pid)s, %(process)s, make_interval(secs => %(lease)s),
       CASE WHEN %(direct)s THEN pg_backend_pid() END,
       CASE WHEN %(direct)s
           THEN (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
           ELSE clock_timestamp() END,
       pg_postmaster_start_time()
ON CONFLICT (worker) DO UPDATE
SET session_pid = excluded.session_pid, session_start = excluded.session_start,
    server_start = excluded.server_start, beat_at = clock_timestamp()
WHERE workers.dead_at IS NULL
RETURNING clock_timestamp() AS now

-- name: beat
-- No row back: this worker was declared dead, and stays so.
UPDATE agentrun.workers
SET beat_at = clock_timestamp(), pending = %(pending)s, slowest_commit = %(slowest)s
WHERE worker = %(worker)s AND dead_at IS NULL RETURNING clock_timestamp() AS now

-- name: owner
-- What is known about the life of a worker, by the database's clock. Nobody can beat while the
-- server is down, so the lease counts from its start where that is later. A server that came out of
-- recovery may be a promoted standby, up for long: there, of a worker that has not come back yet, it
-- counts from the first contact that any worker had.
SELECT w.worker, w.host, w.pid, w.process, w.beat_at, w.dead_at, w.cause,
       extract(epoch FROM w.lease)::float8 AS lease,
       heard.at + w.lease < clock_timestamp() AS expired,
       greatest(0, extract(epoch FROM heard.at + w.lease - clock_timestamp()))::float8
           AS lease_left,
       w.session_pid IS NOT NULL
           AND w.server_start = pg_postmaster_start_time()
           AND pg_postmaster_start_time() + w.lease < clock_timestamp()
           AND NOT EXISTS (
               SELECT FROM pg_stat_activity a WHERE a.pid = w.session_pid
               AND (a.backend_start IS NULL OR a.backend_start = w.session_start))
           AS session_gone
FROM agentrun.workers w
CROSS JOIN LATERAL (SELECT greatest(w.beat_at, pg_postmaster_start_time(), CASE
    WHEN w.server_start <> pg_postmaster_start_time() AND pg_last_xact_replay_timestamp() IS NOT NULL
    THEN coalesce((SELECT min(s.session_start) FROM agentrun.workers s
                   WHERE s.server_start = pg_postmaster_start_time()), clock_timestamp())
    END) AS at) heard
WHERE w.worker = %(worker)s

-- name: declare_dead
-- Death is declared first, once, and only on the beat that was seen; its runs are taken after.
UPDATE agentrun.workers SET dead_at = clock_timestamp(), cause = %(cause)s
WHERE worker = %(worker)s AND beat_at = %(beat_at)s AND dead_at IS NULL RETURNING worker

-- name: stop_worker
UPDATE agentrun.workers SET dead_at = clock_timestamp(), cause = 'stopped'
WHERE worker = %(worker)s AND dead_at IS NULL

-- name: keep_late
-- An answer that arrived after its worker lost the run; the owner may adopt it.
WITH run AS (
    SELECT run_id FROM agentrun.runs WHERE run_id = %(run_id)s FOR KEY SHARE
), stored AS (
    INSERT INTO agentrun.payloads (run_id, digest, size, zstd, blob)
    SELECT run.run_id, p.digest, p.size, p.zstd, p.blob
    FROM run, unnest(%(payload_digest)b::text[], %(payload_size)b::bigint[],
                     %(payload_zstd)b::bytea[], %(payload_blob)b::text[])
              AS p(digest, size, zstd, blob)
    ON CONFLICT DO NOTHING
)
INSERT INTO agentrun.late_results (
    run_id, step, attempt, worker, status, codec, output, model, input_tokens, output_tokens,
    cached_tokens, reasoning_tokens, audio_tokens, cost, priced_by)
SELECT run_id, %(step)s, %(attempt)s, %(worker)s, %(status)s, %(codec)s, %(output)s::text::json,
       %(model)s, %(input_tokens)s, %(output_tokens)s, %(cached_tokens)s, %(reasoning_tokens)s,
       %(audio_tokens)s, %(cost)s, %(priced_by)s
FROM run
ON CONFLICT DO NOTHING

-- name: late
SELECT attempt, worker, status, codec, output::text AS output, model, input_tokens, output_tokens,
       cached_tokens, reasoning_tokens, audio_tokens, cost, priced_by
FROM agentrun.late_results
WHERE run_id = %(run_id)s AND step = %(step)s AND attempt <= %(attempt)s
ORDER BY attempt LIMIT 1

-- name: send_mail
SELECT agentrun.send(%(key)s, %(kind)s, %(step)s, %(payload)s::text::json, %(by)s, %(reason)s,
                     %(codec)s::smallint, %(id)s) AS id

-- name: mail
SELECT id, kind, step, by, reason, codec, payload::text AS payload, sent_at
FROM agentrun.mail WHERE run_id = %(run_id)s ORDER BY sent_at, id

-- name: backend
-- The session that answers; a pooler's clients are told another one when they connect.
SELECT pg_backend_pid() AS pid

-- name: plan_once
-- Our statements find their rows by indexes. Planned for tables that are still empty, they would not,
-- and planned anew for each batch they take longer to plan than to execute.
SELECT set_config('plan_cache_mode', 'force_generic_plan', false),
       set_config('enable_seqscan', 'off', false)

-- name: settings
SELECT current_setting('synchronous_commit') AS synchronous_commit,
       pg_is_in_recovery() AS standby

-- name: news
-- Letters about a step that its run has not journaled, and late answers to it.
SELECT m.id::text AS id FROM agentrun.mail m
WHERE m.run_id = %(run_id)s AND (m.step = %(step)s OR m.kind = 'cancel')
  AND NOT EXISTS (SELECT FROM agentrun.journal j
                  WHERE j.run_id = m.run_id AND j.event IN ('resolved', 'received')
                    AND j.key = m.id::text)
UNION ALL
SELECT l.worker FROM agentrun.late_results l
WHERE l.run_id = %(run_id)s AND l.step = %(step)s

-- name: doubts
-- Steps of a run that nobody has decided about.
SELECT step FROM agentrun.in_doubt WHERE run_id = %(run_id)s ORDER BY step

-- name: inbox
-- What waits for a person, in one run or in all, longest first.
SELECT key, agent, step, waits_for, name, effect, attempt, args, idempotency_key, reason, since
FROM agentrun.inbox
WHERE %(key)s::text IS NULL OR key = %(key)s
ORDER BY since

-- name: audit
-- Before a query of an auditor: names as in the documentation, tables of the user's own beside
-- them, and an end to it.
SELECT set_config('search_path', 'agentrun, public', true),
       set_config('statement_timeout', %(timeout)s, true)

-- name: server
-- What `agentrun doctor` says about the server.
SELECT current_setting('server_version') AS version,
       current_setting('synchronous_commit') AS synchronous_commit,
       pg_is_in_recovery() AS standby,
       clock_timestamp() AS now

-- name: census
-- What `agentrun doctor` says about workers and runs. A worker that stopped by itself is not dead.
WITH w AS (
    SELECT worker, coalesce(cause = 'stopped', false) AS stopped, pending, slowest_commit,
           dead_at IS NOT NULL OR beat_at + lease < clock_timestamp() AS dead
    FROM agentrun.workers
)
SELECT (SELECT count(*) FROM w WHERE NOT dead) AS workers_alive,
       (SELECT count(*) FROM w WHERE dead AND NOT stopped) AS workers_dead,
       (SELECT coalesce(sum(pending), 0) FROM w WHERE NOT dead) AS pending,
       (SELECT coalesce(max(slowest_commit), 0) FROM w WHERE NOT dead) AS slowest_commit,
       count(*) FILTER (WHERE r.status = 'queued') AS queued,
       count(*) FILTER (WHERE r.status = 'running') AS running,
       count(*) FILTER (WHERE r.status = 'waiting') AS waiting,
       count(*) FILTER (WHERE r.status = 'held') AS held,
       count(*) FILTER (WHERE r.status = 'running' AND w.dead IS NOT FALSE) AS abandoned
FROM agentrun.runs r LEFT JOIN w ON w.worker = r.owner
WHERE r.status IN ('queued', 'running', 'waiting', 'held')

-- name: vacuum
-- What `agentrun doctor` says about dead rows, and whether anybody removes them.
SELECT t.relname AS "table", t.n_live_tup AS live, t.n_dead_tup AS dead,
       coalesce(current_setting('autovacuum')::boolean AND current_setting('track_counts')::boolean
           AND o.enabled IS NOT false, false) AS autovacuum
FROM pg_stat_user_tables t JOIN pg_class c ON c.oid = t.relid
LEFT JOIN LATERAL (
    SELECT option_value::boolean AS enabled FROM pg_options_to_table(c.reloptions)
    WHERE option_name = 'autovacuum_enabled') o ON true
WHERE t.schemaname = 'agentrun' ORDER BY t.relname

-- name: oldest
-- The transaction that began first: it may still see every row that was changed or removed since.
SELECT extract(epoch FROM clock_timestamp() - since)::float8 AS age, who
FROM (
    SELECT xact_start, concat_ws(' ', 'session', pid, quote_literal(application_name), state)
    FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND datname = current_database()
      AND coalesce(backend_xmin, backend_xid) IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT prepared, concat_ws(' ', 'prepared transaction', quote_literal(gid))
    FROM pg_prepared_xacts WHERE database = current_database()
) held (since, who)
WHERE since IS NOT NULL ORDER BY since LIMIT 1

-- name: stuck
-- Runs that will not go on by themselves, and why: for `agentrun doctor`, and, of one key, for
-- `agentrun watch`. A run just queued is not stuck: `.run()` may be about to take it.
WITH alive AS (
    SELECT worker, agents FROM agentrun.workers
    WHERE dead_at IS NULL AND beat_at + lease >= clock_timestamp()
)
SELECT r.key, r.agent, r.owner, r.reason, r.open_doubt AS step, r.changed_at AS since,
       CASE r.status WHEN 'held' THEN 'held' WHEN 'running' THEN 'owner dead'
                     ELSE 'no worker' END AS why
FROM agentrun.runs r
WHERE r.status IN ('queued', 'running', 'waiting', 'held')
  AND (%(key)s::text IS NULL OR r.key = %(key)s)
  AND CASE r.status
      WHEN 'held' THEN true
      WHEN 'running' THEN NOT EXISTS (SELECT FROM alive a WHERE a.worker = r.owner)
      ELSE NOT EXISTS (SELECT FROM alive a WHERE r.agent = ANY(a.agents))
           AND coalesce(r.wake_at <= clock_timestamp(), r.status = 'queued')
           AND r.changed_at < clock_timestamp() - interval '2 s'
      END
ORDER BY r.changed_at LIMIT %(limit)s

-- name: wake
-- A run that parked while mail was on its way is due at once. Not for mail that its steps have
-- seen and not wanted, or would not look at: it would park and wake for ever.
UPDATE agentrun.runs r SET wake_at = clock_timestamp()
WHERE r.run_id = %(run_id)s AND r.status IN ('waiting', 'held')
  AND EXISTS (
      SELECT FROM agentrun.mail m WHERE m.run_id = r.run_id
      AND (m.kind = 'cancel' OR %(looked)s AND m.id <> ALL (%(seen)b::uuid[]))
      AND NOT EXISTS (SELECT FROM agentrun.journal j
                      WHERE j.run_id = m.run_id AND j.event IN ('resolved', 'received')
                        AND j.key = m.id::text))

-- name: response_ended
-- A run that waits for this response is due, and workers are told.
WITH due AS (
    UPDATE agentrun.runs SET wake_at = clock_timestamp()
    WHERE status = 'waiting' AND reason = %(reason)s AND starts_with(reason, 'waits for response ')
    RETURNING key
)
SELECT key, pg_notify('agentrun', '')::text AS told FROM due

-- name: claim_ready
-- Take up to so many runs that are queued or due, for agents this worker knows. Nobody owns such a
-- run and nobody appends to it, so locking the rows of `runs` first deadlocks with no writer.
-- Both looks end where what is ready ends: an index is not searched by clock_timestamp(), which may
-- differ from row to row, and has no order across several queues.
WITH queued AS (
    SELECT r.* FROM unnest(%(queues)s::text[]) AS q(queue) CROSS JOIN LATERAL (
        SELECT run_id, status, priority, created_at FROM agentrun.runs
        WHERE status = 'queued' AND wake_at IS NULL
          AND queue = q.queue AND agent = ANY(%(agents)s)
        ORDER BY priority DESC, created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED) r
), due AS (
    SELECT run_id, status, priority, created_at FROM agentrun.runs
    WHERE status IN ('queued', 'waiting', 'held') AND wake_at <= statement_timestamp()
      AND queue = ANY(%(queues)s) AND agent = ANY(%(agents)s)
    ORDER BY wake_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), ready AS (
    SELECT * FROM queued UNION ALL SELECT * FROM due
), picked AS (
    SELECT run_id, status FROM ready ORDER BY priority DESC, created_at LIMIT %(limit)s
), claimed AS (
    INSERT INTO agentrun.journal (run_id, seq, epoch, worker, batch, event, reason)
    SELECT p.run_id, t.seq + 1, t.epoch + 1, %(worker)s, %(batch)s, 'claimed',
           CASE WHEN t.epoch = 0 THEN 'first claim' ELSE 'was ' || p.status END
    FROM picked p CROSS JOIN LATERAL (
        SELECT j.seq, j.epoch FROM agentrun.journal j WHERE j.run_id = p.run_id
        ORDER BY j.seq DESC LIMIT 1) t
    ORDER BY p.run_id
    ON CONFLICT (run_id, seq) DO NOTHING
    RETURNING run_id, seq, epoch
)
UPDATE agentrun.runs r
SET status = 'running', owner = %(worker)s, epoch = c.epoch, wake_at = NULL, open_doubt = NULL,
    reason = NULL, changed_at = clock_timestamp()
FROM claimed c WHERE r.run_id = c.run_id
RETURNING r.run_id, r.key, r.agent, c.epoch, c.seq

-- name: abandoned
-- Runs of agents this worker knows whose owner has not been heard of lately; and its own that it
-- does not execute: the answer to their claim was lost, or their last event could not be stored.
SELECT r.run_id, r.key, r.agent, r.status, r.owner, r.epoch, r.open_doubt, r.reason
FROM agentrun.runs r JOIN agentrun.workers w ON w.worker = r.owner
WHERE r.status = 'running' AND r.agent = ANY(%(agents)s) AND r.queue = ANY(%(queues)s)
  AND r.run_id <> ALL (%(here)b::uuid[])
  AND CASE WHEN r.owner = %(worker)s
      THEN r.changed_at < clock_timestamp() - interval '5 s'  -- else it is about to begin
      ELSE w.dead_at IS NOT NULL OR w.beat_at < clock_timestamp() - w.lease * 0.2 END
ORDER BY r.changed_at LIMIT %(limit)s

-- name: fruitless
-- How many claims at the end of its journal brought a run no step forward. A child run's steps are
-- its parent's, too, whose own step ends with the child; that the child parks once more is not.
SELECT count(*)::int AS claims FROM agentrun.journal c
WHERE c.run_id = %(run_id)s AND c.event = 'claimed' AND c.at > coalesce((
    SELECT max(j.at) FROM agentrun.tree(%(run_id)s) t JOIN agentrun.journal j USING (run_id)
    WHERE j.event IN ('step_finished', 'received', 'resolved')
       OR j.run_id = %(run_id)s AND j.event IN ('parked', 'handed_back', 'resumed')
), '-infinity')

-- name: overlooked
-- Letters that arrived in the instant in which their run parked: the parker died then, or neither
-- saw the other, as the letter was committed after the parker's second look. Any other letter that
-- came after the park has made the run due by itself. `since`: older ones somebody has looked at.
UPDATE agentrun.runs r SET wake_at = clock_timestamp()
FROM agentrun.mail m
WHERE m.sent_at > %(since)s
  AND m.run_id = r.run_id AND m.sent_at > r.changed_at - interval '10 seconds'
  AND r.status IN ('waiting', 'held') AND (r.wake_at IS NULL OR r.wake_at > clock_timestamp())
  AND NOT EXISTS (SELECT FROM agentrun.journal j
                  WHERE j.run_id = m.run_id AND j.event IN ('resolved', 'received')
                    AND j.key = m.id::text)

-- name: cancellations
-- Which of these runs were told to stop.
SELECT m.run_id, m.by, m.reason FROM agentrun.mail m
WHERE m.run_id = ANY(%(runs)s) AND m.kind = 'cancel'

-- name: serving
-- Which agents this worker executes, for `ls`, `doctor` and a result that does not come.
UPDATE agentrun.workers SET agents = %(agents)s WHERE worker = %(worker)s

-- name: servers
-- How many live workers execute this agent.
SELECT count(*)::int AS alive FROM agentrun.workers
WHERE %(agent)s = ANY(agents) AND dead_at IS NULL AND beat_at + lease > clock_timestamp()

-- name: notify
SELECT pg_notify('agentrun', '')

-- name: lock_tree
-- One reservation at a time in a tree of runs; until the end of the transaction, which the server
-- ends should its process stop in the middle: nobody else of the tree could make a call. Nor is it
-- pruned meanwhile; of a run that was, there is nothing to lock.
SELECT set_config('idle_in_transaction_session_timeout', %(milliseconds)s, true),
       pg_advisory_xact_lock(hashtextextended('agentrun budget ' || agentrun.top(%(run_id)s), 0))
FROM agentrun.runs WHERE run_id = %(run_id)s FOR KEY SHARE

-- name: settle_tree
-- What the journal knows by now of the calls that were reserved in this tree.
UPDATE agentrun.reservations v
SET billing = o.billing,
    usd = CASE o.billing WHEN 'confirmed' THEN o.cost WHEN 'not billed' THEN 0 ELSE v.usd END,
    tokens = CASE WHEN o.billing = 'not billed' THEN 0
                  ELSE coalesce(o.input_tokens + coalesce(o.output_tokens, 0), v.tokens) END
FROM agentrun.tree(agentrun.top(%(run_id)s)) t
JOIN agentrun.reservations u ON u.run_id = t.run_id AND u.billing = 'reserved'
CROSS JOIN LATERAL (
    -- its own answer may come late; or that of an earlier attempt, and be adopted: then this one
    -- was not sent
    SELECT agentrun.billing('step_finished', l.status, l.codec, l.output, l.cost, l.input_tokens)
               AS billing,
           l.cost, l.input_tokens, l.output_tokens
    FROM agentrun.late_results l
    WHERE l.run_id = u.run_id AND l.step = u.step AND l.attempt = u.attempt
    UNION ALL
    (SELECT CASE WHEN j.attempt < u.attempt THEN 'not billed' ELSE agentrun.billing(
               j.event, j.status, j.codec, j.output, j.cost, j.input_tokens) END,
           j.cost, j.input_tokens, j.output_tokens
    FROM agentrun.journal j
    WHERE j.run_id = u.run_id AND j.step = u.step AND j.kind = 'model'
      AND j.event IN ('attempt_failed', 'step_finished')
      AND (j.attempt = u.attempt
           OR j.attempt < u.attempt AND j.event = 'step_finished' AND j.seq > (
               SELECT max(i.seq) FROM agentrun.journal i
               WHERE i.run_id = u.run_id AND i.step = u.step AND i.attempt = u.attempt
                 AND i.event = 'attempt_started'))
    ORDER BY j.seq DESC LIMIT 1)
    LIMIT 1
) o
WHERE v.run_id = u.run_id AND v.step = u.step AND v.attempt = u.attempt

-- name: budgets
-- The budgets that hold a run, the outermost first, and what is used of each: all of its tree but
-- the attempt that asks. Of calls that are counted, and not added up, it is no part at all.
WITH RECURSIVE above AS (
    SELECT r.run_id, r.parent, 0 AS height FROM agentrun.runs r WHERE r.run_id = %(run_id)s
    UNION ALL
    SELECT r.run_id, r.parent, a.height + 1
    FROM above a JOIN agentrun.runs r ON r.run_id = a.parent
)
SELECT a.run_id, r.key, b.usd, b.tokens, b.turns, b.model_calls, b.wall, b.on_exhausted, s.*,
       extract(epoch FROM clock_timestamp() - r.created_at)::float8 AS used_wall
FROM above a JOIN agentrun.budgets b USING (run_id) JOIN agentrun.runs r USING (run_id)
CROSS JOIN LATERAL (
    SELECT coalesce(sum(v.usd) FILTER (WHERE v.other), 0) AS used_usd,
           coalesce(sum(v.tokens) FILTER (WHERE v.other), 0)::bigint AS used_tokens,
           coalesce(sum(v.usd) FILTER (WHERE v.other AND v.billing <> 'confirmed'), 0) AS open_usd,
           count(DISTINCT (v.run_id, v.turn)) FILTER (
               WHERE (v.run_id, v.turn) IS DISTINCT FROM (%(run_id)s::uuid, %(turn)s::int)) AS used_turns,
           count(DISTINCT (v.run_id, v.step)) FILTER (
               WHERE (v.run_id, v.step) <> (%(run_id)s::uuid, %(step)s::int)) AS used_model_calls,
           coalesce(bool_or(
               v.billing = 'reserved' AND v.owner IS NOT NULL AND v.epoch = v.epoch_now
               AND (v.run_id, v.step) <> (%(run_id)s::uuid, %(step)s::int)), false) AS in_flight
    FROM (
        SELECT w.*, c.owner, c.epoch AS epoch_now,
               (w.run_id, w.step, w.attempt)
                   <> (%(run_id)s::uuid, %(step)s::int, %(attempt)s::int) AS other
        FROM agentrun.tree(a.run_id) t JOIN agentrun.reservations w USING (run_id)
        JOIN agentrun.runs c USING (run_id)
    ) v
) s
ORDER BY a.height DESC

-- name: reserve
-- Again after a lost answer, and by the next owner of a run that was lost before its intent.
INSERT INTO agentrun.reservations (run_id, step, attempt, turn, epoch, usd, tokens)
SELECT run_id, %(step)s, %(attempt)s, %(turn)s, %(epoch)s, %(usd)s, %(used)s
FROM agentrun.runs WHERE run_id = %(run_id)s
ON CONFLICT (run_id, step, attempt) DO UPDATE
SET epoch = excluded.epoch, usd = excluded.usd, tokens = excluded.tokens
WHERE reservations.epoch <= excluded.epoch AND reservations.billing = 'reserved'

-- name: raise_budget
-- Raise a budget, if the run has one, to these limits; tell the other runs of its tree that ask.
WITH raised AS (
    UPDATE agentrun.budgets b
    SET usd = greatest(b.usd, l.usd), tokens = greatest(b.tokens, l.tokens),
        turns = greatest(b.turns, l.turns), wall = greatest(b.wall, l.wall),
        model_calls = greatest(b.model_calls, l.model_calls)
    FROM json_populate_record(NULL::agentrun.budgets, %(budget)s::text::json) l
    WHERE b.run_id = %(holder)s
    RETURNING b.run_id
)
SELECT EXISTS (SELECT FROM raised) AS raised,
       count(agentrun.send(r.key, 'approve', q.step, '{}', %(by)s, %(reason)s)) AS told
FROM raised, agentrun.tree(%(holder)s) t JOIN agentrun.runs r USING (run_id)
CROSS JOIN LATERAL (
    SELECT j.step, (array_agg(j.event ORDER BY j.seq DESC))[1] AS last
    FROM agentrun.journal j WHERE j.run_id = r.run_id AND j.kind = 'model' GROUP BY j.step
) q
WHERE r.status IN ('running', 'held') AND r.run_id <> %(run_id)s AND q.last = 'approval_requested'

-- name: tombstone
-- That a run was pruned: by its key, or by its id.
SELECT key, status, ended_at, pruned_at FROM agentrun.tombstones
WHERE key = %(key)s::text OR run_id = %(run_id)s::uuid

-- name: prune
-- One batch of finished runs, in one transaction; a dry run only looks.
SELECT * FROM agentrun.prune(
    %(before)s::timestamptz, %(statuses)s::text[], %(agent)s::text, %(dry_run)s::boolean,
    %(batch)s::uuid, coalesce(%(after_at)s::timestamptz, '-infinity'),
    coalesce(%(after_id)s::uuid, '00000000-0000-0000-0000-000000000000'))

-- name: pruned
-- What all batches together removed, those included whose answers were lost.
SELECT count(*) AS runs, coalesce(sum(events), 0)::bigint AS events,
       coalesce(sum(bytes), 0)::bigint AS bytes
FROM agentrun.tombstones WHERE batch = %(batch)s AND pruned_at >= %(since)s

-- name: blob_folder
SELECT id FROM agentrun.blob_folder

-- name: orphans
-- Blobs that no row names, and none will: of a claim that is over, or of a run that was pruned. Of
-- a run that is not there, the key may be free again, and the run about to be created.
SELECT b.name
FROM unnest(%(blob)b::text[], %(run_id)b::uuid[], %(epoch)b::bigint[], %(digest)b::text[],
            %(modified)b::timestamptz[]) AS b(name, run_id, epoch, digest, modified)
LEFT JOIN agentrun.runs r USING (run_id)
WHERE NOT EXISTS (SELECT FROM agentrun.payloads p
                  WHERE p.run_id = b.run_id AND p.digest = b.digest AND p.blob = b.name)
  AND CASE
      WHEN r.run_id IS NOT NULL THEN
          b.epoch < r.epoch
          OR b.epoch = r.epoch AND r.status IN ('done', 'failed', 'cancelled')
      ELSE
          EXISTS (SELECT FROM agentrun.tombstones t WHERE t.run_id = b.run_id)
          OR b.modified < clock_timestamp() - %(abandoned)s::interval
      END

-- name: prune_workers
-- Workers that ended so long ago for certain, and have no run. Of any other the row stays, which
-- tells it, should it only have been stopped, that it was declared dead.
WITH old AS (
    SELECT worker FROM agentrun.workers w
    WHERE dead_at < %(before)s AND cause IN ('stopped', 'process gone')
      AND NOT EXISTS (SELECT FROM agentrun.runs r
                      WHERE r.status = 'running' AND r.owner = w.worker)
), removed AS (
    DELETE FROM agentrun.workers w USING old WHERE w.worker = old.worker AND NOT %(dry_run)s
)
SELECT count(*) AS workers FROM old

-- name: forget_keys
-- Tombstones set so long ago, the oldest of them: their keys name no run any more.
WITH old AS (
    SELECT run_id FROM agentrun.tombstones
    WHERE pruned_at < %(before)s
      AND status = ANY(%(statuses)s) AND (%(agent)s::text IS NULL OR agent = %(agent)s)
    ORDER BY pruned_at LIMIT %(limit)s::integer
), removed AS (
    DELETE FROM agentrun.tombstones t USING old WHERE t.run_id = old.run_id AND NOT %(dry_run)s
)
SELECT count(*) AS keys FROM old

-- name: gateway_calls
-- The upstream calls under a key, oldest first.
SELECT call, fingerprint, status, gateway FROM agentrun.gateway_calls
WHERE key = %(key)s ORDER BY call

-- name: gateway_begin
-- The intent of an upstream call. No row back: somebody else began this one. Sent again after a
-- lost answer, it finds its own row.
INSERT INTO agentrun.gateway_calls AS c (key, call, fingerprint, upstream, path, gateway, nonce)
VALUES (%(key)s, %(call)s, %(fingerprint)s, %(upstream)s, %(path)s, %(gateway)s, %(nonce)s)
ON CONFLICT (key, call) DO UPDATE SET nonce = c.nonce WHERE c.nonce = EXCLUDED.nonce
RETURNING call

-- name: gateway_end
-- What became of it, by the process that made it: also after another one took that for dead.
UPDATE agentrun.gateway_calls
SET status = %(status)s, reason = %(reason)s, http_status = %(http_status)s,
    headers = %(headers)s::text::json, digest = %(digest)s, size = %(size)s, zstd = %(zstd)s,
    ended_at = clock_timestamp()
WHERE key = %(key)s AND call = %(call)s AND nonce = %(nonce)s

-- name: gateway_answer
SELECT http_status, headers, digest, zstd FROM agentrun.gateway_calls
WHERE key = %(key)s AND call = %(call)s AND status = 'answered'

-- name: gateway_holders
-- The gateways that have calls under way, or had when they died.
SELECT DISTINCT gateway FROM agentrun.gateway_calls WHERE status = 'open'

-- name: gateway_lost
-- The calls that died with a gateway.
UPDATE agentrun.gateway_calls
SET status = 'lost', reason = 'its gateway died with it', ended_at = clock_timestamp()
WHERE gateway = %(gateway)s AND status = 'open'
RETURNING key, upstream, path

-- name: gateway_forget
-- In batches, so that none holds a lock for long.
DELETE FROM agentrun.gateway_calls WHERE (key, call) IN (
    SELECT key, call FROM agentrun.gateway_calls
    WHERE ended_at < clock_timestamp() - %(keep)s::interval
    ORDER BY ended_at LIMIT 1000 FOR UPDATE SKIP LOCKED)
RETURNING key

-- name: shared_limits
-- The limits that are set, and the models that are held back.
SELECT model, NULL::timestamptz AS until, false AS circuit, NULL AS reason FROM agentrun.limits
UNION ALL
SELECT model, until, circuit, reason FROM agentrun.holds
WHERE circuit OR until > clock_timestamp()

-- name: permit
-- Whether a call may be made now: 0, or in how many seconds to ask again.
SELECT agentrun.permit(%(run_id)s, %(key)s, %(model)s, %(worker)s, r.priority, %(tokens)s) AS wait
FROM agentrun.runs r WHERE r.run_id = %(run_id)s

-- name: release
SELECT agentrun.release(%(run_id)s, %(key)s, %(worker)s, %(used)s)

-- name: hold
-- Nobody asks this model for a while; and what is set now, for who said so.
WITH held AS (
    INSERT INTO agentrun.holds AS h (model, until, circuit, worker, reason)
    VALUES (%(model)s, clock_timestamp() + make_interval(secs => %(seconds)s), %(circuit)s,
            %(worker)s, %(reason)s)
    ON CONFLICT (model) DO UPDATE
    SET until = greatest(h.until, excluded.until), circuit = h.circuit OR excluded.circuit,
        worker = excluded.worker, reason = excluded.reason
    RETURNING model, until, circuit, reason
)
SELECT model, NULL::timestamptz AS until, false AS circuit, NULL AS reason FROM agentrun.limits
UNION ALL
SELECT model, until, circuit, reason FROM held
UNION ALL
SELECT model, until, circuit, reason FROM agentrun.holds
WHERE model <> %(model)s AND (circuit OR until > clock_timestamp())

-- name: try_alone
-- A hold that is over: whoever comes first tries, and keeps the others waiting a little longer.
WITH tried AS (
    UPDATE agentrun.holds SET until = clock_timestamp() + interval '10 s', worker = %(worker)s
    WHERE model = %(model)s AND until <= clock_timestamp()
    RETURNING model
)
SELECT (SELECT h.until FROM agentrun.holds h
        WHERE h.model = %(model)s AND NOT EXISTS (SELECT FROM tried)) AS until

-- name: unhold
DELETE FROM agentrun.holds WHERE model = %(model)s

-- name: set_limit
INSERT INTO agentrun.limits (model, rpm, tpm, concurrency)
VALUES (%(model)s, %(rpm)s, %(tpm)s, %(concurrency)s)
ON CONFLICT (model) DO UPDATE
SET rpm = excluded.rpm, tpm = excluded.tpm, concurrency = excluded.concurrency

-- name: limits
-- What is set, how much of it is used, and what is held back.
SELECT coalesce(l.model, h.model) AS model, l.rpm, l.tpm, l.concurrency,
       count(p.*) FILTER (WHERE p.granted_at IS NOT NULL) AS under_way,
       count(p.*) FILTER (WHERE p.granted_at IS NULL) AS waiting,
       h.until AS held_until, h.reason
FROM agentrun.limits l
FULL JOIN (SELECT * FROM agentrun.holds WHERE until > clock_timestamp()) h ON h.model = l.model
LEFT JOIN agentrun.permits p ON p.model = l.model
GROUP BY l.model, h.model, l.rpm, l.tpm, l.concurrency, h.until, h.reason
ORDER BY 1

-- name: remove_limit
WITH removed AS (DELETE FROM agentrun.limits WHERE model = %(model)s RETURNING model)
SELECT count(*)::int AS removed FROM removed

-- name: tell_partials
-- Of runs that are still their owner's, what has come of their streams; and what is of no more use.
WITH over AS (
    DELETE FROM agentrun.partials p
    USING unnest(%(over_run)b::uuid[], %(over_step)b::int[]) AS o(run_id, step)
    WHERE p.run_id = o.run_id AND p.step = o.step
)
INSERT INTO agentrun.partials AS p (run_id, step, attempt, epoch, codec, body)
SELECT u.run_id, u.step, u.attempt, u.epoch, u.codec, u.body::json
FROM unnest(%(run_id)b::uuid[], %(step)b::int[], %(attempt)b::int[], %(worker)b::text[],
            %(epoch)b::bigint[], %(codec)b::smallint[], %(body)b::text[])
         AS u(run_id, step, attempt, worker, epoch, codec, body)
JOIN agentrun.runs r ON r.run_id = u.run_id AND r.owner = u.worker AND r.epoch = u.epoch
ORDER BY u.run_id
FOR KEY SHARE OF r
ON CONFLICT (run_id, step, attempt) DO UPDATE
SET epoch = excluded.epoch, codec = excluded.codec, body = excluded.body, at = clock_timestamp()
WHERE p.epoch <= excluded.epoch

-- name: partials
SELECT step, attempt, codec, body::text AS body FROM agentrun.partials p
WHERE run_id = %(run_id)s AND (%(step)s::int IS NULL OR step = %(step)s)
ORDER BY step, attempt
