-- What the journal says of each run that has begun: the row of it in `summaries`, without its times.
SELECT b.run_id,
       greatest(max(c.turn) FILTER (WHERE c.event = 'step_finished'), 0) AS turns,
       count(c.seq) FILTER (WHERE c.event = 'step_finished') AS model_calls,
       coalesce(sum(c.input_tokens), 0) AS input_tokens,
       coalesce(sum(c.output_tokens), 0) AS output_tokens,
       coalesce(sum(c.cached_tokens), 0) AS cached_tokens,
       coalesce(sum(c.reasoning_tokens), 0) AS reasoning_tokens,
       coalesce(sum(c.cost), 0) AS cost,
       count(c.seq) FILTER (
           WHERE agentrun.billing(c.event, c.status, c.codec, c.output, c.cost, c.input_tokens)
               = 'unpriced'
             AND (c.effect IS DISTINCT FROM 'read' OR c.input_tokens IS NOT NULL)
             AND NOT (c.codec & 8 = 0 AND agentrun.goes_on(c.event, c.codec, c.output)))
           AS unpriced,
       f.failed_step, f.error_type, f.error
FROM (SELECT DISTINCT run_id FROM agentrun.journal WHERE event = 'claimed') b
LEFT JOIN agentrun.journal c
    ON c.run_id = b.run_id AND c.kind = 'model' AND c.event IN ('step_finished', 'attempt_failed')
LEFT JOIN LATERAL (  -- the error that ended the run last, or else its first
    SELECT CASE WHEN j.codec & 8 = 0 THEN agentrun.error_type(j.output) ELSE 'Error' END
               AS error_type,
           CASE WHEN j.codec & 8 = 0 THEN agentrun.error_text(j.output) END AS error,
           CASE WHEN j.event = 'run_failed' AND j.step IS NULL AND j.codec & 8 = 0
                THEN (j.output ->> 'reply')::integer ELSE j.step END AS failed_step
    FROM agentrun.journal j
    WHERE j.run_id = b.run_id
      AND (j.event = 'run_failed' OR j.event = 'step_finished' AND j.status = 'error'
           AND NOT (j.codec & 8 = 0 AND agentrun.is_control_flow(j.output)))
    ORDER BY j.event <> 'run_failed', CASE j.event WHEN 'run_failed' THEN -j.seq ELSE j.seq END
    LIMIT 1
) f ON true
GROUP BY b.run_id, f.failed_step, f.error_type, f.error
