-- Every statement that agentrun sends while it runs. Each name has one statement; `store/sql.py`
-- splits the file. Array parameters are sent in binary (%b). No statement is built at run time.

-- The statement `append`. (This stands above its name, so that it is not sent with the statement:
-- pg_stat_activity shows the first 1,024 bytes only.)
--
-- The only write path of the journal: group commit, fencing and the update of `runs`, in one
-- statement. It returns the runs whose rows were inserted; of any other run, no row was.
--
-- Fencing. A run's first row in the batch (its head, at seq n + 1) is inserted only if row n exists
-- with the same epoch (one less for a claim). Row n is committed and never changes, and
-- (run_id, seq) is unique. So of two workers that append at n + 1, one is refused, and a former
-- owner, whose epoch is older, is always refused.
--
-- The worker of row n is compared as well. A server that lost a claim in a failover may give the
-- same epoch to another worker.
--
-- Heads are sorted, so that all writers lock rows in one order. Otherwise the batches of two
-- processes deadlock.
--
-- The summary of a run is computed from its row before and from the batch. The row before is
-- complete, because the statement that inserted row n has changed it in the same commit.
--
-- The row of `runs` is locked against deletion (FOR KEY SHARE). Otherwise a run could be pruned at
-- the same time: the insert of a former owner would wait for the deletion of row n + 1, and then
-- find its place free.

-- name: append
WITH b AS MATERIALIZED (
    SELECT * FROM unnest(
        %(run_id)b::uuid[], %(seq)b::bigint[], %(head)b::boolean[], %(epoch)b::bigint[],
        %(worker)b::text[], %(event)b::text[], %(step)b::integer[], %(turn)b::integer[],
        %(kind)b::text[], %(name)b::text[], %(ident)b::text[], %(attempt)b::integer[],
        %(effect)b::text[], %(key)b::text[], %(status)b::text[], %(started_at)b::timestamptz[],
        %(fingerprint)b::text[], %(overlapping)b::boolean[], %(model)b::text[],
        %(input_tokens)b::integer[], %(output_tokens)b::integer[], %(cached_tokens)b::integer[],
        %(cache_write_tokens)b::integer[], %(cache_lost_tokens)b::integer[],
        %(reasoning_tokens)b::integer[], %(audio_tokens)b::integer[], %(cost)b::text[],
        %(cache_lost)b::text[], %(priced_by)b::text[],
        %(by)b::text[], %(reason)b::text[], %(wake_at)b::timestamptz[], %(codec)b::smallint[],
        %(masked)b::text[], %(parked_for)b::text[], %(input)b::text[], %(output)b::text[],
        %(run_status)b::text[], %(message)b::text[]
    ) AS b(run_id, seq, head, epoch, worker, event, step, turn, kind, name, ident, attempt,
           effect, key, status, started_at, fingerprint, overlapping, model, input_tokens,
           output_tokens, cached_tokens, cache_write_tokens, cache_lost_tokens, reasoning_tokens,
           audio_tokens, cost, cache_lost, priced_by, by,
           reason, wake_at, codec, masked, parked_for, input, output, run_status, message)
),
heads AS (
    INSERT INTO agentrun.journal (
        run_id, seq, epoch, worker, batch, event, step, turn, kind, name, ident, attempt, effect,
        key, status, started_at, fingerprint, overlapping, model, input_tokens, output_tokens,
        cached_tokens, cache_write_tokens, cache_lost_tokens, reasoning_tokens, audio_tokens, cost,
        cache_lost, priced_by, by, reason, wake_at,
        codec, masked, parked_for, input, output)
    SELECT
        run_id, seq, epoch, worker, %(batch)s::uuid, event, step, turn, kind, name, ident, attempt,
        effect, key, status, started_at, fingerprint, overlapping, model, input_tokens,
        output_tokens, cached_tokens, cache_write_tokens, cache_lost_tokens, reasoning_tokens,
        audio_tokens, cost::numeric, cache_lost::numeric, priced_by,
        by, reason, wake_at, codec, masked::json, parked_for, input::json, output::json
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
        cached_tokens, cache_write_tokens, cache_lost_tokens, reasoning_tokens, audio_tokens, cost,
        cache_lost, priced_by, by, reason, wake_at,
        codec, masked, parked_for, input, output)
    SELECT
        run_id, seq, epoch, worker, %(batch)s::uuid, event, step, turn, kind, name, ident, attempt,
        effect, key, status, started_at, fingerprint, overlapping, model, input_tokens,
        output_tokens, cached_tokens, cache_write_tokens, cache_lost_tokens, reasoning_tokens,
        audio_tokens, cost::numeric, cache_lost::numeric, priced_by,
        by, reason, wake_at, codec, masked::json, parked_for, input::json, output::json
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
kept AS (
    INSERT INTO agentrun.exact_values (run_id, part, name, escaped, size, zstd)
    SELECT x.run_id, x.part, x.name, x.escaped, x.size, x.zstd
    FROM unnest(%(exact_run)b::uuid[], %(exact_part)b::text[], %(exact_name)b::text[],
                %(exact_escaped)b::boolean[], %(exact_size)b::bigint[], %(exact_zstd)b::bytea[])
         AS x(run_id, part, name, escaped, size, zstd)
    JOIN heads USING (run_id)
    ON CONFLICT (run_id, part, name) DO NOTHING
),
moved AS (
    UPDATE agentrun.runs r
    SET status = b.run_status,
        owner = CASE WHEN b.run_status = 'running' THEN b.worker END,
        epoch = b.epoch,
        wake_at = b.wake_at,
        parked_for = b.parked_for,
        parked_step = CASE WHEN b.event = 'parked' THEN b.step END,
        reason = CASE WHEN b.event IN ('parked', 'run_failed', 'run_cancelled') THEN b.reason END,
        changed_at = clock_timestamp()
    FROM b JOIN heads USING (run_id)
    WHERE r.run_id = b.run_id AND b.run_status IS NOT NULL
),
outcomes AS (
    SELECT *, event IN ('step_finished', 'attempt_failed') AND kind = 'model' AS is_call,
           event = 'run_failed'
               OR event = 'step_finished' AND status = 'error'
               AND NOT (codec & 8 = 0 AND agentrun.is_control_flow(output::json)) AS is_error
    FROM b JOIN heads USING (run_id)
    WHERE run_status IS NOT NULL OR message IS NOT NULL OR event = 'claimed'
       OR event IN ('step_finished', 'attempt_failed') AND (kind = 'model' OR status = 'error')
),
failures AS (
    SELECT DISTINCT ON (run_id) run_id, event,
           CASE WHEN event = 'run_failed' AND step IS NULL AND codec & 8 = 0
                THEN (output::json ->> 'reply')::integer ELSE step END AS step,
           CASE WHEN codec & 8 = 0 THEN agentrun.error_type(output::json) ELSE 'Error' END AS type,
           CASE WHEN codec & 8 = 0 THEN agentrun.error_text(output::json) END AS text
    FROM outcomes WHERE is_error
    ORDER BY run_id, event <> 'run_failed', CASE event WHEN 'run_failed' THEN -seq ELSE seq END
),
sums AS (
    SELECT run_id,
           max(turn) FILTER (WHERE event = 'step_finished' AND is_call) AS turns,
           count(*) FILTER (WHERE event = 'step_finished' AND is_call) AS model_calls,
           sum(input_tokens) FILTER (WHERE is_call) AS input_tokens,
           sum(output_tokens) FILTER (WHERE is_call) AS output_tokens,
           sum(cached_tokens) FILTER (WHERE is_call) AS cached_tokens,
           sum(reasoning_tokens) FILTER (WHERE is_call) AS reasoning_tokens,
           sum(cost::numeric) FILTER (WHERE is_call) AS cost,
           count(*) FILTER (
               WHERE is_call AND cost IS NULL
               AND (effect IS DISTINCT FROM 'read' OR input_tokens IS NOT NULL)
               AND CASE WHEN codec & 8 = 0
                        THEN NOT agentrun.goes_on(event, codec, output::json) ELSE true END
               AND agentrun.billing(event, status, codec, output::json, NULL, input_tokens)
                   = 'unpriced') AS unpriced,
           max(run_status) AS run_status,
           max(seq) FILTER (WHERE event = 'claimed') AS claim,
           (array_agg(message ORDER BY seq DESC) FILTER (WHERE message IS NOT NULL))[1] AS message
    FROM outcomes GROUP BY run_id
),
summed AS (
    INSERT INTO agentrun.summaries (
        run_id, turns, model_calls, input_tokens, output_tokens, cached_tokens, reasoning_tokens,
        cost, unpriced, started_at, working_seconds, waiting_seconds, is_working, since,
        failed_step, error_type, error, last_message)
    SELECT
        n.run_id, greatest(o.turns, n.turns, 0), coalesce(o.model_calls, 0) + n.model_calls,
        coalesce(o.input_tokens, 0) + coalesce(n.input_tokens, 0),
        coalesce(o.output_tokens, 0) + coalesce(n.output_tokens, 0),
        coalesce(o.cached_tokens, 0) + coalesce(n.cached_tokens, 0),
        coalesce(o.reasoning_tokens, 0) + coalesce(n.reasoning_tokens, 0),
        coalesce(o.cost, 0) + coalesce(n.cost, 0), coalesce(o.unpriced, 0) + n.unpriced,
        coalesce(o.started_at, t.now),
        coalesce(o.working_seconds, 0) + coalesce(extract(epoch FROM t.stopped - o.since), 0),
        coalesce(o.waiting_seconds, 0)
            + CASE WHEN n.run_status IS NULL THEN 0
                   ELSE coalesce(extract(epoch FROM t.now - coalesce(t.stopped, o.since)), 0) END,
        CASE WHEN n.run_status IS NULL THEN coalesce(o.is_working, false)
             ELSE n.run_status = 'running' END,
        CASE WHEN n.run_status IS NULL THEN o.since
             WHEN n.run_status IN ('done', 'failed', 'cancelled') THEN NULL ELSE t.now END,
        CASE WHEN f.event = 'run_failed' OR o.error_type IS NULL THEN f.step ELSE o.failed_step END,
        CASE WHEN f.event = 'run_failed' OR o.error_type IS NULL THEN f.type ELSE o.error_type END,
        CASE WHEN f.event = 'run_failed' OR o.error_type IS NULL THEN f.text ELSE o.error END,
        coalesce(n.message, o.last_message)
    FROM sums n
    LEFT JOIN agentrun.summaries o USING (run_id)
    LEFT JOIN failures f USING (run_id)
    CROSS JOIN LATERAL (SELECT clock_timestamp() AS now) c
    CROSS JOIN LATERAL (
        SELECT c.now, CASE
            WHEN o.is_working IS NOT TRUE OR n.run_status IS NULL THEN NULL
            WHEN n.claim IS NULL THEN c.now
            -- The process before was killed. It has worked until it wrote its last row.
            ELSE (SELECT p.at FROM agentrun.journal p
                  WHERE p.run_id = n.run_id AND p.seq = n.claim - 1)
        END AS stopped
    ) t
    ORDER BY n.run_id
    ON CONFLICT (run_id) DO UPDATE SET (
        turns, model_calls, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost,
        unpriced, working_seconds, waiting_seconds, is_working, since, failed_step, error_type,
        error, last_message) = (
        excluded.turns, excluded.model_calls, excluded.input_tokens, excluded.output_tokens,
        excluded.cached_tokens, excluded.reasoning_tokens, excluded.cost, excluded.unpriced,
        excluded.working_seconds, excluded.waiting_seconds, excluded.is_working, excluded.since,
        excluded.failed_step, excluded.error_type, excluded.error, excluded.last_message)
)
SELECT run_id FROM heads

-- name: append_plain
-- `append` for one or two rows of one run that change neither `runs` nor `summaries` and have no
-- payloads. The
-- steps of a run that executes alone are such rows; this statement costs a quarter of `append`.
-- It checks the row before once for both. If a seq is taken, unique_violation rejects both rows.
-- Every parameter is sent as text, so that one prepared statement serves whatever is NULL.
INSERT INTO agentrun.journal (
    run_id, seq, epoch, worker, batch,
    event, step, turn, kind, name, ident, attempt, effect, key, status, started_at, fingerprint,
    overlapping, model, by, reason, wake_at, input_tokens, output_tokens, cached_tokens,
    cache_write_tokens, cache_lost_tokens,
    reasoning_tokens, audio_tokens, cost, cache_lost, priced_by, codec, input, output)
SELECT
    %(run)s::uuid, %(first)s::bigint + b.n, %(epoch)s::bigint, %(worker)s::text, %(batch)s::uuid,
    event, step, turn, kind, name, ident, attempt, effect, key, status, started_at, fingerprint,
    overlapping, model, by, reason, wake_at, input_tokens, output_tokens, cached_tokens,
    cache_write_tokens, cache_lost_tokens,
    reasoning_tokens, audio_tokens, cost, cache_lost, priced_by, codec, input, output
FROM (VALUES
    (0, %(event_1)s::text, %(step_1)s::integer, %(turn_1)s::integer, %(kind_1)s::text,
         %(name_1)s::text, %(ident_1)s::text, %(attempt_1)s::integer, %(effect_1)s::text,
         %(key_1)s::text, %(status_1)s::text, %(started_at_1)s::timestamptz,
         %(fingerprint_1)s::text, %(overlapping_1)s::boolean, %(model_1)s::text, %(by_1)s::text,
         %(reason_1)s::text, %(wake_at_1)s::timestamptz, %(input_tokens_1)s::integer,
         %(output_tokens_1)s::integer, %(cached_tokens_1)s::integer,
         %(cache_write_tokens_1)s::integer, %(cache_lost_tokens_1)s::integer,
         %(reasoning_tokens_1)s::integer, %(audio_tokens_1)s::integer, %(cost_1)s::numeric,
         %(cache_lost_1)s::numeric,
         %(priced_by_1)s::text, %(codec_1)s::smallint, %(input_1)s::json, %(output_1)s::json),
    (1, %(event_2)s::text, %(step_2)s::integer, %(turn_2)s::integer, %(kind_2)s::text,
         %(name_2)s::text, %(ident_2)s::text, %(attempt_2)s::integer, %(effect_2)s::text,
         %(key_2)s::text, %(status_2)s::text, %(started_at_2)s::timestamptz,
         %(fingerprint_2)s::text, %(overlapping_2)s::boolean, %(model_2)s::text, %(by_2)s::text,
         %(reason_2)s::text, %(wake_at_2)s::timestamptz, %(input_tokens_2)s::integer,
         %(output_tokens_2)s::integer, %(cached_tokens_2)s::integer,
         %(cache_write_tokens_2)s::integer, %(cache_lost_tokens_2)s::integer,
         %(reasoning_tokens_2)s::integer, %(audio_tokens_2)s::integer, %(cost_2)s::numeric,
         %(cache_lost_2)s::numeric,
         %(priced_by_2)s::text, %(codec_2)s::smallint, %(input_2)s::json, %(output_2)s::json)
    ) AS b(
        n, event, step, turn, kind, name, ident, attempt, effect, key, status, started_at,
        fingerprint, overlapping, model, by, reason, wake_at, input_tokens, output_tokens,
        cached_tokens, cache_write_tokens, cache_lost_tokens, reasoning_tokens, audio_tokens, cost,
        cache_lost, priced_by, codec, input, output)
WHERE b.n < %(rows)s::integer AND EXISTS (
    SELECT FROM agentrun.journal p
    WHERE p.run_id = %(run)s::uuid AND p.seq = %(first)s::bigint - 1
      AND p.worker = %(worker)s::text AND p.epoch = %(epoch)s::bigint)
  AND EXISTS (SELECT FROM agentrun.runs r WHERE r.run_id = %(run)s::uuid FOR KEY SHARE)

-- name: settled
-- After a lost answer: the runs whose head in the journal carries this batch's nonce.
SELECT j.run_id FROM agentrun.journal j
JOIN unnest(%(run_id)b::uuid[], %(seq)b::bigint[]) AS h(run_id, seq) USING (run_id, seq)
WHERE j.batch = %(batch)s

-- name: cut_short
-- Of refused runs, those whose previous row is missing although it was acknowledged: the server
-- lost it. A pruned run is not among them, since another worker has finished it.
SELECT h.run_id
FROM unnest(%(run_id)b::uuid[], %(seq)b::bigint[], %(epoch)b::bigint[], %(worker)b::text[])
    AS h(run_id, seq, epoch, worker)
WHERE NOT EXISTS (
    SELECT FROM agentrun.journal p
    WHERE p.run_id = h.run_id AND p.seq = h.seq - 1 AND p.epoch = h.epoch AND p.worker = h.worker)
  AND NOT EXISTS (SELECT FROM agentrun.tombstones t WHERE t.run_id = h.run_id)

-- name: settle_soon
-- Executed before a tool's COMMIT. If the COMMIT never arrives, the server ends the transaction.
-- Otherwise the row at its seq would stay locked until the server notices that the client is gone.
SELECT set_config('idle_in_transaction_session_timeout', %(milliseconds)s, true)

-- name: create
-- Create a run and its first event. If a run or a tombstone has the key, nothing is created.
-- A child run locks its parent, so that the parent is not pruned at the same time.
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
                                  key, codec, masked, input)
    SELECT run_id, 1, 0, %(worker)s, %(batch)s, 'created', %(agent)s, %(fingerprint)s,
           %(key)s, %(codec)s, %(masked)s::text::json, %(input)s::text::json
    FROM created
), stored AS (
    INSERT INTO agentrun.payloads (run_id, digest, size, zstd, blob)
    SELECT created.run_id, p.digest, p.size, p.zstd, p.blob
    FROM created, unnest(%(payload_digest)b::text[], %(payload_size)b::bigint[],
                         %(payload_zstd)b::bytea[], %(payload_blob)b::text[])
                  AS p(digest, size, zstd, blob)
), kept AS (
    INSERT INTO agentrun.exact_values (run_id, part, name, escaped, size, zstd)
    SELECT created.run_id, x.part, x.name, x.escaped, x.size, x.zstd
    FROM created, unnest(%(exact_part)b::text[], %(exact_name)b::text[],
                         %(exact_escaped)b::boolean[], %(exact_size)b::bigint[],
                         %(exact_zstd)b::bytea[])
                  AS x(part, name, escaped, size, zstd)
), budgeted AS (
    INSERT INTO agentrun.budgets (
        run_id, usd, tokens, turns, model_calls, tool_calls, wall, on_exhausted)
    SELECT created.run_id, l.usd, l.tokens, l.turns, l.model_calls, l.tool_calls, l.wall,
           l.on_exhausted
    FROM created, json_populate_record(NULL::agentrun.budgets, %(budget)s::text::json) l
    WHERE %(budget)s::text IS NOT NULL
)
SELECT run_id FROM created

-- name: run
-- One run by key. `due`: its wake time has come, or a letter has set the wake time.
SELECT r.run_id, r.key, r.agent, r.status, r.owner, r.epoch, r.parked_for, r.parked_step,
       r.reason, r.created_at, r.changed_at, coalesce(r.wake_at <= clock_timestamp(), false) AS due,
       (SELECT c.fingerprint FROM agentrun.journal c WHERE c.run_id = r.run_id AND c.seq = 1)
           AS fingerprint
FROM agentrun.runs r WHERE r.key = %(key)s

-- name: open_children
-- The child runs of a run that have not ended.
SELECT key FROM agentrun.runs
WHERE parent = %(run_id)s AND status IN ('queued', 'running', 'waiting', 'held') ORDER BY key

-- name: relatives
-- The parent of a run and the cost of its tree, in a row for each of its child runs, the oldest
-- first. A run without child runs has one row, whose `key` is null.
SELECT p.key AS parent, tree.cost AS tree_cost, c.key, c.status, coalesce(s.cost, 0) AS cost
FROM agentrun.runs r
LEFT JOIN agentrun.runs p ON p.run_id = r.parent
LEFT JOIN agentrun.runs c ON c.parent = r.run_id
LEFT JOIN agentrun.summaries s ON s.run_id = c.run_id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(s.cost), 0) AS cost
    FROM agentrun.tree(r.run_id) t LEFT JOIN agentrun.summaries s USING (run_id)
) tree
WHERE r.run_id = %(run_id)s ORDER BY c.created_at, c.key

-- name: keys
-- Keys that begin with a prefix (for commands that accept a unique prefix), newest first.
SELECT key FROM agentrun.runs WHERE starts_with(key, %(prefix)s)
ORDER BY created_at DESC LIMIT %(limit)s

-- name: now
SELECT clock_timestamp() AS now

-- name: runs
-- Runs with their summaries, the newest first. The rows after a cursor are found in the index.
-- A process that was killed has worked until it wrote its last row.
-- `decided_at`: every question of the run to a person is decided, and no worker has read that yet.
SELECT r.*, p.key AS parent_key, coalesce(top.key, r.key) AS root_key, tree.children,
       tree.cost AS tree_cost,
       CASE WHEN r.status IN ('queued', 'waiting', 'held')
            AND NOT EXISTS (SELECT FROM agentrun.inbox i WHERE i.run_id = r.run_id)
            THEN (SELECT max(d.decided_at) FROM agentrun.decided d WHERE d.run_id = r.run_id)
       END AS decided_at
FROM (
    SELECT r.run_id, r.key, r.agent, r.status, r.reason, r.owner, r.parent, r.created_at,
           r.changed_at, s.started_at,
           CASE WHEN r.status IN ('done', 'failed', 'cancelled') THEN r.changed_at END
               AS finished_at,
           coalesce(s.turns, 0) AS turns, coalesce(s.model_calls, 0) AS model_calls,
           coalesce(s.input_tokens, 0) AS input_tokens,
           coalesce(s.output_tokens, 0) AS output_tokens,
           coalesce(s.cached_tokens, 0) AS cached_tokens,
           coalesce(s.reasoning_tokens, 0) AS reasoning_tokens,
           coalesce(s.cost, 0) AS cost, coalesce(s.unpriced, 0) AS unpriced,
           coalesce(s.working_seconds, 0)
               + coalesce(extract(epoch FROM till.worked - s.since)::float8, 0) AS working_seconds,
           coalesce(s.waiting_seconds, 0)
               + coalesce(extract(epoch FROM now.now - coalesce(till.worked, s.since))::float8, 0)
               + extract(epoch FROM coalesce(s.started_at, now.now) - r.created_at)::float8
               AS waiting_seconds,
           s.failed_step, s.error_type, s.error, s.last_message, now.owner_dead
    FROM agentrun.runs r
    LEFT JOIN agentrun.summaries s USING (run_id)
    LEFT JOIN agentrun.workers w ON w.worker = r.owner
    CROSS JOIN LATERAL (
        SELECT clock_timestamp() AS now,
               w.dead_at IS NOT NULL OR w.beat_at + w.lease < clock_timestamp() AS owner_dead
    ) now
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN s.is_working AND now.owner_dead THEN (
                SELECT j.at FROM agentrun.journal j
                WHERE j.run_id = r.run_id ORDER BY j.seq DESC LIMIT 1)
            WHEN s.is_working THEN now.now
        END AS worked
    ) till
    WHERE (%(status)s::text[] IS NULL OR r.status = ANY (%(status)s))
      AND (%(key)s::text IS NULL OR r.key = %(key)s)
      AND (%(agent)s::text IS NULL OR r.agent = %(agent)s)
      AND (%(since)s::timestamptz IS NULL OR r.created_at >= %(since)s)
      AND (%(until)s::timestamptz IS NULL OR r.created_at < %(until)s)
      AND (%(after_at)s::timestamptz IS NULL
           OR (r.created_at, r.run_id) < (%(after_at)s, %(after_id)s::uuid))
      AND (%(min_cost)s::numeric IS NULL OR s.cost >= %(min_cost)s)
      AND (%(error)s::text IS NULL OR s.error_type = %(error)s
           OR split_part(s.error_type, '.', -1) = %(error)s)
      AND (%(text)s::text IS NULL OR position(lower(%(text)s) IN lower(concat_ws(
          chr(10), r.key, r.agent, r.reason, s.error_type, s.error, s.last_message))) > 0)
      AND (NOT %(roots)s OR r.parent IS NULL)
      -- An array, because few runs are expected in it: they are found by their keys.
      AND (%(root)s::text IS NULL OR r.run_id = ANY (ARRAY(
          SELECT t.run_id FROM agentrun.runs top CROSS JOIN agentrun.tree(top.run_id) t
          WHERE top.key = %(root)s)))
    ORDER BY r.created_at DESC, r.run_id DESC LIMIT %(limit)s
) r
LEFT JOIN agentrun.runs p ON p.run_id = r.parent
LEFT JOIN agentrun.runs top ON r.parent IS NOT NULL AND top.run_id = agentrun.top(r.run_id)
CROSS JOIN LATERAL (
    SELECT count(*) - 1 AS children, coalesce(sum(s.cost), 0) AS cost
    FROM agentrun.tree(r.run_id) t LEFT JOIN agentrun.summaries s USING (run_id)
) tree
ORDER BY r.created_at DESC, r.run_id DESC

-- name: is_decided
-- Whether every question of a run to a person is decided, and no worker has read the decision yet.
SELECT EXISTS (SELECT FROM agentrun.decided d WHERE d.run_id = %(run_id)s)
   AND NOT EXISTS (SELECT FROM agentrun.inbox i WHERE i.run_id = %(run_id)s) AS yes

-- name: owner_lost
-- Whether a run's owner is dead, so that its effects in flight have no outcome.
SELECT r.status = 'running' AND NOT EXISTS (
    SELECT FROM agentrun.workers w WHERE w.worker = r.owner AND w.dead_at IS NULL
    AND w.beat_at + w.lease >= clock_timestamp()) AS lost
FROM agentrun.runs r WHERE r.run_id = %(run_id)s

-- name: events
-- The journal of one run after a seq, in order. This is the only read path.
SELECT run_id, seq, epoch, worker, event, at, step, turn, kind, name, ident, attempt, effect, key,
       status, started_at, fingerprint, overlapping, model, input_tokens, output_tokens,
       cached_tokens, cache_write_tokens, cache_lost_tokens, reasoning_tokens, audio_tokens, cost,
       cache_lost, priced_by, by, reason, wake_at, codec,
       masked, parked_for, input::text AS input, output::text AS output
FROM agentrun.journal WHERE run_id = %(run_id)s AND seq > %(after)s ORDER BY seq

-- name: exact_values
-- Exact values of masked ones: of some parts of a run, or of one name in them.
SELECT part, name, escaped, size, zstd FROM agentrun.exact_values
WHERE run_id = %(run_id)s AND part = ANY(%(parts)s) AND (%(place)s::text IS NULL OR name = %(place)s)

-- name: mask_key
SELECT key FROM agentrun.mask_key

-- name: payload
SELECT size, zstd, blob FROM agentrun.payloads WHERE run_id = %(run_id)s AND digest = %(digest)s

-- name: tail
-- The last event of a run, which a claim must follow.
SELECT seq, epoch FROM agentrun.journal WHERE run_id = %(run_id)s ORDER BY seq DESC LIMIT 1

-- name: register
-- Register a worker. `direct` is false behind a pooler: the session is then the pooler's, and may
-- be older than the worker's first contact with the server.
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
-- If no row is returned, this worker was declared dead, which is final.
UPDATE agentrun.workers
SET beat_at = clock_timestamp(), pending = %(pending)s, slowest_commit = %(slowest)s
WHERE worker = %(worker)s AND dead_at IS NULL RETURNING clock_timestamp() AS now

-- name: owner
-- The state of a worker, by the database's clock. No worker can beat while the server is down, so
-- the lease counts from the server's start if that is later than the beat. A server that came out
-- of recovery may be a promoted standby, which started long ago. For a worker that has not
-- registered there yet, the lease counts from the first registration of any worker.
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
-- Declare a worker dead, if it has not beaten since its row was read. Its runs are claimed after
-- that, never before.
UPDATE agentrun.workers SET dead_at = clock_timestamp(), cause = %(cause)s
WHERE worker = %(worker)s AND beat_at = %(beat_at)s AND dead_at IS NULL RETURNING worker

-- name: stop_worker
UPDATE agentrun.workers SET dead_at = clock_timestamp(), cause = 'stopped'
WHERE worker = %(worker)s AND dead_at IS NULL

-- name: keep_late
-- Store an answer that arrived after its worker lost the run. The run's owner may adopt it.
WITH run AS (
    SELECT run_id FROM agentrun.runs WHERE run_id = %(run_id)s FOR KEY SHARE
), stored AS (
    INSERT INTO agentrun.payloads (run_id, digest, size, zstd, blob)
    SELECT run.run_id, p.digest, p.size, p.zstd, p.blob
    FROM run, unnest(%(payload_digest)b::text[], %(payload_size)b::bigint[],
                     %(payload_zstd)b::bytea[], %(payload_blob)b::text[])
              AS p(digest, size, zstd, blob)
    ON CONFLICT DO NOTHING
), kept AS (
    INSERT INTO agentrun.exact_values (run_id, part, name, escaped, size, zstd)
    SELECT run.run_id, x.part, x.name, x.escaped, x.size, x.zstd
    FROM run, unnest(%(exact_part)b::text[], %(exact_name)b::text[], %(exact_escaped)b::boolean[],
                     %(exact_size)b::bigint[], %(exact_zstd)b::bytea[])
              AS x(part, name, escaped, size, zstd)
    ON CONFLICT DO NOTHING
)
INSERT INTO agentrun.late_results (
    run_id, step, attempt, worker, status, codec, output, model, input_tokens, output_tokens,
    cached_tokens, cache_write_tokens, cache_lost_tokens, reasoning_tokens, audio_tokens, cost,
    cache_lost, priced_by)
SELECT run_id, %(step)s, %(attempt)s, %(worker)s, %(status)s, %(codec)s, %(output)s::text::json,
       %(model)s, %(input_tokens)s, %(output_tokens)s, %(cached_tokens)s, %(cache_write_tokens)s,
       %(cache_lost_tokens)s, %(reasoning_tokens)s,
       %(audio_tokens)s, %(cost)s, %(cache_lost)s, %(priced_by)s
FROM run
ON CONFLICT DO NOTHING

-- name: late
SELECT attempt, worker, status, codec, output::text AS output, model, input_tokens, output_tokens,
       cached_tokens, cache_write_tokens, cache_lost_tokens, reasoning_tokens, audio_tokens, cost,
       cache_lost, priced_by
FROM agentrun.late_results
WHERE run_id = %(run_id)s AND step = %(step)s AND attempt <= %(attempt)s
ORDER BY attempt LIMIT 1

-- name: send_mail
SELECT agentrun.send(%(key)s, %(kind)s, %(step)s, %(payload)s::text::json, %(claimed_by)s,
                     %(reason)s, %(codec)s::smallint, %(id)s, %(fingerprint)s, %(signed_by)s) AS id

-- name: send_masked_mail
-- `send_mail` with a masked payload for people, and the exact payload for the run.
WITH letter AS MATERIALIZED (
    SELECT agentrun.send(%(key)s, %(kind)s, %(step)s, %(payload)s::text::json, %(claimed_by)s,
                         %(reason)s, %(codec)s::smallint, %(id)s, %(fingerprint)s,
                         %(signed_by)s) AS id
), kept AS (
    INSERT INTO agentrun.exact_values (run_id, part, name, escaped, size, zstd)
    SELECT r.run_id, 'mail', letter.id::text, %(escaped)s, %(size)s, %(zstd)s
    FROM letter, agentrun.runs r WHERE r.key = %(key)s
    ON CONFLICT DO NOTHING
)
SELECT id FROM letter

-- name: mail
SELECT id, kind, step, answers, fingerprint, by, claimed_by, signed_by, reason, codec,
       payload::text AS payload, sent_at
FROM agentrun.mail WHERE run_id = %(run_id)s ORDER BY sent_at, id

-- name: backend
-- The pid of the session that answers; behind a pooler, it differs from the pid of the connection.
-- The settings undo defaults of the role or the database that would change our statements: how
-- values are returned (psycopg can only parse these formats), and how literals are parsed.
SELECT pg_backend_pid() AS pid,
       set_config('DateStyle', 'ISO, MDY', false), set_config('IntervalStyle', 'postgres', false),
       set_config('TimeZone', 'UTC', false), set_config('bytea_output', 'hex', false),
       set_config('extra_float_digits', '1', false), set_config('array_nulls', 'on', false),
       set_config('standard_conforming_strings', 'on', false),
       set_config('row_security', 'on', false)

-- name: plan_once
-- Plan each statement once, and use indexes. A plan made while the tables are empty would scan them
-- sequentially for ever. A new plan for each batch would take longer than its execution.
SELECT set_config('plan_cache_mode', 'force_generic_plan', false),
       set_config('enable_seqscan', 'off', false)

-- name: settings
SELECT current_setting('synchronous_commit') AS synchronous_commit,
       pg_is_in_recovery() AS standby

-- name: news
-- What a held run has not read yet: letters since about the time it parked (it has read older
-- ones), and late answers to attempts in doubt.
SELECT m.id::text AS id FROM agentrun.mail m JOIN agentrun.runs r USING (run_id)
WHERE m.run_id = %(run_id)s AND m.sent_at > r.changed_at - interval '10 seconds'
  AND NOT EXISTS (SELECT FROM agentrun.journal j
                  WHERE j.run_id = m.run_id AND j.event IN ('resolved', 'received')
                    AND j.key = m.id::text)
UNION ALL
SELECT l.worker FROM agentrun.late_results l JOIN agentrun.in_doubt d USING (run_id, step)
WHERE l.run_id = %(run_id)s

-- name: asked
-- The question of a run to a person at this step.
SELECT waits_for, name, args, fingerprint, suggested_budget FROM agentrun.asked
WHERE run_id = %(run_id)s AND step = %(step)s

-- name: taken
-- The last decision about a step that the run's journal has.
SELECT format('%%s %%s it %%s s ago', coalesce(m.signed_by, m.claimed_by, m.by, j.by),
              replace(j.status, '_', ' '), round(extract(epoch FROM clock_timestamp() - j.at)))
           AS decision
FROM agentrun.journal j LEFT JOIN agentrun.mail m ON m.run_id = j.run_id AND m.id::text = j.key
WHERE j.run_id = %(run_id)s AND j.step = %(step)s AND j.event = 'resolved'
  AND (j.status IN ('approved', 'rejected', 'expired')) <> %(doubt)s
ORDER BY j.seq DESC LIMIT 1

-- name: asking
-- The steps of a run that wait for a person's decision of this kind.
SELECT step FROM agentrun.asked
WHERE run_id = %(run_id)s AND waits_for = %(waits_for)s ORDER BY step

-- name: decided
-- Decisions that no worker has read yet, in one run or in all, the oldest first.
SELECT key, agent, step, name, args, decision, by, claimed_by, signed_by, reason, since, decided_at
FROM agentrun.decided
WHERE %(key)s::text IS NULL OR key = %(key)s
ORDER BY decided_at

-- name: inbox
-- Questions that wait for a person, in one run or in all, the oldest first.
SELECT key, agent, step, waits_for, name, effect, attempt, args, idempotency_key, reason, since,
       fingerprint, masked, suggested_budget
FROM agentrun.inbox
WHERE %(key)s::text IS NULL OR key = %(key)s
ORDER BY since

-- name: audit
-- Settings for a query of an auditor: names resolve as in the documentation, then in the user's own
-- schema; and the query has a time limit.
SELECT set_config('search_path', 'agentrun, public', true),
       set_config('statement_timeout', %(timeout)s, true)

-- name: relations
-- The tables and views of the schema, with their comments, for `\d`.
SELECT c.relname AS name, CASE WHEN c.relkind = 'v' THEN 'view' ELSE 'table' END AS kind,
       obj_description(c.oid, 'pg_class') AS holds
FROM pg_class c
WHERE c.relnamespace = 'agentrun'::regnamespace AND c.relkind IN ('r', 'p', 'v')
ORDER BY kind DESC, name

-- name: relation_columns
-- The columns of one table or view, with their comments, for `\d NAME`.
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
       col_description(c.oid, a.attnum) AS holds
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'agentrun'::regnamespace AND c.relkind IN ('r', 'p', 'v')
  AND c.relname = %(name)s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum

-- name: catalogue_names
-- The names that a query may use, for completion.
SELECT c.relname AS name FROM pg_class c
WHERE c.relnamespace = 'agentrun'::regnamespace AND c.relkind IN ('r', 'p', 'v')
UNION
SELECT a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'agentrun'::regnamespace AND c.relkind IN ('r', 'p', 'v')
  AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY name

-- name: server
-- The server, for `agentrun doctor`.
SELECT current_setting('server_version') AS version,
       current_setting('synchronous_commit') AS synchronous_commit,
       pg_is_in_recovery() AS standby,
       clock_timestamp() AS now

-- name: census
-- Workers and runs, for `agentrun doctor`. A worker that stopped by itself does not count as dead.
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
-- Dead rows, and whether autovacuum removes them, for `agentrun doctor`.
SELECT t.relname AS "table", t.n_live_tup AS live, t.n_dead_tup AS dead,
       coalesce(current_setting('autovacuum')::boolean AND current_setting('track_counts')::boolean
           AND o.enabled IS NOT false, false) AS autovacuum
FROM pg_stat_user_tables t JOIN pg_class c ON c.oid = t.relid
LEFT JOIN LATERAL (
    SELECT option_value::boolean AS enabled FROM pg_options_to_table(c.reloptions)
    WHERE option_name = 'autovacuum_enabled') o ON true
WHERE t.schemaname = 'agentrun' ORDER BY t.relname

-- name: oldest
-- The oldest transaction. Vacuum keeps the rows that were changed or deleted since, as the
-- transaction may still see them.
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
-- Runs that will not go on by themselves, and why: all of them for `agentrun doctor`, one key for
-- `agentrun watch`. A run that was queued just now is not stuck: `.run()` may be about to claim it.
WITH alive AS (
    SELECT worker, agents, queues FROM agentrun.workers
    WHERE dead_at IS NULL AND beat_at + lease >= clock_timestamp()
)
SELECT r.key, r.agent, r.queue, r.owner, r.reason, r.parked_step AS step, r.changed_at AS since,
       CASE r.status WHEN 'held' THEN 'held' WHEN 'running' THEN 'owner dead'
                     ELSE 'no worker' END AS why
FROM agentrun.runs r
WHERE r.status IN ('queued', 'running', 'waiting', 'held')
  AND (%(key)s::text IS NULL OR r.key = %(key)s)
  AND CASE r.status
      WHEN 'held' THEN true
      WHEN 'running' THEN NOT EXISTS (SELECT FROM alive a WHERE a.worker = r.owner)
      ELSE NOT EXISTS (
               SELECT FROM alive a WHERE r.agent = ANY(a.agents) AND r.queue = ANY(a.queues))
           AND coalesce(r.wake_at <= clock_timestamp(), r.status = 'queued')
           AND r.changed_at < clock_timestamp() - interval '2 s'
      END
ORDER BY r.changed_at LIMIT %(limit)s

-- name: wake
-- Make a run due that parked while a letter was on its way. Letters that its steps have read and
-- did not use, or would not read, do not count: the run would wake and park for ever.
UPDATE agentrun.runs r SET wake_at = clock_timestamp()
WHERE r.run_id = %(run_id)s AND r.status IN ('waiting', 'held')
  AND EXISTS (
      SELECT FROM agentrun.mail m WHERE m.run_id = r.run_id
      AND (m.kind = 'cancel' OR %(looked)s AND m.id <> ALL (%(seen)b::uuid[]))
      AND NOT EXISTS (SELECT FROM agentrun.journal j
                      WHERE j.run_id = m.run_id AND j.event IN ('resolved', 'received')
                        AND j.key = m.id::text))

-- name: response_ended
-- Make a run due that waits for this response of a provider, and notify the workers. A condition on
-- the status would let the plan scan all waiting runs instead of finding this one.
WITH due AS (
    UPDATE agentrun.runs r SET wake_at = clock_timestamp()
    FROM agentrun.journal a
    WHERE a.event = 'attempt_accepted' AND a.output ->> 'response' = %(response)s
      AND r.run_id = a.run_id AND r.parked_for = 'response'
      AND r.parked_step = a.step
    RETURNING r.key
)
SELECT key, pg_notify('agentrun', '')::text AS told FROM due

-- name: claim_ready
-- Claim some runs that are queued or due, for agents that this worker knows. Such a run has no
-- owner and no writer, so locking its row in `runs` first cannot deadlock with an append. Two
-- scans, `queued` and `due`, each use an index and end after the limit. Hence one scan for each
-- queue, as an index has no order across queues; and statement_timestamp(), as clock_timestamp()
-- may differ from row to row and cannot be searched in an index.
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
    RETURNING run_id, seq, epoch, at
), begun AS (
    INSERT INTO agentrun.summaries AS s (run_id, started_at, is_working, since)
    SELECT run_id, at, true, at FROM claimed
    ON CONFLICT (run_id) DO UPDATE SET
        waiting_seconds = s.waiting_seconds
            + coalesce(extract(epoch FROM excluded.since - s.since), 0),
        is_working = true, since = excluded.since
)
UPDATE agentrun.runs r
SET status = 'running', owner = %(worker)s, epoch = c.epoch, wake_at = NULL, parked_for = NULL,
    parked_step = NULL, reason = NULL, changed_at = clock_timestamp()
FROM claimed c WHERE r.run_id = c.run_id
RETURNING r.run_id, r.key, r.agent, c.epoch, c.seq

-- name: abandoned
-- Runs of agents that this worker knows whose owner has not beaten lately. Also runs that this
-- worker owns but does not execute: the answer to the claim was lost, or the last event was not
-- stored.
SELECT r.run_id, r.key, r.agent, r.status, r.owner, r.epoch, r.parked_for, r.parked_step, r.reason
FROM agentrun.runs r JOIN agentrun.workers w ON w.worker = r.owner
WHERE r.status = 'running' AND r.agent = ANY(%(agents)s) AND r.queue = ANY(%(queues)s)
  AND r.run_id <> ALL (%(here)b::uuid[])
  AND CASE WHEN r.owner = %(worker)s
      THEN r.changed_at < clock_timestamp() - interval '5 s'  -- otherwise it is about to begin
      ELSE w.dead_at IS NOT NULL OR w.beat_at < clock_timestamp() - w.lease * 0.2 END
ORDER BY r.changed_at LIMIT %(limit)s

-- name: diverged
-- Parked runs whose code diverged, and which this worker's code may fit: its version differs from
-- all versions that have tried since the run's last progress, or the worker was started after the
-- last try. `known`: agents that this process can execute as child runs.
SELECT r.run_id, r.key, r.agent, r.status, r.owner, r.epoch, r.parked_for, r.parked_step, r.reason
FROM agentrun.runs r
CROSS JOIN LATERAL (
    SELECT j.at, j.output -> 'divergence' -> 'versions' AS versions
    FROM agentrun.journal j WHERE j.run_id = r.run_id AND j.event = 'parked'
    ORDER BY j.seq DESC LIMIT 1
) p
WHERE r.status = 'held' AND r.parked_for = 'divergence'
  AND (r.agent = ANY(%(agents)s) OR r.parent IS NOT NULL AND r.agent = ANY(%(known)s))
  AND r.queue = ANY(%(queues)s) AND r.run_id <> ALL (%(here)b::uuid[])
  AND (p.at < %(started)s OR NOT coalesce(jsonb_exists(p.versions::jsonb, %(version)s), false))
ORDER BY r.changed_at LIMIT %(limit)s

-- name: diverged_runs
-- Parked runs whose code diverged, of one agent or of all, longest first.
SELECT r.key, r.agent, r.changed_at FROM agentrun.runs r
WHERE r.status = 'held' AND r.parked_for = 'divergence'
  AND (%(agent)s::text IS NULL OR r.agent = %(agent)s)
ORDER BY r.changed_at

-- name: fruitless
-- The number of claims at the end of a run's journal that made no progress. Steps of a child run
-- are progress of its parent too, whose own step only ends with the child. That a child parks once
-- more is no progress.
SELECT count(*)::int AS claims FROM agentrun.journal c
WHERE c.run_id = %(run_id)s AND c.event = 'claimed' AND c.at > coalesce((
    SELECT max(j.at) FROM agentrun.tree(%(run_id)s) t JOIN agentrun.journal j USING (run_id)
    WHERE j.event IN ('step_finished', 'received', 'resolved')
       OR j.run_id = %(run_id)s AND j.event IN ('parked', 'handed_back', 'resumed')
), '-infinity')

-- name: overlooked
-- Make runs due whose letter arrived at the moment they parked, and was missed: the worker that
-- parked the run died, or the letter was committed after the worker's second look. Any later letter
-- makes its run due by itself. `since`: letters before this time have been checked.
UPDATE agentrun.runs r SET wake_at = clock_timestamp()
FROM agentrun.mail m
WHERE m.sent_at > %(since)s
  AND m.run_id = r.run_id AND m.sent_at > r.changed_at - interval '10 seconds'
  AND r.status IN ('waiting', 'held') AND (r.wake_at IS NULL OR r.wake_at > clock_timestamp())
  AND NOT EXISTS (SELECT FROM agentrun.journal j
                  WHERE j.run_id = m.run_id AND j.event IN ('resolved', 'received')
                    AND j.key = m.id::text)

-- name: cancellations
-- The cancellations of these runs.
SELECT m.run_id, coalesce(m.claimed_by, m.by) AS by, m.reason FROM agentrun.mail m
WHERE m.run_id = ANY(%(runs)s) AND m.kind = 'cancel'

-- name: serving
-- Record which agents and queues this worker executes, for processes that wait for a run.
UPDATE agentrun.workers SET agents = %(agents)s, queues = %(queues)s WHERE worker = %(worker)s

-- name: servers
-- How many live workers know the agent of a run, how many of them take runs of its queue, and
-- whether one of them, or another process, has the run.
SELECT r.agent, r.queue, count(w.worker) FILTER (WHERE r.agent = ANY(w.agents))::int AS knowing,
       count(w.worker) FILTER (WHERE r.agent = ANY(w.agents) AND r.queue = ANY(w.queues))::int
           AS serving,
       coalesce(bool_or(w.worker = r.owner), false) AS owned
FROM agentrun.runs r
LEFT JOIN agentrun.workers w ON w.dead_at IS NULL AND w.beat_at + w.lease > clock_timestamp()
WHERE r.key = %(key)s
GROUP BY r.agent, r.queue

-- name: commented_columns
-- Each column of the schema's tables and views, with the comments of both. Views come first.
SELECT c.relname AS relation, CASE WHEN c.relkind = 'v' THEN 'view' ELSE 'table' END AS kind,
       coalesce(obj_description(c.oid, 'pg_class'), '') AS about, a.attname AS name,
       format_type(a.atttypid, a.atttypmod) AS type,
       coalesce(col_description(c.oid, a.attnum), '') AS holds
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'agentrun'::regnamespace AND c.relkind IN ('r', 'p', 'v')
  AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY 2 DESC, 1, a.attnum

-- name: spend_sums
-- What model calls cost in a time: in all, by day (UTC), by model, by agent and by tree of runs. One
-- pass over the view makes all sums. `by` says which sum a row is.
WITH RECURSIVE s AS MATERIALIZED (
    SELECT * FROM agentrun.spend
    WHERE at >= %(since)s AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
),
up AS (
    SELECT r.run_id AS below, r.parent, r.key
    FROM agentrun.runs r WHERE r.run_id IN (SELECT s.run_id FROM s)
    UNION ALL
    SELECT up.below, r.parent, r.key FROM up JOIN agentrun.runs r ON r.run_id = up.parent
),
calls AS (
    SELECT s.*, to_char(s.at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, up.key AS root,
           coalesce(s.model, '(unknown)') AS model_name
    FROM s JOIN up ON up.below = s.run_id AND up.parent IS NULL
)
SELECT CASE GROUPING(day, model_name, agent, root)
           WHEN 7 THEN 'day' WHEN 11 THEN 'model' WHEN 13 THEN 'agent' WHEN 14 THEN 'tree'
           ELSE 'all' END AS by,
       coalesce(day, model_name, agent, root, '') AS name,
       count(*) AS calls,
       coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
       coalesce(sum(output_tokens), 0)::bigint AS output_tokens,
       coalesce(sum(cached_tokens), 0)::bigint AS cached_tokens,
       coalesce(sum(cost), 0) AS cost,
       count(*) FILTER (WHERE billing = 'unpriced' OR billing = 'paid twice' AND cost IS NULL)
           AS unpriced,
       count(*) FILTER (WHERE billing = 'possibly billed') AS possibly_billed,
       count(*) FILTER (WHERE billing = 'running') AS running,
       count(*) FILTER (WHERE billing = 'paid twice') AS paid_twice,
       coalesce(sum(cache_lost), 0) AS cache_lost
FROM calls
GROUP BY GROUPING SETS ((day), (model_name), (agent), (root), ())
ORDER BY 1, coalesce(sum(cost), 0) DESC, 2

-- name: run_days
-- How many runs were created each day (UTC), by their status now.
SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, status, count(*) AS runs
FROM agentrun.runs
WHERE created_at >= %(since)s AND (%(agent)s::text IS NULL OR agent = %(agent)s)
  AND (NOT %(roots)s OR parent IS NULL)
GROUP BY 1, 2 ORDER BY 1, 2

-- name: notify
SELECT pg_notify('agentrun', '')

-- name: lock_tree
-- Lock a tree of runs for one reservation, until the end of the transaction. If the process stops
-- in the middle, the server ends the transaction; otherwise no other run of the tree could make a
-- call. The run is also protected from being pruned. If it was pruned before, nothing is locked.
SELECT set_config('idle_in_transaction_session_timeout', %(milliseconds)s, true),
       pg_advisory_xact_lock(hashtextextended('agentrun budget ' || agentrun.top(%(run_id)s), 0))
FROM agentrun.runs WHERE run_id = %(run_id)s FOR KEY SHARE

-- name: settle_tree
-- Settle the reservations of this tree whose calls have an outcome in the journal. A response that
-- goes on at its provider stays reserved until the run fetches it, with its usage.
UPDATE agentrun.reservations v
SET billing = o.billing,
    usd = CASE o.billing WHEN 'confirmed' THEN o.cost WHEN 'not billed' THEN 0 ELSE v.usd END,
    tokens = CASE WHEN o.billing = 'not billed' THEN 0
                  ELSE coalesce(o.input_tokens + coalesce(o.output_tokens, 0), v.tokens) END
FROM agentrun.tree(agentrun.top(%(run_id)s)) t
JOIN agentrun.reservations u ON u.run_id = t.run_id AND u.billing IN ('reserved', 'goes on')
CROSS JOIN LATERAL (
    -- The answer of this attempt may have arrived late. Or a late answer of an earlier attempt was
    -- adopted; then this attempt was not sent.
    SELECT agentrun.billing('step_finished', l.status, l.codec, l.output, l.cost, l.input_tokens)
               AS billing,
           l.cost, l.input_tokens, l.output_tokens
    FROM agentrun.late_results l
    WHERE l.run_id = u.run_id AND l.step = u.step AND l.attempt = u.attempt
    UNION ALL
    (SELECT CASE WHEN j.attempt < u.attempt THEN 'not billed'
                 WHEN k.billing IS NOT NULL THEN k.billing
                 WHEN agentrun.goes_on(j.event, j.codec, j.output) THEN 'goes on'
                 ELSE agentrun.billing(
                     j.event, j.status, j.codec, j.output, j.cost, j.input_tokens) END,
           coalesce(k.cost, j.cost), coalesce(k.input_tokens, j.input_tokens),
           coalesce(k.output_tokens, j.output_tokens)
    FROM agentrun.journal j
    LEFT JOIN LATERAL agentrun.look(j.run_id, j.output) k
        ON agentrun.goes_on(j.event, j.codec, j.output)
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
  AND v.billing <> o.billing

-- name: budgets
-- The budgets of a run and its ancestors, the outermost first, and how much of each its tree has
-- used. The attempt that needs the reservation is left out of the sums, its whole step out of the
-- number of model calls, and its turn out of the number of turns.
WITH RECURSIVE above AS (
    SELECT r.run_id, r.parent, 0 AS height FROM agentrun.runs r WHERE r.run_id = %(run_id)s
    UNION ALL
    SELECT r.run_id, r.parent, a.height + 1
    FROM above a JOIN agentrun.runs r ON r.run_id = a.parent
)
SELECT a.run_id, r.key, b.usd, b.tokens, b.turns, b.model_calls, b.tool_calls, b.wall,
       b.on_exhausted, s.*,
       (SELECT count(*) FROM agentrun.tree(a.run_id) t JOIN agentrun.counted_calls c USING (run_id))
           AS used_tool_calls,
       extract(epoch FROM clock_timestamp() - r.created_at)::float8 AS used_wall
FROM above a JOIN agentrun.budgets b USING (run_id) JOIN agentrun.runs r USING (run_id)
CROSS JOIN LATERAL (
    SELECT coalesce(sum(v.usd) FILTER (WHERE v.other), 0) AS used_usd,
           coalesce(sum(v.tokens) FILTER (WHERE v.other), 0)::bigint AS used_tokens,
           coalesce(sum(v.usd) FILTER (WHERE v.other AND v.billing <> 'confirmed'), 0) AS open_usd,
           count(DISTINCT (v.run_id, v.turn)) FILTER (
               WHERE (v.run_id, v.turn) IS DISTINCT FROM (%(run_id)s::uuid,
               %(turn)s::int)) AS used_turns,
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
-- Store a reservation. Executed again after a lost answer, and by the next owner of a run that was
-- lost before its intent.
INSERT INTO agentrun.reservations (run_id, step, attempt, turn, epoch, usd, tokens)
SELECT run_id, %(step)s, %(attempt)s, %(turn)s, %(epoch)s, %(usd)s, %(used)s
FROM agentrun.runs WHERE run_id = %(run_id)s
ON CONFLICT (run_id, step, attempt) DO UPDATE
SET epoch = excluded.epoch, usd = excluded.usd, tokens = excluded.tokens
WHERE reservations.epoch <= excluded.epoch AND reservations.billing = 'reserved'

-- name: counted
-- Which of these tool calls are counted already.
SELECT key FROM agentrun.counted_calls
WHERE run_id = %(run_id)s AND key = ANY(%(keys)s)

-- name: count_calls
-- Count tool calls, if the epoch is the run's: a former owner will make none of them.
INSERT INTO agentrun.counted_calls (run_id, key, epoch)
SELECT r.run_id, k.key, r.epoch FROM agentrun.runs r, unnest(%(keys)s::text[]) k (key)
WHERE r.run_id = %(run_id)s AND r.epoch = %(epoch)s
ON CONFLICT (run_id, key) DO NOTHING

-- name: raise_budget
-- Raise a budget, if the run has one, to these limits, and send a letter to the other runs of its
-- tree that wait for that.
WITH raised AS (
    UPDATE agentrun.budgets b
    SET usd = greatest(b.usd, l.usd), tokens = greatest(b.tokens, l.tokens),
        turns = greatest(b.turns, l.turns), wall = greatest(b.wall, l.wall),
        model_calls = greatest(b.model_calls, l.model_calls),
        tool_calls = greatest(b.tool_calls, l.tool_calls)
    FROM json_populate_record(NULL::agentrun.budgets, %(budget)s::text::json) l
    WHERE b.run_id = %(holder)s
    RETURNING b.run_id
)
SELECT EXISTS (SELECT FROM raised) AS raised,
       count(agentrun.send(r.key, 'budget', q.step, '{}', %(by)s, %(reason)s)) AS told
FROM raised, agentrun.tree(%(holder)s) t JOIN agentrun.runs r USING (run_id)
CROSS JOIN LATERAL (
    SELECT j.step, (array_agg(j.event ORDER BY j.seq DESC))[1] AS last
    FROM agentrun.journal j WHERE j.run_id = r.run_id AND j.kind IN ('model', 'tool')
    GROUP BY j.step
) q
WHERE r.status IN ('running', 'held') AND r.run_id <> %(run_id)s AND q.last = 'approval_requested'

-- name: tombstone
-- The tombstone of a pruned run, by its key or by its id.
SELECT key, status, ended_at, pruned_at FROM agentrun.tombstones
WHERE key = %(key)s::text OR run_id = %(run_id)s::uuid

-- name: prune
-- Remove one batch of finished runs, in one transaction. A dry run only counts them.
SELECT * FROM agentrun.prune(
    %(before)s::timestamptz, %(statuses)s::text[], %(agent)s::text, %(dry_run)s::boolean,
    %(batch)s::uuid, coalesce(%(after_at)s::timestamptz, '-infinity'),
    coalesce(%(after_id)s::uuid, '00000000-0000-0000-0000-000000000000'))

-- name: pruned
-- The totals of all batches, including those whose answers were lost.
SELECT count(*) AS runs, coalesce(sum(events), 0)::bigint AS events,
       coalesce(sum(bytes), 0)::bigint AS bytes
FROM agentrun.tombstones WHERE batch = %(batch)s AND pruned_at >= %(since)s

-- name: blob_folder
SELECT id FROM agentrun.blob_folder

-- name: orphans
-- Blobs that no row names or ever will: their claim is over, or their run was pruned. If a run does
-- not exist, it may be about to be created, so only the blob's age decides.
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
-- Remove workers that certainly ended before a time, and own no run. Other rows stay: a process
-- that was only suspended must find in its row that it was declared dead.
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
-- Remove the oldest tombstones set before a time, which frees their keys.
WITH old AS (
    SELECT run_id FROM agentrun.tombstones
    WHERE pruned_at < %(before)s
      AND status = ANY(%(statuses)s) AND (%(agent)s::text IS NULL OR agent = %(agent)s)
    ORDER BY pruned_at LIMIT %(limit)s::integer
), removed AS (
    DELETE FROM agentrun.tombstones t USING old WHERE t.run_id = old.run_id AND NOT %(dry_run)s
)
SELECT count(*) AS keys FROM old

-- name: gateway_secret
SELECT key FROM agentrun.gateway_secret

-- name: gateway_calls
-- The upstream calls under a key, oldest first.
SELECT call, fingerprint, status, gateway FROM agentrun.gateway_calls
WHERE key = %(key)s ORDER BY call

-- name: gateway_begin
-- The intent of an upstream call. If no row is returned, another process has begun this call. When
-- the statement is sent again after a lost answer, it finds its own row by the nonce.
INSERT INTO agentrun.gateway_calls AS c (key, call, fingerprint, upstream, path, gateway, nonce)
VALUES (%(key)s, %(call)s, %(fingerprint)s, %(upstream)s, %(path)s, %(gateway)s, %(nonce)s)
ON CONFLICT (key, call) DO UPDATE SET nonce = c.nonce WHERE c.nonce = EXCLUDED.nonce
RETURNING call

-- name: gateway_end
-- The outcome of a call, recorded by the process that made it, even if another process has declared
-- it dead.
WITH ended AS (
    UPDATE agentrun.gateway_calls
    SET status = %(status)s, reason = %(reason)s, http_status = %(http_status)s,
        size = %(size)s, ended_at = clock_timestamp()
    WHERE key = %(key)s AND call = %(call)s AND nonce = %(nonce)s
    RETURNING key, call
)
INSERT INTO agentrun.gateway_answers (key, call, headers, digest, zstd)
SELECT key, call, %(headers)s::text::json, %(digest)s, %(zstd)s FROM ended
WHERE %(zstd)s::bytea IS NOT NULL
ON CONFLICT DO NOTHING

-- name: gateway_answer
SELECT c.http_status, a.headers, a.digest, a.zstd
FROM agentrun.gateway_calls c JOIN agentrun.gateway_answers a USING (key, call)
WHERE c.key = %(key)s AND c.call = %(call)s AND c.status = 'answered'

-- name: gateway_holders
-- The gateways that have open calls: in flight, or left by a death.
SELECT DISTINCT gateway FROM agentrun.gateway_calls WHERE status = 'open'

-- name: gateway_lost
-- Mark the open calls of a dead gateway as lost.
UPDATE agentrun.gateway_calls
SET status = 'lost', reason = 'its gateway died with it', ended_at = clock_timestamp()
WHERE gateway = %(gateway)s AND status = 'open'
RETURNING key, upstream, path

-- name: gateway_forget
-- Remove old calls, in batches, so that no statement holds locks for long.
WITH forgotten AS (
    DELETE FROM agentrun.gateway_calls WHERE (key, call) IN (
        SELECT key, call FROM agentrun.gateway_calls
        WHERE ended_at < clock_timestamp() - %(keep)s::interval
        ORDER BY ended_at LIMIT 1000 FOR UPDATE SKIP LOCKED)
    RETURNING key, call
), answers AS (
    DELETE FROM agentrun.gateway_answers a USING forgotten f WHERE a.key = f.key AND a.call = f.call
)
SELECT key FROM forgotten

-- name: shared_limits
-- The limits and the holds.
SELECT model, NULL::timestamptz AS until, false AS circuit, NULL AS reason FROM agentrun.limits
UNION ALL
SELECT model, until, circuit, reason FROM agentrun.holds
WHERE circuit OR until > clock_timestamp()

-- name: permit
-- Request a permit for a call: 0 grants it, otherwise the seconds after which to request again.
SELECT agentrun.permit(%(run_id)s, %(key)s, %(model)s, %(worker)s, r.priority, %(tokens)s) AS wait
FROM agentrun.runs r WHERE r.run_id = %(run_id)s

-- name: release
SELECT agentrun.release(%(run_id)s, %(key)s, %(worker)s, %(used)s)

-- name: hold
-- Hold a model for some seconds, and return all limits and holds.
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
-- After a hold has ended, the first caller gets NULL and may try a call; the hold is extended for
-- the others.
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
-- The limits, their use, and the holds.
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
-- Store the received parts of streamed replies, if their worker still owns the run; and delete
-- those of steps that have an outcome.
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

-- name: glance
-- Whether a run has anything new for its readers: its last seq, whether its owner is dead, and the
-- streamed replies so far. One row for each reply, or one row without; no row for a pruned run.
SELECT t.seq, p.step, p.attempt, p.codec, p.body::text AS body,
       r.status = 'running' AND NOT EXISTS (
           SELECT FROM agentrun.workers w WHERE w.worker = r.owner AND w.dead_at IS NULL
           AND w.beat_at + w.lease >= clock_timestamp()) AS lost
FROM agentrun.runs r
CROSS JOIN LATERAL (
    SELECT j.seq FROM agentrun.journal j WHERE j.run_id = r.run_id ORDER BY j.seq DESC LIMIT 1
) t
LEFT JOIN agentrun.partials p ON p.run_id = r.run_id
WHERE r.run_id = %(run_id)s
ORDER BY p.step, p.attempt

-- name: role
-- Whether the server has a role of this name.
SELECT 1 AS there FROM pg_roles WHERE rolname = %(name)s

-- name: lock_roles
-- Lock, so that one process at a time creates roles, as one at a time migrates.
SELECT pg_advisory_xact_lock(%(lock)s)

-- name: known_roles
-- The group roles of this database.
SELECT role, name FROM agentrun.roles

-- name: members
-- The members of this database's group roles.
SELECT r.role, r.name,
       coalesce(array_agg(m.rolname::text ORDER BY m.rolname) FILTER (WHERE m.rolcanlogin), '{}')
           AS logins
FROM agentrun.roles r
JOIN pg_roles g ON g.rolname = r.name
LEFT JOIN pg_auth_members am ON am.roleid = g.oid
LEFT JOIN pg_roles m ON m.oid = am.member
GROUP BY r.role, r.name ORDER BY r.role

-- name: present
-- Which of these relations the schema has.
SELECT p.relation FROM unnest(%(relations)s::text[]) AS p(relation)
WHERE to_regclass('agentrun.' || quote_ident(p.relation)) IS NOT NULL

-- name: lacking
-- The privileges of a role that the session's user lacks, by relation or by its columns.
SELECT CASE WHEN n.columns = '' THEN n.verb ELSE n.verb || ' (' || n.columns || ')' END
           || ' on ' || n.relation AS lacks
FROM (
    SELECT relation, verb, columns, to_regclass('agentrun.' || quote_ident(relation)) AS oid
    FROM unnest(%(relations)s::text[], %(verbs)s::text[], %(columns)s::text[])
         AS n(relation, verb, columns)
    UNION ALL
    SELECT c.relname, 'SELECT', '', c.oid FROM pg_class c
    WHERE %(reads)s AND c.relnamespace = 'agentrun'::regnamespace AND c.relkind IN ('r', 'v', 'p')
      AND c.relname <> ALL (%(hidden)s::text[])
) n
WHERE n.oid IS NOT NULL AND NOT has_table_privilege(n.oid, n.verb) AND NOT (
    n.columns <> '' AND (
        SELECT bool_and(has_column_privilege(n.oid, trim(c), n.verb))
        FROM regexp_split_to_table(n.columns, ',') AS c))
UNION ALL
SELECT 'EXECUTE on ' || p.proname FROM pg_proc p
WHERE p.pronamespace = 'agentrun'::regnamespace AND p.proname = ANY (%(functions)s::text[])
  AND NOT has_function_privilege(p.oid, 'EXECUTE')
ORDER BY 1

-- name: enters
-- Whether the session's user may use the schema.
SELECT has_schema_privilege('agentrun', 'USAGE') AS enters
FROM pg_namespace WHERE nspname = 'agentrun'

-- name: login
-- The login of this session, and whether it is a superuser.
SELECT session_user::text AS name, r.rolsuper AS superuser, r.rolcreaterole AS makes_roles
FROM pg_roles r WHERE r.rolname = session_user

-- name: be_reader
-- Take on the role of readers, if this database has one and the login may.
SELECT set_config('role', r.name, true)
FROM agentrun.roles r JOIN pg_roles p ON p.rolname = r.name
WHERE r.role = 'reader' AND pg_has_role(session_user, p.oid, 'MEMBER')
