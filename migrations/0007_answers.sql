-- The inbox goes on asking until it has an answer to its own question: an approval says nothing
-- about a doubt, nor a resolution about an approval, and neither may make the other disappear.

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
       coalesce(p.effect, i.effect), coalesce(p.attempt, i.attempt),
       CASE WHEN p.codec & 4 <> 0 THEN p.input ELSE coalesce(p.input, i.input) -> 'args' END,
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
WHERE r.status = 'held'
  AND NOT EXISTS (
    SELECT FROM agentrun.mail m
    WHERE m.run_id = r.run_id AND m.step = p.step AND m.kind IN ('approve', 'reject')
      AND m.sent_at > p.at)
  AND NOT EXISTS (SELECT FROM agentrun.in_doubt d WHERE d.run_id = r.run_id AND d.step = p.step);
