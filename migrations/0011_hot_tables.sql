-- Tables that change: a claim reads what is ready and nothing else, and autovacuum comes early.
--
-- A run's row changes with its status, three or four times in its life, and every index on the
-- status changes with it; a worker's row changes with each beat, and no index does.

-- Queued now. What is to begin later waits with the sleepers, or every claim would pass it over.
-- The agent comes last: runs that only other workers may take are passed over in the index.
DROP INDEX agentrun.runs_queued;
CREATE INDEX runs_queued ON agentrun.runs (queue, priority DESC, created_at, agent)
    WHERE status = 'queued' AND wake_at IS NULL;
DROP INDEX agentrun.runs_due;
CREATE INDEX runs_due ON agentrun.runs (wake_at, queue, agent)
    WHERE status IN ('queued', 'waiting', 'held') AND wake_at IS NOT NULL;

-- Letters since the last look for overlooked ones.
CREATE INDEX mail_sent ON agentrun.mail (sent_at);

-- By default a million finished runs would let 200,000 dead rows of open ones gather first.
ALTER TABLE agentrun.runs SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE agentrun.workers SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- What a slow database shows, told with each beat.
ALTER TABLE agentrun.workers
    ADD COLUMN pending integer NOT NULL DEFAULT 0,
    ADD COLUMN slowest_commit real NOT NULL DEFAULT 0;
COMMENT ON COLUMN agentrun.workers.pending IS 'Events that were not committed yet at its last beat.';
COMMENT ON COLUMN agentrun.workers.slowest_commit IS
    'Seconds that its slowest commit of events took, or takes so far, since the beat before.';
