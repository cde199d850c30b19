-- Runs that wait for a response that their provider works on by itself, by its id: a webhook says
-- that it is there.

CREATE INDEX runs_awaited ON agentrun.runs (reason)
    WHERE status = 'waiting' AND starts_with(reason, 'waits for response ');
