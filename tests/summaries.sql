-- What the journal says of each run that has begun: the row of it in `summaries`, without its times.
SELECT b.run_id,
       greatest(max(c.turn) FILTER (WHERE c.event = 'step_finished'), 0) AS turns,
       count(c.seq) FILTER (WHERE c.event = 'step_finished') AS model_calls,
       coalesce(sum(c.input_tokens), 0) AS input_tokens,
       coalesce(sum(c.output_tokens), 0) AS output_tokens,
       coalesce(sum(c.cached_tokens), 0) AS cached_tokens,
       coalesce(sum(c.reasoning_tokens), 0) AS reasoning_tokens,
       coalesce(sum(c.cost), 0) AS cost,
       f.error_type, f.error
FROM (SELECT DISTINCT run_id FROM agentrun.journal WHERE event = 'claimed') b
LEFT JOIN agentrun.journal c
    ON c.run_id = b.run_id AND c.kind = 'model' AND c.event IN ('step_finished', 'attempt_failed')
LEFT JOIN LATERAL (  -- the error that ended the run last, or else its first
    SELECT CASE WHEN j.codec & 8 = 0 THEN agentrun.error_type(j.output) ELSE 'Error' END
               AS error_type,
           CASE WHEN j.codec & 8 = 0 THEN agentrun.error_text(j.output) END AS error
    FROM agentrun.journal j
    WHERE j.run_id = b.run_id
      AND (j.event = 'run_failed' OR j.event = 'step_finished' AND j.status = 'error')
    ORDER BY j.event <> 'run_failed', CASE j.event WHEN 'run_failed' THEN -j.seq ELSE j.seq END
    LIMIT 1
) f ON true
GROUP BY b.run_id, f.error_type, f.error
