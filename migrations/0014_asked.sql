-- What waits for a person shows what was asked for, whichever attempt it is about: only the first one
-- repeats the arguments. A call that was never attempted has no attempt.

CREATE OR REPLACE VIEW agentrun.in_doubt WITH (security_invoker = true) AS
SELECT r.run_id, r.key, r.agent, r.status AS run_status, d.seq, d.step, i.turn, i.kind, i.name,
       i.effect, i.attempt,
       CASE WHEN g.codec & 4 <> 0 THEN g.input ELSE g.input -> 'args' END AS args,
       i.key AS idempotency_key, i.worker, i.at AS started_at, d.at, d.reason
FROM agentrun.runs r
CROSS JOIN LATERAL (
    SELECT DISTINCT ON (j.step) j.event, j.seq, j.step, j.at, j.reason
    FROM agentrun.journal j
    WHERE j.run_id = r.run_id AND j.event IN ('in_doubt', 'resolved', 'step_finished')
    ORDER BY j.step, j.seq DESC
) d
LEFT JOIN LATERAL (
    SELECT a.* FROM agentrun.journal a
    WHERE a.run_id = r.run_id AND a.step = d.step AND a.event = 'attempt_started'
      AND a.seq < d.seq
    ORDER BY a.seq DESC LIMIT 1
) i ON true
LEFT JOIN LATERAL (
    SELECT a.codec, a.input FROM agentrun.journal a
    WHERE a.run_id = r.run_id AND a.step = d.step AND a.input IS NOT NULL AND a.seq < d.seq
    ORDER BY a.seq DESC LIMIT 1
) g ON true
WHERE r.status IN ('queued', 'running', 'waiting', 'held') AND r.open_doubt IS NOT NULL
  AND d.event = 'in_doubt';

CREATE OR REPLACE VIEW agentrun.inbox WITH (security_invoker = true) AS
SELECT d.run_id, d.key, d.agent, d.step, 'doubt' AS waits_for, d.name, d.effect, d.attempt,
       d.args, d.idempotency_key, d.reason, d.at AS since
FROM agentrun.in_doubt d
WHERE d.run_status = 'held'
  AND NOT EXISTS (  -- somebody has decided, and the run has not read it yet
    SELECT FROM agentrun.mail m
    WHERE m.run_id = d.run_id AND m.step = d.step AND m.kind = 'resolve' AND m.sent_at > d.at)
UNION ALL
SELECT r.run_id, r.key, r.agent, p.step, 'decision', coalesce(p.name, i.name),
       coalesce(p.effect, i.effect),
       (SELECT max(a.attempt) FROM agentrun.journal a
        WHERE a.run_id = r.run_id AND a.step = p.step AND a.event = 'attempt_started'),
       CASE WHEN g.codec & 4 <> 0 THEN g.input ELSE g.input -> 'args' END,
       coalesce(p.key, i.key), coalesce(p.reason, r.reason), p.at
FROM agentrun.runs r
CROSS JOIN LATERAL (
    SELECT j.* FROM agentrun.journal j
    WHERE j.run_id = r.run_id AND j.event = 'parked'
    ORDER BY j.seq DESC LIMIT 1
) p
LEFT JOIN LATERAL (
    SELECT a.* FROM agentrun.journal a
    WHERE a.run_id = r.run_id AND a.step = p.step AND a.seq < p.seq AND a.name IS NOT NULL
    ORDER BY a.seq DESC LIMIT 1
) i ON true
LEFT JOIN LATERAL (
    SELECT a.codec, a.input FROM agentrun.journal a
    WHERE a.run_id = r.run_id AND a.step = p.step AND a.input IS NOT NULL AND a.seq <= p.seq
    ORDER BY a.seq DESC LIMIT 1
) g ON true
WHERE r.status = 'held'
  AND NOT EXISTS (
    SELECT FROM agentrun.mail m
    WHERE m.run_id = r.run_id AND m.step = p.step AND m.kind IN ('approve', 'reject')
      AND m.sent_at > p.at)
  AND NOT EXISTS (SELECT FROM agentrun.in_doubt d WHERE d.run_id = r.run_id AND d.step = p.step);
