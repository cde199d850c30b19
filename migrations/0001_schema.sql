-- The schema `agentrun`: durable agent runs as rows of your own Postgres.
--
-- This file defines each object once, in this order: tables, indexes, functions, triggers, rights,
-- views, and the comments of columns that mean the same everywhere. A test compares the lists below
-- with the catalog of a database.
--
-- Tables
--   runs                      one row per run: what has to be done with it next
--   journal                   append-only events of all runs: the only source of truth
--   summaries                 one row per run: what lists of runs show, summed from the journal
--   payloads                  values that are too large for a row, by run and digest
--   exact_values              what the agent's code saw where another column shows a masked value
--   mail                      letters to runs: signals, approvals, resolutions, cancellations
--   late_results              answers that arrived after their worker had lost the run
--   partials                  streamed replies while they arrive
--   tombstones                one row per pruned run: its key is not used again
--   workers                   one row per process that executes runs: its heartbeat
--   budgets                   what a run and its child runs may spend
--   reservations              what each attempt at a model call takes of the budgets above it
--   counted_calls             tool calls that count against a budget of tool calls
--   limits                    token buckets: how much a provider accepts from all workers together
--   permits                   model calls that wait for a limit, and those under way
--   holds                     models that accept no call for now
--   gateway_calls             calls that `agentrun gateway` made to providers
--   gateway_answers           complete answers of those calls
--   gateway_secret            one row: the key with which keys of gateway_calls are made
--   blob_folder               one row: the folder of this database in its blob store
--   mask_key                  one row: the key of the digests in masks, and of fingerprints
--   roles                     the group roles of this database
--   migrations                the migrations this database has (created by store/migrate.py)
--
-- Functions: reading
--   text_of                   the readable text of a message's content
--   elements                  the elements of a JSON array with their positions
--   listed_steps              the step numbers that an event lists
--   set_aside                 the steps of a run that a resume does not serve
--   masks_in                  what is masked in a text
--   tree                      a run and all runs below it
--   top                       the run at the top of a tree of child runs
--   billing                   whether the provider charges for an attempt at a model call
--   goes_on                   whether the provider still works on a call that it answered
--   look                      usage that the run saw when it asked for a background response
--   size_of                   events and bytes of one run
--   error_type                the kind of error in the output of a failed step or run
--   error_text                its message
--   is_control_flow           whether that error is how a framework pauses, and no failure
--   is_readable               whether the payload of a letter has the shape of a decision
-- Functions: writing
--   send                      send a letter to a run
--   prune                     remove one batch of finished runs
--   permit                    ask whether a model call may be made now
--   release                   end a permit and return what the call did not use
-- Functions: rights
--   is_owner                  whether the session's login has the rights of the schema's owner
--   plays                     whether the session's login belongs to one of these roles
-- Functions: triggers
--   refuse_change             refuses a statement on an append-only table
--   refuse_removal            refuses to delete rows of a run that was not pruned
--   refuse_removal_of_runs    refuses to delete a run that has not ended or has no tombstone
--   refuse_pruned_key         refuses a new run whose key was pruned a moment ago
--   refuse_made_up_status     refuses a status of a run that its journal does not give it
--   refuse_other_letters      refuses what an approver may not send
--   stamp                     writes on a letter its sender, time and answered request
--   forget_partials           deletes the partial replies of pruned runs
--
-- Triggers, each with its table
--   runs_append_only          runs: no TRUNCATE
--   runs_kept                 runs: DELETE only of runs that ended and have a tombstone
--   runs_not_pruned           runs: no INSERT of a key that has a tombstone
--   runs_follow_the_journal   runs: UPDATE of the status only as the journal says
--   partials_gone             runs: DELETE takes the partial replies of the run with it
--   journal_append_only       journal: no UPDATE, no TRUNCATE
--   journal_kept              journal: DELETE only of pruned runs
--   payloads_append_only      payloads: no TRUNCATE
--   exact_values_append_only  exact_values: no UPDATE, no TRUNCATE
--   exact_values_kept         exact_values: DELETE only of pruned runs
--   late_results_append_only  late_results: no UPDATE, no TRUNCATE
--   late_results_kept         late_results: DELETE only of pruned runs
--   mail_append_only          mail: no TRUNCATE
--   mail_stamp                mail: sender, time and request are written by the database
--   mail_by_role              mail: an approver approves and rejects only
--   tombstones_append_only    tombstones: no TRUNCATE
--
-- Rights
--   Hidden from PUBLIC: exact_values, mask_key, gateway_answers, gateway_secret.
--   Not executable by PUBLIC: send, prune. They run with the rights of the owner.
--   `agentrun roles create` makes the group roles reader, auditor, approver, worker, operator and
--   tools, grants their privileges, and lists them in the table roles.
--
-- Views
--   steps                     outcomes of steps
--   tool_calls                outcomes of tool calls
--   model_calls               outcomes of model calls
--   turns                     sums over the steps of each turn
--   attempts                  each attempt, with or without an outcome
--   transcript                messages of the conversation in order
--   resumes                   each time a run changed hands, and what that saved
--   asked                     what open runs ask a person
--   in_doubt                  `once` attempts without an outcome, not decided yet
--   decided                   decisions that were sent and not read by the run yet
--   inbox                     what waits for a person
--   late_answers              late answers to model calls: adopted, or paid twice
--   spend                     attempts at model calls that cost something, or may have
--   spend_by_run              sums over spend, per run and per tree of runs
--
-- The append. Only the owner of a run appends to its journal. Several processes may believe that
-- they are the owner: a worker that was paused does not know that another one has taken its run. So
-- each append is a compare-and-swap on the tail of the journal. The rows of a run with the numbers
-- n+1, n+2, … are inserted only if row n is there and carries the writer's epoch and worker. Row n
-- is committed and never changes, and (run_id, seq) is unique. So at most one writer inserts n+1,
-- and that writer has seen n. All rows of any other writer are refused. Without the look at row n,
-- a former owner could append behind the rows of its successor. Without the unique key, two writers
-- could both append after row n. The worker is compared because a server that lost a claim in a
-- failover may give the same epoch away twice. The statement is `append` in store/queries.sql. An
-- event that changes the run's status updates the row in `runs` in the same commit, so that the row
-- always agrees with the journal.
--
-- Takeover. A run changes hands by an append like any other: its event is `claimed`, and its epoch
-- is one higher than that of row n. From this row on the appends of the former owner are refused,
-- because the last row has another epoch. A running run is taken only from a worker that is dead,
-- and never because the run is old. Death is declared first: `workers.dead_at` is set on condition
-- that `beat_at` is still the heartbeat that was seen. A declared death is final: the next
-- heartbeat of the worker finds `dead_at` set, and the worker stops. Heartbeats and leases are
-- compared by the database's clock alone. Where the process may still be alive (`workers.cause` is
-- session gone or lease expired), it could still send something. So an interrupted `once` effect is
-- decided only after the worker's full lease. An answer that reaches a former owner cannot go into
-- the journal. It goes into `late_results`, and the new owner adopts it if the step has no outcome
-- yet.
--
-- Limits. Three mechanisms decide whether a model call may begin. A budget belongs to a run and its
-- child runs. Under an advisory lock of the tree, an attempt reserves the most that it can cost, in
-- a transaction of its own; the amounts go into the journal with the attempt's intent. The
-- reservation stands until the journal has the outcome. If no outcome ever comes, it stands for
-- good, since the call may have been billed. A limit belongs to a model and is shared by all
-- workers. It is a token bucket in one row of `limits`: `permit` locks the row, adds what the time
-- since the last call brings, and takes what the call may use. A hold stops all calls to a model
-- until a time, because the provider said so or because calls failed in a row.
--
-- Values are `json` and not `jsonb`: jsonb rewrites 1e2, -0.0 and the order of keys, and refuses
-- NUL. The key of every table with rows of runs begins with the run. So no frequent statement but
-- the claim reads rows of many runs, and the large tables can be partitioned by run. There are no
-- foreign keys, as each would have to reach all partitions. Columns with a fixed vocabulary have a
-- CHECK; a test compares it with the list in the code.


-- Tables: runs and their journals -----------------------------------------------------------------

-- The row changes with the run's status, three or four times in its life. The fill factor leaves
-- room on the page for that. By default autovacuum would wait until a million finished runs have
-- gathered 200,000 dead rows.
CREATE TABLE agentrun.runs (
    run_id      uuid        NOT NULL PRIMARY KEY,
    key         text        NOT NULL UNIQUE,
    agent       text        NOT NULL,
    parent      uuid,
    status      text        NOT NULL CHECK (status IN
                    ('queued', 'running', 'waiting', 'held', 'done', 'failed', 'cancelled')),
    owner       text,
    epoch       bigint      NOT NULL DEFAULT 0,
    parked_for  text        CHECK (parked_for IN
                    ('time', 'signal', 'child', 'response', 'doubt', 'approval', 'budget',
                     'divergence', 'review')),
    parked_step integer,
    reason      text,
    queue       text        NOT NULL DEFAULT 'default',
    priority    integer     NOT NULL DEFAULT 0,
    wake_at     timestamptz,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((status = 'running') = (owner IS NOT NULL)),
    CONSTRAINT runs_parked_for_when_parked CHECK (
        (status IN ('waiting', 'held')) = (parked_for IS NOT NULL))
) WITH (fillfactor = 70,
        autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

COMMENT ON TABLE agentrun.runs IS
    'One row per run: a projection of its journal that says what has to be done next.';
COMMENT ON COLUMN agentrun.runs.parent IS 'The run that called this one as its child, if any.';
COMMENT ON COLUMN agentrun.runs.status IS
    'queued, running, waiting (for time or mail), held (for a person), done, failed, cancelled.';
COMMENT ON COLUMN agentrun.runs.owner IS 'The worker that executes the run; null unless running.';
COMMENT ON COLUMN agentrun.runs.parked_for IS
    'What a parked run waits for. If waiting: time, signal, child (run), or response (of a '
    'provider, in the background). If held, for a person: doubt, approval, budget, divergence, or '
    'review (to go on could do harm: see reason, then `agentrun resume`). Null unless parked.';
COMMENT ON COLUMN agentrun.runs.parked_step IS 'The step that waits in a parked run, if any.';
COMMENT ON COLUMN agentrun.runs.reason IS 'Why the run is parked, failed or cancelled, in words.';
COMMENT ON COLUMN agentrun.runs.queue IS
    'Which workers may take the run: those that serve this queue.';
COMMENT ON COLUMN agentrun.runs.priority IS 'Of several queued runs the highest is taken first.';
COMMENT ON COLUMN agentrun.runs.wake_at IS
    'When a worker takes the run again, at the latest; of a queued run, when it begins.';
COMMENT ON COLUMN agentrun.runs.created_at IS 'When the run was submitted.';
COMMENT ON COLUMN agentrun.runs.changed_at IS 'When this row last changed.';

-- The columns hold what people filter by. Which event fills which column: core/events.py.
CREATE TABLE agentrun.journal (
    run_id              uuid        NOT NULL,
    seq                 bigint      NOT NULL,
    epoch               bigint      NOT NULL,
    worker              text        NOT NULL,
    batch               uuid        NOT NULL,
    event               text        NOT NULL CHECK (event IN
                            ('created', 'claimed', 'attempt_started', 'attempt_accepted',
                             'attempt_failed', 'step_finished', 'approval_requested', 'in_doubt',
                             'resolved', 'diverged', 'step_reused', 'request_changed', 'received',
                             'parked', 'handed_back', 'run_finished', 'run_failed',
                             'run_cancelled', 'resumed')),
    at                  timestamptz NOT NULL DEFAULT clock_timestamp(),
    step                integer,
    turn                integer,
    kind                text        CHECK (kind IN
                            ('turn', 'model', 'tool', 'function', 'wait', 'child')),
    name                text,
    ident               text,
    attempt             integer,
    effect              text        CHECK (effect IN
                            ('read', 'idempotent', 'transaction', 'once')),
    key                 text,
    status              text,
    started_at          timestamptz,
    fingerprint         text,
    overlapping         boolean     NOT NULL DEFAULT false,
    model               text,
    input_tokens        integer,
    output_tokens       integer,
    cached_tokens       integer,
    cache_write_tokens  integer,
    cache_lost_tokens   integer,
    reasoning_tokens    integer,
    audio_tokens        integer,
    cost                numeric,
    cache_lost          numeric,
    priced_by           text,
    by                  text,
    reason              text,
    parked_for          text        CHECK (parked_for IN
                            ('time', 'signal', 'child', 'response', 'doubt', 'approval', 'budget',
                             'divergence', 'review')),
    wake_at             timestamptz,
    codec               smallint    NOT NULL DEFAULT 0,
    masked              json,
    input               json,
    output              json,
    PRIMARY KEY (run_id, seq),
    CONSTRAINT journal_status_of_event CHECK (CASE event
        WHEN 'step_finished' THEN status IN ('ok', 'error', 'abandoned', 'cancelled')
        WHEN 'attempt_failed' THEN status IN ('rolled_back', 'unreached', 'not_sent')
        WHEN 'resolved' THEN status IN
            ('happened', 'not_happened', 'unknown', 'retry', 'fail', 'reopened', 'approved',
             'rejected', 'expired')
        WHEN 'parked' THEN status IN ('waiting', 'held')
        WHEN 'received' THEN status IN ('ignored')
        ELSE status IS NULL END),
    CONSTRAINT journal_parked_for_when_parked CHECK (
        (event = 'parked') = (parked_for IS NOT NULL))
);

COMMENT ON TABLE agentrun.journal IS
    'Append-only, ordered events of all runs: the only source of truth.';
COMMENT ON COLUMN agentrun.journal.batch IS
    'Nonce of the commit that wrote the row. It tells a row that was sent again from a row of '
    'another writer.';
COMMENT ON COLUMN agentrun.journal.name IS
    'Name of the tool or function; in the first event, of the agent.';
COMMENT ON COLUMN agentrun.journal.key IS
    'Idempotency key of the step; in the first event, the run''s key; in `received` and in '
    '`resolved`, the id of the letter.';
COMMENT ON COLUMN agentrun.journal.status IS
    'Of an outcome: ok, error, abandoned, cancelled. Of `parked`: waiting, held. Of `resolved`: '
    'the decision. Of `attempt_failed`: rolled_back where the database ended the transaction, '
    'unreached where the provider could not be reached, not_sent where the run was stopped before '
    'the request was sent; else null. Of `received`: ignored, if the letter does not count.';
COMMENT ON COLUMN agentrun.journal.fingerprint IS
    'Of what was asked, in canonical form. It shows whether resumed code asks for something else.';
COMMENT ON COLUMN agentrun.journal.input_tokens IS
    'From the provider; of an attempt_started row the estimate that the budget was asked for.';
COMMENT ON COLUMN agentrun.journal.output_tokens IS
    'From the provider; of an attempt_started row the most that the model may write.';
COMMENT ON COLUMN agentrun.journal.cost IS
    'US dollars; of an attempt_started row what a budget reserved. Null is not known, never free.';
COMMENT ON COLUMN agentrun.journal.parked_for IS
    'Of `parked`: what the run waits for, as in runs.';
COMMENT ON COLUMN agentrun.journal.wake_at IS
    'Of `parked` and `handed_back`: when a worker takes the run again, at the latest.';

-- The statement `append` keeps the row together with the journal, so that a list of runs reads no
-- journal. Rows of model calls, errors and changes of the run's status change it, and other rows do
-- not: the steps of a fast loop cost nothing here. A test sums the journal and compares.
CREATE TABLE agentrun.summaries (
    run_id           uuid             NOT NULL PRIMARY KEY,
    turns            integer          NOT NULL DEFAULT 0,
    model_calls      integer          NOT NULL DEFAULT 0,
    input_tokens     bigint           NOT NULL DEFAULT 0,
    output_tokens    bigint           NOT NULL DEFAULT 0,
    cached_tokens    bigint           NOT NULL DEFAULT 0,
    reasoning_tokens bigint           NOT NULL DEFAULT 0,
    cost             numeric          NOT NULL DEFAULT 0,
    unpriced         integer          NOT NULL DEFAULT 0,
    started_at       timestamptz,
    working_seconds  double precision NOT NULL DEFAULT 0,
    waiting_seconds  double precision NOT NULL DEFAULT 0,
    is_working       boolean          NOT NULL DEFAULT false,
    since            timestamptz,
    failed_step      integer,
    error_type       text,
    error            text,
    last_message     text
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

COMMENT ON TABLE agentrun.summaries IS
    'What lists of runs show, one row per run that has begun. Kept together with the journal.';
COMMENT ON COLUMN agentrun.summaries.turns IS 'The number of its last turn.';
COMMENT ON COLUMN agentrun.summaries.model_calls IS 'Model calls that have an outcome.';
COMMENT ON COLUMN agentrun.summaries.input_tokens IS 'Of all its model calls, as the next three.';
COMMENT ON COLUMN agentrun.summaries.cost IS 'US dollars of its calls with a known price.';
COMMENT ON COLUMN agentrun.summaries.unpriced IS 'Answered calls whose price is not known.';
COMMENT ON COLUMN agentrun.summaries.started_at IS 'When a process took the run first.';
COMMENT ON COLUMN agentrun.summaries.working_seconds IS
    'Seconds in which a process had the run, until it was killed, without those since `since`.';
COMMENT ON COLUMN agentrun.summaries.waiting_seconds IS
    'Seconds in which no process had it, from started_at on, without those since `since`.';
COMMENT ON COLUMN agentrun.summaries.is_working IS 'Whether a process has the run now.';
COMMENT ON COLUMN agentrun.summaries.since IS
    'When it began to work or to wait; null once the run has ended.';
COMMENT ON COLUMN agentrun.summaries.failed_step IS
    'The step of the error that ended the run last, or else the first step with an error.';
COMMENT ON COLUMN agentrun.summaries.error_type IS 'The type of that error.';
COMMENT ON COLUMN agentrun.summaries.error IS 'Its message, 200 characters at most.';
COMMENT ON COLUMN agentrun.summaries.last_message IS
    'What the model said last, or the text that the run returned; 200 characters at most.';

-- The value is compressed already, so Postgres does not compress it again.
CREATE TABLE agentrun.payloads (
    run_id  uuid    NOT NULL,
    digest  text    NOT NULL,
    size    bigint  NOT NULL,
    zstd    bytea,
    blob    text,
    PRIMARY KEY (run_id, digest),
    CONSTRAINT payloads_in_one_place CHECK ((zstd IS NULL) <> (blob IS NULL))
);
ALTER TABLE agentrun.payloads ALTER COLUMN zstd SET STORAGE EXTERNAL;

COMMENT ON TABLE agentrun.payloads IS
    'Values that are too large for a row, compressed; by run and digest.';
COMMENT ON COLUMN agentrun.payloads.digest IS
    'Digest of the text; the row that has the value names it as `payload`.';
COMMENT ON COLUMN agentrun.payloads.size IS 'Bytes of the text before compression.';
COMMENT ON COLUMN agentrun.payloads.zstd IS
    'The JSON text, compressed with zstd; null if it lies in the blob store.';
COMMENT ON COLUMN agentrun.payloads.blob IS
    'Its name in the blob store, where it lies compressed with zstd; null if it lies here.';

-- Workers read exact values. An auditor who shall see them is given SELECT on this table. Writers
-- of values (workers, and processes that submit runs or send letters) insert here.
CREATE TABLE agentrun.exact_values (
    run_id   uuid    NOT NULL,
    part     text    NOT NULL CHECK (part IN ('input', 'output', 'raw', 'mail', 'late')),
    name     text    NOT NULL,
    escaped  boolean NOT NULL,
    size     bigint  NOT NULL,
    zstd     bytea   NOT NULL,
    PRIMARY KEY (run_id, part, name)
);
ALTER TABLE agentrun.exact_values ALTER COLUMN zstd SET STORAGE EXTERNAL;

COMMENT ON TABLE agentrun.exact_values IS
    'Values as the agent''s code saw them, where the columns of other tables show masked ones. For '
    'workers only.';
COMMENT ON COLUMN agentrun.exact_values.part IS
    'input, output: of the journal''s row; raw: the bytes of a reply; mail: a letter''s payload; '
    'late: the output of a late result.';
COMMENT ON COLUMN agentrun.exact_values.name IS
    'Of input and output the seq of the row; of mail the letter''s id; of late the step and the '
    'attempt; of raw the name in the output.';
COMMENT ON COLUMN agentrun.exact_values.escaped IS
    'Whether ␛ and four hex digits stand for NUL or a lone surrogate.';
COMMENT ON COLUMN agentrun.exact_values.size IS 'Bytes before compression.';
COMMENT ON COLUMN agentrun.exact_values.zstd IS 'The JSON text or the bytes, compressed with zstd.';

CREATE TABLE agentrun.mail (
    run_id       uuid        NOT NULL,
    id           uuid        NOT NULL,
    kind         text        NOT NULL CHECK (kind IN
                     ('signal', 'approve', 'reject', 'resolve', 'resume', 'cancel', 'child',
                      'budget')),
    step         integer,
    answers      bigint,
    fingerprint  text,
    by           text        NOT NULL DEFAULT session_user,
    claimed_by   text,
    signed_by    text,
    reason       text,
    codec        smallint    NOT NULL DEFAULT 0,
    payload      json,
    sent_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, id)
);

COMMENT ON TABLE agentrun.mail IS
    'Letters to runs: signals, decisions, cancellations. The owner journals that it read one.';
COMMENT ON COLUMN agentrun.mail.id IS
    'Chosen by the sender, so that a letter that is sent twice exists once.';
COMMENT ON COLUMN agentrun.mail.kind IS
    'signal; approve, reject and resolve: a decision; resume; cancel; child: a child run has '
    'ended; budget: a budget was raised.';
COMMENT ON COLUMN agentrun.mail.step IS 'The step it is about, if any.';
COMMENT ON COLUMN agentrun.mail.answers IS
    'Of a decision: the journal row of the request that it answers. Null: it does not count.';
COMMENT ON COLUMN agentrun.mail.fingerprint IS
    'Of a decision: the fingerprint of the arguments that it is about.';
COMMENT ON COLUMN agentrun.mail.by IS
    'The database''s session user who sent it, as the database knows it.';
COMMENT ON COLUMN agentrun.mail.claimed_by IS 'Who sent it, as the sender says.';
COMMENT ON COLUMN agentrun.mail.signed_by IS
    'Who signed it, as the process says that verified the signature.';
COMMENT ON COLUMN agentrun.mail.codec IS 'Flags of the payload, as in the journal''s input.';
COMMENT ON COLUMN agentrun.mail.payload IS 'The content of the letter.';
COMMENT ON COLUMN agentrun.mail.sent_at IS 'When it arrived, by the database clock.';

CREATE TABLE agentrun.late_results (
    run_id              uuid        NOT NULL,
    step                integer     NOT NULL,
    attempt             integer     NOT NULL,
    worker              text        NOT NULL,
    status              text        NOT NULL CHECK (status IN
                            ('ok', 'error', 'abandoned', 'cancelled')),
    codec               smallint    NOT NULL DEFAULT 0,
    output              json,
    at                  timestamptz NOT NULL DEFAULT clock_timestamp(),
    model               text,
    input_tokens        integer,
    output_tokens       integer,
    cached_tokens       integer,
    cache_write_tokens  integer,
    cache_lost_tokens   integer,
    reasoning_tokens    integer,
    audio_tokens        integer,
    cost                numeric,
    cache_lost          numeric,
    priced_by           text,
    PRIMARY KEY (run_id, step, attempt)
);

COMMENT ON TABLE agentrun.late_results IS
    'Answers that arrived after their worker had lost the run; the owner may adopt them.';
COMMENT ON COLUMN agentrun.late_results.worker IS 'The former owner, which got the answer.';
COMMENT ON COLUMN agentrun.late_results.model IS 'The model that answered a model call.';

-- A process writes a few times a second, in one statement for all its streams. The row is deleted
-- once the outcome is recorded. Where the call has to be made again, the next attempt's intent
-- takes the partial reply into the journal.
CREATE TABLE agentrun.partials (
    run_id   uuid        NOT NULL,
    step     integer     NOT NULL,
    attempt  integer     NOT NULL,
    epoch    bigint      NOT NULL,
    codec    smallint    NOT NULL DEFAULT 0,
    body     json        NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, step, attempt)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE agentrun.partials IS 'Streamed replies of model calls that are under way.';
COMMENT ON COLUMN agentrun.partials.epoch IS 'Of the claim under which it was written.';
COMMENT ON COLUMN agentrun.partials.codec IS 'How the value is stored, as in the journal.';
COMMENT ON COLUMN agentrun.partials.body IS
    'The reply so far, in the form that a call without a stream returns.';

CREATE TABLE agentrun.tombstones (
    run_id     uuid        NOT NULL PRIMARY KEY,
    key        text        NOT NULL UNIQUE,
    agent      text        NOT NULL,
    status     text        NOT NULL CHECK (status IN ('done', 'failed', 'cancelled')),
    ended_at   timestamptz NOT NULL,
    events     bigint      NOT NULL,
    bytes      bigint      NOT NULL,
    batch      uuid        NOT NULL,
    pruned_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON TABLE agentrun.tombstones IS
    'Runs that were pruned. A key that has a row here is not executed again; to delete the row '
    'frees the key.';
COMMENT ON COLUMN agentrun.tombstones.status IS 'How the run ended: done, failed or cancelled.';
COMMENT ON COLUMN agentrun.tombstones.ended_at IS 'When the run ended.';
COMMENT ON COLUMN agentrun.tombstones.events IS 'Number of events that its journal had.';
COMMENT ON COLUMN agentrun.tombstones.bytes IS
    'Bytes that its recorded values took, compressed as they were stored.';
COMMENT ON COLUMN agentrun.tombstones.batch IS 'The call of prune that removed the run.';
COMMENT ON COLUMN agentrun.tombstones.pruned_at IS
    'When the run was removed, by the database clock.';

-- Each heartbeat updates the row. No index contains a column that a heartbeat changes, and half of
-- the page is kept free, so that the update stays on its page (a HOT update).
CREATE TABLE agentrun.workers (
    worker          text        NOT NULL PRIMARY KEY,
    host            text        NOT NULL,
    pid             integer     NOT NULL,
    process         text,
    agents          text[]      NOT NULL DEFAULT '{}',
    queues          text[]      NOT NULL DEFAULT '{}',
    lease           interval    NOT NULL,
    session_pid     integer,
    session_start   timestamptz,
    server_start    timestamptz NOT NULL,
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    pending         integer     NOT NULL DEFAULT 0,
    slowest_commit  real        NOT NULL DEFAULT 0,
    dead_at         timestamptz,
    cause           text        CHECK (cause IN
                        ('stopped', 'process gone', 'session gone', 'lease expired'))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE agentrun.workers IS 'One row per process that executes runs: its heartbeat.';
COMMENT ON COLUMN agentrun.workers.worker IS 'Name of the worker, unique for each incarnation.';
COMMENT ON COLUMN agentrun.workers.host IS 'Machine on which it runs.';
COMMENT ON COLUMN agentrun.workers.pid IS 'Its process id there.';
COMMENT ON COLUMN agentrun.workers.process IS
    'What distinguishes this process from a later one with the same id.';
COMMENT ON COLUMN agentrun.workers.agents IS 'Agents that it can execute.';
COMMENT ON COLUMN agentrun.workers.queues IS 'Queues whose runs it takes.';
COMMENT ON COLUMN agentrun.workers.lease IS 'How long after a heartbeat its runs stay its own.';
COMMENT ON COLUMN agentrun.workers.session_pid IS
    'Backend of its heartbeat connection; null behind a pooler.';
COMMENT ON COLUMN agentrun.workers.session_start IS 'When that backend started.';
COMMENT ON COLUMN agentrun.workers.server_start IS 'When the server it registered with started.';
COMMENT ON COLUMN agentrun.workers.started_at IS 'When it registered.';
COMMENT ON COLUMN agentrun.workers.beat_at IS 'Last heartbeat, by the database clock.';
COMMENT ON COLUMN agentrun.workers.pending IS
    'Events that were not committed yet at its last heartbeat.';
COMMENT ON COLUMN agentrun.workers.slowest_commit IS
    'Seconds that its slowest commit of events took, or has taken so far, since the heartbeat '
    'before.';
COMMENT ON COLUMN agentrun.workers.dead_at IS 'When it was declared dead; final.';
COMMENT ON COLUMN agentrun.workers.cause IS
    'Why it was declared dead: stopped (it said so itself), process gone, session gone or lease '
    'expired.';


-- Tables: budgets ---------------------------------------------------------------------------------

-- The amounts of a reservation are in the journal too, with the attempt's intent. A tool call has
-- the same key in every claim of its run, so it is counted once, whichever worker makes it.

CREATE TABLE agentrun.budgets (
    run_id        uuid    NOT NULL PRIMARY KEY,
    usd           numeric,
    tokens        bigint,
    turns         integer,
    model_calls   integer,
    tool_calls    integer,
    wall          double precision,
    on_exhausted  text    NOT NULL DEFAULT 'pause' CHECK (on_exhausted IN ('pause', 'fail'))
);

COMMENT ON TABLE agentrun.budgets IS 'What a run may spend, its children included.';
COMMENT ON COLUMN agentrun.budgets.usd IS 'US dollars; null is no limit, as in all these columns.';
COMMENT ON COLUMN agentrun.budgets.tokens IS 'Tokens of requests and replies together.';
COMMENT ON COLUMN agentrun.budgets.turns IS 'Number of turns.';
COMMENT ON COLUMN agentrun.budgets.model_calls IS 'Number of model calls.';
COMMENT ON COLUMN agentrun.budgets.tool_calls IS 'Number of tool calls.';
COMMENT ON COLUMN agentrun.budgets.wall IS 'Seconds since the run was created.';
COMMENT ON COLUMN agentrun.budgets.on_exhausted IS 'pause (into the inbox) or fail.';

CREATE TABLE agentrun.reservations (
    run_id   uuid    NOT NULL,
    step     integer NOT NULL,
    attempt  integer NOT NULL,
    turn     integer,
    epoch    bigint  NOT NULL,
    usd      numeric,
    tokens   bigint  NOT NULL,
    billing  text    NOT NULL DEFAULT 'reserved' CHECK (billing IN
                 ('reserved', 'goes on', 'confirmed', 'unpriced', 'possibly billed',
                  'not billed')),
    PRIMARY KEY (run_id, step, attempt)
);

COMMENT ON TABLE agentrun.reservations IS
    'What attempts at model calls take of the budgets above them: at most, or in fact once that is '
    'known.';
COMMENT ON COLUMN agentrun.reservations.epoch IS 'Of the claim that reserved it.';
COMMENT ON COLUMN agentrun.reservations.usd IS
    'US dollars, the real ones once they are known; null: the model has no known price.';
COMMENT ON COLUMN agentrun.reservations.tokens IS 'Tokens, the real ones once they are known.';
COMMENT ON COLUMN agentrun.reservations.billing IS
    'reserved, while the journal has no outcome; goes on, while the provider works on it in the '
    'background; then as in spend, or not billed.';

CREATE TABLE agentrun.counted_calls (
    run_id  uuid   NOT NULL,
    key     text   NOT NULL,
    epoch   bigint NOT NULL,
    PRIMARY KEY (run_id, key)
);

COMMENT ON TABLE agentrun.counted_calls IS
    'Tool calls that count against a budget of tool calls, recorded before they are made.';
COMMENT ON COLUMN agentrun.counted_calls.key IS 'The idempotency key of the call.';
COMMENT ON COLUMN agentrun.counted_calls.epoch IS 'Of the claim that counted it.';


-- Tables: limits ----------------------------------------------------------------------------------

-- Nothing here is history. To lose the last second of it costs one refused call at worst. So a
-- writer does not wait for the disk (`synchronous_commit = off`), and the row of a bucket is locked
-- only while the statement runs.

CREATE TABLE agentrun.limits (
    model        text             NOT NULL PRIMARY KEY,
    rpm          integer          CHECK (rpm > 0),
    tpm          integer          CHECK (tpm > 0),
    concurrency  integer          CHECK (concurrency > 0),
    requests     double precision NOT NULL DEFAULT 1,
    tokens       double precision NOT NULL DEFAULT 0,
    filled_at    timestamptz      NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE agentrun.limits IS
    'How much a provider accepts from all workers together; set by `agentrun limits set`.';
COMMENT ON COLUMN agentrun.limits.model IS
    'Provider and model, as in openai/gpt-5-mini; * stands for any text. The longest that fits '
    'counts.';
COMMENT ON COLUMN agentrun.limits.rpm IS
    'Calls per minute; null is no limit, as in tpm and concurrency.';
COMMENT ON COLUMN agentrun.limits.tpm IS 'Tokens per minute, of requests and replies together.';
COMMENT ON COLUMN agentrun.limits.concurrency IS 'Calls at a time.';
COMMENT ON COLUMN agentrun.limits.requests IS 'Calls that the bucket held at filled_at.';
COMMENT ON COLUMN agentrun.limits.tokens IS
    'Tokens that the bucket held at filled_at; if negative, tokens that it owes.';
COMMENT ON COLUMN agentrun.limits.filled_at IS 'When a call last drew from the bucket.';

CREATE TABLE agentrun.permits (
    run_id      uuid        NOT NULL,
    key         text        NOT NULL,
    model       text        NOT NULL,
    worker      text        NOT NULL,
    priority    integer     NOT NULL,
    tokens      bigint      NOT NULL,
    asked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    granted_at  timestamptz,
    PRIMARY KEY (run_id, key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

COMMENT ON TABLE agentrun.permits IS 'Calls that wait for a limit, and those under way.';
COMMENT ON COLUMN agentrun.permits.key IS 'The idempotency key of the step, and the attempt.';
COMMENT ON COLUMN agentrun.permits.model IS 'The limit: `model` in limits.';
COMMENT ON COLUMN agentrun.permits.worker IS 'The worker that makes the call.';
COMMENT ON COLUMN agentrun.permits.priority IS 'Priority of the run; the highest goes first.';
COMMENT ON COLUMN agentrun.permits.tokens IS 'Tokens that the call may use, by estimate.';
COMMENT ON COLUMN agentrun.permits.asked_at IS
    'When the call first asked: its place in the queue.';
COMMENT ON COLUMN agentrun.permits.next_at IS 'When the call asks again, at the earliest.';
COMMENT ON COLUMN agentrun.permits.granted_at IS
    'Since when the call may be made; null: it waits.';

CREATE TABLE agentrun.holds (
    model    text        NOT NULL PRIMARY KEY,
    until    timestamptz NOT NULL,
    circuit  boolean     NOT NULL DEFAULT false,
    worker   text        NOT NULL,
    reason   text        NOT NULL
);

COMMENT ON TABLE agentrun.holds IS 'Models that accept no call for now.';
COMMENT ON COLUMN agentrun.holds.model IS 'Provider and model.';
COMMENT ON COLUMN agentrun.holds.until IS 'When calls may be made again.';
COMMENT ON COLUMN agentrun.holds.circuit IS
    'Whether the reason is failures in a row, so that afterwards one single call tries first.';
COMMENT ON COLUMN agentrun.holds.worker IS 'The worker that found out.';
COMMENT ON COLUMN agentrun.holds.reason IS 'What the provider said to that worker.';


-- Tables: the gateway -----------------------------------------------------------------------------

-- One row per upstream call. It is inserted before the request leaves, and ended by the process
-- that sees the call's end. An open call belongs to a live gateway, or was lost with it: `gateway`
-- names a worker, whose death is declared like that of any other. Rows are deleted when they are
-- old; nothing refers to them.

CREATE TABLE agentrun.gateway_calls (
    key          text        NOT NULL,
    call         integer     NOT NULL,
    fingerprint  text        NOT NULL,
    upstream     text        NOT NULL,
    path         text        NOT NULL,
    status       text        NOT NULL DEFAULT 'open' CHECK (status IN
                     ('open', 'answered', 'refused', 'broken', 'lost')),
    reason       text,
    gateway      text        NOT NULL,
    nonce        uuid        NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at     timestamptz,
    http_status  integer,
    size         bigint,
    PRIMARY KEY (key, call)
);

COMMENT ON TABLE agentrun.gateway_calls IS
    'Calls that `agentrun gateway` made for clients that sent an idempotency key.';
COMMENT ON COLUMN agentrun.gateway_calls.key IS
    'An HMAC of the idempotency key, the caller''s credential and the upstream.';
COMMENT ON COLUMN agentrun.gateway_calls.call IS 'Which upstream call under this key, from 1.';
COMMENT ON COLUMN agentrun.gateway_calls.fingerprint IS
    'Of upstream, path and body, without what clients randomise and the limit on the reply.';
COMMENT ON COLUMN agentrun.gateway_calls.upstream IS 'The provider, as the gateway calls it.';
COMMENT ON COLUMN agentrun.gateway_calls.path IS 'Below the provider''s address, without query.';
COMMENT ON COLUMN agentrun.gateway_calls.status IS
    'open: under way; answered: complete, and served again; refused: certainly not billed; broken: '
    'no complete answer came, possibly billed; lost: its gateway died with it, possibly billed.';
COMMENT ON COLUMN agentrun.gateway_calls.reason IS 'Why it was refused, broken or lost.';
COMMENT ON COLUMN agentrun.gateway_calls.gateway IS 'The gateway process, a row of workers.';
COMMENT ON COLUMN agentrun.gateway_calls.nonce IS 'Of the process that wrote the row.';
COMMENT ON COLUMN agentrun.gateway_calls.started_at IS
    'When the row was written, before the request was sent.';
COMMENT ON COLUMN agentrun.gateway_calls.ended_at IS 'When its end was known.';
COMMENT ON COLUMN agentrun.gateway_calls.http_status IS 'Status of the response, if any came.';
COMMENT ON COLUMN agentrun.gateway_calls.size IS 'Bytes of the answer.';

-- An answer is exactly what agents see, so only gateways read it. It is deleted with its call.
CREATE TABLE agentrun.gateway_answers (
    key      text    NOT NULL,
    call     integer NOT NULL,
    headers  json    NOT NULL,
    digest   text    NOT NULL,
    zstd     bytea   NOT NULL,
    PRIMARY KEY (key, call)
);

COMMENT ON TABLE agentrun.gateway_answers IS
    'Complete answers of upstream calls, exactly as they came. For gateways only.';
COMMENT ON COLUMN agentrun.gateway_answers.key IS 'As in gateway_calls.';
COMMENT ON COLUMN agentrun.gateway_answers.call IS 'Which upstream call under this key, from 1.';
COMMENT ON COLUMN agentrun.gateway_answers.headers IS
    'The headers as they came, pairs of name and value, without cookies.';
COMMENT ON COLUMN agentrun.gateway_answers.digest IS 'Digest of the bytes.';
COMMENT ON COLUMN agentrun.gateway_answers.zstd IS 'The content-decoded bytes, compressed.';

CREATE TABLE agentrun.gateway_secret (
    key  bytea NOT NULL PRIMARY KEY
        DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
);
INSERT INTO agentrun.gateway_secret DEFAULT VALUES;

COMMENT ON TABLE agentrun.gateway_secret IS
    'One row: the key of the HMACs in gateway_calls.';
COMMENT ON COLUMN agentrun.gateway_secret.key IS
    'Random; all gateways of this database share it.';


-- Tables: one row per database, and roles ---------------------------------------------------------

CREATE TABLE agentrun.blob_folder (
    id  uuid NOT NULL PRIMARY KEY DEFAULT gen_random_uuid()
);
INSERT INTO agentrun.blob_folder DEFAULT VALUES;

COMMENT ON TABLE agentrun.blob_folder IS
    'One row: the folder of this database in its blob store, where `prune` removes what no row '
    'names. A copy of the database that writes blobs of its own needs another id first.';
COMMENT ON COLUMN agentrun.blob_folder.id IS
    'Name of the folder under which this database keeps its values in the blob store.';

CREATE TABLE agentrun.mask_key (
    key  bytea NOT NULL PRIMARY KEY
        DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
);
INSERT INTO agentrun.mask_key DEFAULT VALUES;

COMMENT ON TABLE agentrun.mask_key IS
    'One row: the random key of this database. With another key, open runs diverge.';
COMMENT ON COLUMN agentrun.mask_key.key IS
    'Key of the digests in masks and of fingerprints (BLAKE2b).';

CREATE TABLE agentrun.roles (
    role  text NOT NULL PRIMARY KEY CHECK (role IN
              ('reader', 'auditor', 'approver', 'worker', 'operator', 'tools')),
    name  text NOT NULL UNIQUE
);

COMMENT ON TABLE agentrun.roles IS
    'The group roles of this database, made by `agentrun roles create`.';
COMMENT ON COLUMN agentrun.roles.role IS
    'reader, auditor, approver, worker, operator, or tools: the connection of transaction tools.';
COMMENT ON COLUMN agentrun.roles.name IS 'The role''s name in this server.';


-- Indexes -----------------------------------------------------------------------------------------

-- Open runs only: finished runs, which are most, cost nothing here.
CREATE INDEX runs_open ON agentrun.runs (status, created_at)
    WHERE status IN ('queued', 'running', 'waiting', 'held');

-- Runs that are queued now, in the order in which workers take them. A run that begins later is in
-- runs_due, or every claim would have to pass over it. The agent is the last column: a claim passes
-- over runs of agents that it does not know without reading the table.
CREATE INDEX runs_queued ON agentrun.runs (queue, priority DESC, created_at, agent)
    WHERE status = 'queued' AND wake_at IS NULL;

-- Runs by the time at which they are due. Runs that wait for mail alone have no time and no entry.
CREATE INDEX runs_due ON agentrun.runs (wake_at, queue, agent)
    WHERE status IN ('queued', 'waiting', 'held') AND wake_at IS NOT NULL;

-- Runs that are parked because their code diverged. Workers with other code try them again.
CREATE INDEX runs_diverged ON agentrun.runs (agent)
    WHERE status = 'held' AND parked_for = 'divergence';

CREATE INDEX runs_parent ON agentrun.runs (parent) WHERE parent IS NOT NULL;

-- Lists of runs, the newest first: of all agents, or of one.
CREATE INDEX runs_by_age ON agentrun.runs (created_at, run_id);
CREATE INDEX runs_by_agent ON agentrun.runs (agent, created_at, run_id);

-- Where a batch of `prune` begins: at the run that ended first.
CREATE INDEX runs_ended ON agentrun.runs (changed_at, run_id)
    WHERE status IN ('done', 'failed', 'cancelled') AND parent IS NULL;

-- Requests to a person: the views asked and inbox, and each letter, read these and not the journal.
CREATE INDEX journal_requests ON agentrun.journal (run_id, step)
    WHERE event IN ('approval_requested', 'in_doubt');

-- The attempt whose response a provider works on by itself. A webhook names the response.
CREATE INDEX journal_accepted ON agentrun.journal ((output ->> 'response'))
    WHERE event = 'attempt_accepted';

-- Outcomes by kind and time: what people ask across runs.
CREATE INDEX journal_outcomes ON agentrun.journal (kind, at) WHERE event = 'step_finished';

-- The view spend of one day reads these three and not the whole journal: model calls that began,
-- whether a call has an outcome, and outcomes by time.
CREATE INDEX journal_model_intents ON agentrun.journal (at)
    WHERE event = 'attempt_started' AND kind = 'model';
CREATE INDEX journal_model_outcomes ON agentrun.journal (run_id, step)
    WHERE event IN ('attempt_failed', 'step_finished') AND kind = 'model';
CREATE INDEX journal_model_ends ON agentrun.journal (at)
    WHERE event IN ('attempt_failed', 'step_finished') AND kind = 'model';

-- Claims after the first are rare; the view resumes across all runs starts from them.
CREATE INDEX journal_resumes ON agentrun.journal (at) WHERE event = 'claimed' AND epoch > 1;

-- One decision per request. Of two decisions that arrive together, the second finds this entry and
-- is refused.
CREATE UNIQUE INDEX mail_decisions ON agentrun.mail (run_id, answers)
    WHERE kind IN ('approve', 'reject', 'resolve');

-- Letters since the last time that a worker looked for letters without effect.
CREATE INDEX mail_sent ON agentrun.mail (sent_at);

-- What one call of prune removed, and which keys are old enough to be freed.
CREATE INDEX tombstones_by_age ON agentrun.tombstones (pruned_at);

CREATE INDEX reservations_open ON agentrun.reservations (run_id)
    WHERE billing IN ('reserved', 'goes on');

-- The queue, which is empty while there is enough for all; and the calls that `concurrency` counts.
CREATE INDEX permits_line ON agentrun.permits (model, priority DESC, asked_at)
    WHERE granted_at IS NULL;
CREATE INDEX permits_granted ON agentrun.permits (model) WHERE granted_at IS NOT NULL;

CREATE INDEX gateway_calls_open ON agentrun.gateway_calls (gateway) WHERE status = 'open';
CREATE INDEX gateway_calls_ended ON agentrun.gateway_calls (ended_at);


-- Functions: reading ------------------------------------------------------------------------------

-- Recorded values come from models and tools, and may be hostile. So the functions and views that
-- read them use only -> and ->>, which never fail on `json`, and cast nothing that a model or a
-- tool wrote.

CREATE FUNCTION agentrun.text_of(content json) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE json_typeof(content)
        WHEN 'string' THEN content #>> '{}'
        WHEN 'array' THEN (
            SELECT string_agg(CASE json_typeof(part)
                       WHEN 'string' THEN part #>> '{}'
                       WHEN 'object' THEN coalesce(
                           part ->> 'text', part ->> 'refusal', part ->> 'thinking',
                           CASE WHEN part ->> 'type' = 'tool_result' THEN part ->> 'content' END,
                           '[' || (part ->> 'type') || ']')
                   END, E'\n' ORDER BY n)
            FROM json_array_elements(
                CASE json_typeof(content) WHEN 'array' THEN content END
            ) WITH ORDINALITY AS e(part, n))
        WHEN 'object' THEN CASE
            WHEN content -> '$ref' IS NOT NULL THEN '[recorded earlier in this run]'
            ELSE content ->> 'text' END
    END
$$;
COMMENT ON FUNCTION agentrun.text_of(json) IS
    'The readable text of a message''s content, in any provider''s format. Never raises.';

CREATE FUNCTION agentrun.elements(list json) RETURNS TABLE (element json, n bigint)
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT e.value, e.ordinality
    FROM json_array_elements(CASE json_typeof(list) WHEN 'array' THEN list END)
         WITH ORDINALITY AS e
$$;
COMMENT ON FUNCTION agentrun.elements(json) IS
    'The elements of a JSON array with their positions; none for anything else. Never raises.';

CREATE FUNCTION agentrun.listed_steps(output json, name text) RETURNS TABLE (step integer)
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT generate_series((range.element ->> 0)::integer, (range.element ->> 1)::integer)
    FROM agentrun.elements(output -> name) AS range
$$;
COMMENT ON FUNCTION agentrun.listed_steps IS
    'The step numbers that the output of an event lists under a name, as ranges [first, last].';

-- A divergence lists the steps that it sets aside, and the reuse of steps lists those that it takes
-- back. The last event that lists a step decides about it.
CREATE FUNCTION agentrun.set_aside(of_run uuid, before bigint) RETURNS TABLE (step integer)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT latest.step
    FROM (
        SELECT DISTINCT ON (listed.step) listed.step, d.event
        FROM agentrun.journal d
        CROSS JOIN LATERAL agentrun.listed_steps(
            d.output, CASE d.event WHEN 'diverged' THEN 'set_aside' ELSE 'steps' END) AS listed
        WHERE d.run_id = of_run AND d.event IN ('diverged', 'step_reused') AND d.seq < before
        ORDER BY listed.step, d.seq DESC
    ) latest
    WHERE latest.event = 'diverged'
$$;
COMMENT ON FUNCTION agentrun.set_aside IS
    'The steps that accepted divergences and redos before an event of a run have set aside, so that '
    'a resume does not serve them.';

CREATE FUNCTION agentrun.masks_in(shown text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT string_agg(found[1], '; ')
    FROM regexp_matches(
        shown, '\[masked: ([^\]\[\n]{1,80}, \d+ chars), #[0-9a-f]{6}\]', 'g') AS found
$$;
COMMENT ON FUNCTION agentrun.masks_in IS
    'What is masked in a text that people see: kind and length of each mask. Null if nothing is.';

CREATE FUNCTION agentrun.tree(root uuid) RETURNS TABLE (run_id uuid)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    WITH RECURSIVE below AS (
        SELECT root AS run_id
        UNION ALL
        SELECT r.run_id FROM below b JOIN agentrun.runs r ON r.parent = b.run_id
    )
    SELECT run_id FROM below
$$;
COMMENT ON FUNCTION agentrun.tree IS 'A run and all runs below it: its children, and theirs.';

CREATE FUNCTION agentrun.top(below uuid) RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    WITH RECURSIVE above AS (
        SELECT r.run_id, r.parent FROM agentrun.runs r WHERE r.run_id = below
        UNION ALL
        SELECT r.run_id, r.parent FROM above a JOIN agentrun.runs r ON r.run_id = a.parent
    )
    SELECT run_id FROM above WHERE parent IS NULL
$$;
COMMENT ON FUNCTION agentrun.top IS 'The run at the top of the tree of child runs.';

CREATE FUNCTION agentrun.billing(
    event text, status text, codec smallint, output json, cost numeric, input_tokens integer
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN cost IS NOT NULL THEN 'confirmed'
        WHEN input_tokens IS NOT NULL THEN 'unpriced'
        WHEN event = 'step_finished' AND status IN ('ok', 'abandoned') THEN 'unpriced'
        WHEN codec & 8 <> 0 THEN 'possibly billed'
        -- The provider reported an error in a reply with a good status, and counted no tokens.
        WHEN output -> 'error' ->> 'type' = 'NoAnswer' AND output -> 'error' ->> 'billed' = 'false'
            OR output -> 'flaw' ->> 'billed' = 'false'
            THEN 'not billed'
        -- The provider refused the call, or it was never sent.
        WHEN output ->> 'status' ~ '^[45]' OR output -> 'error' ->> 'type' ~ '^HTTP '
            OR coalesce(output -> 'error' ->> 'type', output -> 'error' ->> 0) IN
               ('ConnectError', 'ConnectTimeout', 'PoolTimeout', 'ProxyError',
                'UnsupportedProtocol', 'LocalProtocolError', 'NotSent')
            THEN 'not billed'
        ELSE 'possibly billed'
    END
$$;
COMMENT ON FUNCTION agentrun.billing IS
    'Whether the provider charges for an attempt at a model call that ended like this.';

CREATE FUNCTION agentrun.goes_on(event text, codec smallint, output json) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT event = 'step_finished' AND codec & 8 = 0
           AND output -> 'body' ->> 'status' IN ('queued', 'in_progress')
           AND output -> 'body' ->> 'id' IS NOT NULL
$$;
COMMENT ON FUNCTION agentrun.goes_on IS
    'Whether the answer to a call only says that the provider works on it in the background.';

-- A run asks for a background response several times. Its cost counts once: with the first answer
-- that has the usage.
CREATE FUNCTION agentrun.look(run uuid, output json)
RETURNS TABLE (billing text, cost numeric, input_tokens integer, output_tokens integer)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT agentrun.billing(l.event, l.status, l.codec, l.output, l.cost, l.input_tokens),
           l.cost, l.input_tokens, l.output_tokens
    FROM agentrun.journal l
    WHERE l.run_id = run AND l.kind = 'model' AND l.event = 'step_finished' AND l.effect = 'read'
      AND l.name = 'responses.retrieve ' || (output -> 'body' ->> 'id')
      AND (l.cost IS NOT NULL OR l.input_tokens IS NOT NULL)
    ORDER BY l.seq LIMIT 1
$$;
COMMENT ON FUNCTION agentrun.look IS
    'What the answer to a background call cost, as the run saw it when it asked for the '
    'response.';

CREATE FUNCTION agentrun.size_of(
    run uuid, OUT events bigint, OUT bytes bigint
) LANGUAGE sql STABLE AS $$
    SELECT j.events, j.bytes + p.bytes
    FROM (
        SELECT count(*) AS events,
               coalesce(sum(coalesce(pg_column_size(input), 0)
                            + coalesce(pg_column_size(output), 0)), 0)::bigint AS bytes
        FROM agentrun.journal WHERE run_id = run
    ) j, (
        SELECT coalesce(sum(pg_column_size(zstd)), 0)::bigint AS bytes
        FROM agentrun.payloads WHERE run_id = run
    ) p
$$;
COMMENT ON FUNCTION agentrun.size_of IS
    'Events of a run, and the bytes that its recorded values take, compressed as they are '
    'stored.';

-- An error has one of these forms: the flaw of a reply, an error of agentrun or of the code, the pair
-- (type, message) of a transport error, or the error body of a provider.
CREATE FUNCTION agentrun.error_type(output json) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(
        CASE WHEN output -> 'flaw' ->> 'text' IS NOT NULL THEN 'NoAnswer' END,
        output -> 'error' ->> 'type', output -> 'error' ->> 0, output ->> 'type',
        'HTTP ' || (output ->> 'status'), 'Error')
$$;
COMMENT ON FUNCTION agentrun.error_type IS
    'The kind of error in the output of a failed step or run.';

CREATE FUNCTION agentrun.error_text(output json) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT left(coalesce(
        output -> 'flaw' ->> 'text', output -> 'error' ->> 'message', output -> 'error' ->> 1,
        output ->> 'message', output -> 'body' -> 'error' ->> 'message',
        CASE json_typeof(output -> 'body' -> 'error') WHEN 'string' THEN output -> 'body' ->> 'error'
        END, output -> 'body' ->> 'message', output ->> 'error'), 200)
$$;
COMMENT ON FUNCTION agentrun.error_text IS
    'The message of the error in the output of a failed step or run, 200 characters at most.';

CREATE FUNCTION agentrun.is_control_flow(output json) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(json_typeof(output) = 'object' AND output ->> 'control_flow' = 'true', false)
$$;
COMMENT ON FUNCTION agentrun.is_control_flow IS
    'Whether the error in the output of a step is how a framework pauses or ends its agent, and '
    'so no failure.';

-- A letter that cannot be read does not take the place of one that can.
CREATE FUNCTION agentrun.is_readable(kind text, payload json) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT json_typeof(payload) IS NOT DISTINCT FROM 'object' AND CASE kind
        WHEN 'resolve' THEN
            coalesce(payload ->> 'outcome' IN ('happened', 'not_happened', 'unknown'), false)
        ELSE coalesce(json_typeof(payload -> 'arguments') IN ('object', 'null'), true)
            AND coalesce(json_typeof(payload -> 'budget') IN ('object', 'null'), true)
            AND coalesce(
                payload ->> 'expires' ~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*(Z|[+-]\d\d:?\d\d)$',
                true)
    END
$$;
COMMENT ON FUNCTION agentrun.is_readable IS
    'Whether a letter of this kind decides anything: its payload has the shape of a decision.';


-- Functions: writing ------------------------------------------------------------------------------

-- Send a letter to a run, in plain SQL:
--     SELECT agentrun.send('ticket-42', 'approve', 3, '{}', 'ada');
--
-- The sender chooses the letter's id, so a letter that is sent twice exists once. A parked run
-- becomes due, and its owner journals that it read the letter. The run's row is locked meanwhile:
-- either `prune` leaves the run alone, or the sender gets an error that the run was pruned. The
-- trigger `mail_stamp` compares a decision with the open request. `fingerprint` is that of the
-- request the sender has seen; null means the request that is open now. The function runs with the
-- rights of the owner, so that an approver needs no right to write to mail and runs.
CREATE FUNCTION agentrun.send(
    run_key text, kind text, step integer DEFAULT NULL, payload json DEFAULT '{}',
    claimed_by text DEFAULT NULL, reason text DEFAULT NULL, codec smallint DEFAULT 0,
    id uuid DEFAULT gen_random_uuid(), fingerprint text DEFAULT NULL, signed_by text DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target uuid;
    first text;
BEGIN
    SELECT r.run_id INTO target FROM agentrun.runs r WHERE r.key = run_key FOR KEY SHARE;
    IF target IS NULL THEN
        RAISE EXCEPTION '%', CASE WHEN EXISTS (
                SELECT FROM agentrun.tombstones t WHERE t.key = run_key
            ) THEN format('the run %L was pruned', run_key)
            ELSE format('no run has the key %L', run_key) END
            USING ERRCODE = 'no_data_found';
    END IF;
    INSERT INTO agentrun.mail (
        run_id, id, kind, step, fingerprint, claimed_by, signed_by, reason, codec, payload)
    VALUES (target, send.id, send.kind, send.step, send.fingerprint, send.claimed_by,
            send.signed_by, send.reason, send.codec, send.payload)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND AND NOT EXISTS (
        SELECT FROM agentrun.mail m WHERE m.run_id = target AND m.id = send.id
    ) THEN
        SELECT format('%s %s %s s ago, and no worker has taken it up yet',
                      coalesce(d.signed_by, d.claimed_by, d.by),
                      CASE d.decision WHEN 'approve' THEN 'approved it'
                          WHEN 'reject' THEN 'rejected it' ELSE 'resolved it' END,
                      round(extract(epoch FROM clock_timestamp() - d.decided_at)))
        INTO first FROM agentrun.decided d WHERE d.run_id = target AND d.step = send.step;
        RAISE EXCEPTION 'step % of run % is decided already: %', send.step, quote_literal(run_key),
            coalesce(first, 'the run has taken up the decision just now')
            USING ERRCODE = 'unique_violation';
    END IF;
    SELECT format('%s %s it %s s ago', coalesce(m.signed_by, m.claimed_by, m.by),
                  replace(j.status, '_', ' '), round(extract(epoch FROM clock_timestamp() - j.at)))
    INTO first
    FROM agentrun.mail late
    JOIN agentrun.journal j
      ON j.run_id = late.run_id AND j.step = late.step AND j.event = 'resolved'
    JOIN agentrun.mail m ON m.run_id = j.run_id AND m.id::text = j.key
    WHERE late.run_id = target AND late.id = send.id AND late.answers IS NULL
      AND late.kind IN ('approve', 'reject', 'resolve')
    ORDER BY j.seq DESC LIMIT 1;
    IF first IS NOT NULL THEN
        RAISE EXCEPTION 'step % of run % is decided already: %', send.step, quote_literal(run_key),
            first
            USING ERRCODE = 'unique_violation';
    END IF;
    UPDATE agentrun.runs r SET wake_at = clock_timestamp()
    WHERE r.run_id = target AND r.status IN ('waiting', 'held');
    RETURN send.id;
END $$;
COMMENT ON FUNCTION agentrun.send IS
    'Send a letter to a run: a signal, an approval, a decision, a cancellation. Returns its id.';

-- The journal stays append-only, with one exception, and no setting opens it: a run is deleted only
-- when it has ended and has a tombstone, and the rows of a run only when the run itself is deleted.
--
-- A tree of runs is removed as a whole, once the run at its top and all runs below ended before
-- `ended_before`. Status and agent are asked of the run at the top only. One call is one batch in
-- one transaction. The next call goes on after `until_at` and `until_id`, which are null when no
-- run was left to look at.
CREATE FUNCTION agentrun.prune(
    ended_before timestamptz,
    statuses text[] DEFAULT '{done,failed,cancelled}',
    of_agent text DEFAULT NULL,
    dry_run boolean DEFAULT false,
    batch uuid DEFAULT gen_random_uuid(),
    after_at timestamptz DEFAULT '-infinity',
    after_id uuid DEFAULT '00000000-0000-0000-0000-000000000000',
    most_runs integer DEFAULT 500,
    most_bytes bigint DEFAULT 16777216,
    OUT runs bigint, OUT events bigint, OUT bytes bigint,
    OUT until_at timestamptz, OUT until_id uuid
) LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tree   record;
    size   record;
    locked bigint;
    gone   uuid[] := '{}';
BEGIN
    runs := 0; events := 0; bytes := 0;
    FOR tree IN
        SELECT top.run_id, top.changed_at, below.*
        FROM (
            SELECT r.run_id, r.changed_at FROM agentrun.runs r
            WHERE r.status IN ('done', 'failed', 'cancelled') AND r.status = ANY (statuses)
              AND r.changed_at < ended_before AND (r.changed_at, r.run_id) > (after_at, after_id)
              AND r.parent IS NULL AND (of_agent IS NULL OR r.agent = of_agent)
            ORDER BY r.changed_at, r.run_id LIMIT most_runs
        ) top
        CROSS JOIN LATERAL (
            SELECT array_agg(r.run_id) AS ids,
                   bool_and(r.status IN ('done', 'failed', 'cancelled')
                            AND r.changed_at < ended_before) AS is_over
            FROM agentrun.tree(top.run_id) t JOIN agentrun.runs r USING (run_id)
        ) below
        ORDER BY top.changed_at, top.run_id
    LOOP
        until_at := tree.changed_at; until_id := tree.run_id;
        CONTINUE WHEN tree.is_over IS NOT TRUE;
        IF NOT dry_run THEN
            -- A session that is about to claim a run of the tree, to send it a letter or to begin a
            -- child run has locked its row, or has finished since: then the tree is kept. A session
            -- that comes later waits for this transaction, and finds the run deleted.
            PERFORM FROM agentrun.runs r
            WHERE r.run_id = ANY (tree.ids) AND r.status IN ('done', 'failed', 'cancelled')
              AND r.changed_at < ended_before
            FOR UPDATE SKIP LOCKED;
            GET DIAGNOSTICS locked = ROW_COUNT;
            CONTINUE WHEN locked < (SELECT count(*) FROM agentrun.tree(tree.run_id));
            gone := gone || tree.ids;
        END IF;
        WITH found AS (
            SELECT r.run_id, r.key, r.agent, r.status, r.changed_at, s.events, s.bytes
            FROM agentrun.runs r CROSS JOIN LATERAL agentrun.size_of(r.run_id) s
            WHERE r.run_id = ANY (tree.ids)
        ), buried AS (
            INSERT INTO agentrun.tombstones
                (run_id, key, agent, status, ended_at, events, bytes, batch)
            SELECT f.*, prune.batch FROM found f WHERE NOT dry_run
        )
        SELECT sum(f.events) AS events, sum(f.bytes) AS bytes INTO size FROM found f;
        runs := runs + cardinality(tree.ids);
        events := events + size.events;
        bytes := bytes + size.bytes;
        EXIT WHEN runs >= most_runs OR bytes >= most_bytes;
    END LOOP;
    DELETE FROM agentrun.runs r WHERE r.run_id = ANY (gone);
    DELETE FROM agentrun.journal j WHERE j.run_id = ANY (gone);
    DELETE FROM agentrun.summaries s WHERE s.run_id = ANY (gone);
    DELETE FROM agentrun.payloads p WHERE p.run_id = ANY (gone);
    DELETE FROM agentrun.mail m WHERE m.run_id = ANY (gone);
    DELETE FROM agentrun.late_results l WHERE l.run_id = ANY (gone);
    DELETE FROM agentrun.exact_values x WHERE x.run_id = ANY (gone);
    DELETE FROM agentrun.budgets b WHERE b.run_id = ANY (gone);
    DELETE FROM agentrun.reservations v WHERE v.run_id = ANY (gone);
    DELETE FROM agentrun.counted_calls c WHERE c.run_id = ANY (gone);
    DELETE FROM agentrun.permits q WHERE q.run_id = ANY (gone);
END $$;
COMMENT ON FUNCTION agentrun.prune IS
    'Remove one batch of finished runs that ended before this time, whole trees only, and leave '
    'tombstones of their keys. Returns how much that was, and where the next batch begins.';

-- Returns 0 if the call may be made now, or else in how many seconds to ask again. A call that asks
-- again keeps its place in the queue, which is by priority and then by the time of its first
-- question. No call takes what a call before it could have. A call that asks again more than a
-- second too late does not hold up others.
CREATE FUNCTION agentrun.permit(
    of_run uuid, of_key text, of_model text, of_worker text, of_priority integer, of_tokens bigint
) RETURNS double precision LANGUAGE plpgsql AS $$
DECLARE
    l      agentrun.limits;
    other  record;
    moment timestamptz;
    -- What one second adds to the bucket. It is a little less than allowed, so that no minute of
    -- the provider's clock, which may begin at any time, contains more than the limit.
    calls  double precision;
    flow   double precision;
    -- What is in the bucket, and then what calls before this one leave of it.
    turns  double precision;
    room   double precision;
    places bigint := 0;
    since  timestamptz;  -- when this call first asked
    wait   double precision;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT * INTO l FROM agentrun.limits WHERE model = of_model FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;  -- the limit was removed
    END IF;
    moment := clock_timestamp();
    calls := l.rpm * 0.97 / 60;
    flow := l.tpm * 0.97 / 60;
    -- A bucket holds what one second adds, and at least one call.
    wait := extract(epoch FROM moment - l.filled_at);
    l.requests := least(greatest(1, calls), l.requests + calls * wait);
    l.tokens := coalesce(least(flow, l.tokens + flow * wait), 0);
    turns := l.requests;
    room := l.tokens;
    SELECT asked_at INTO since FROM agentrun.permits
    WHERE run_id = of_run AND key = of_key AND model = of_model;
    since := coalesce(since, moment);

    FOR other IN
        SELECT a.run_id, a.key, a.tokens FROM agentrun.permits a
        WHERE a.model = of_model AND a.granted_at IS NULL
          AND a.next_at BETWEEN moment - interval '1 s' AND moment
          AND (a.priority > of_priority OR a.priority = of_priority AND a.asked_at < since)
    LOOP
        turns := turns - 1;
        room := room - other.tokens;
        places := places - 1;
    END LOOP;
    IF l.concurrency IS NOT NULL THEN
        SELECT l.concurrency + places - count(*) INTO places
        FROM agentrun.permits g JOIN agentrun.workers w USING (worker)
        WHERE g.model = of_model AND g.granted_at IS NOT NULL
          AND NOT (g.run_id = of_run AND g.key = of_key)
          -- Calls of dead workers no longer count.
          AND w.dead_at IS NULL AND w.beat_at + w.lease >= moment;
    END IF;
    wait := greatest(
        CASE WHEN turns < 1 THEN (1 - turns) / calls END,
        -- A call that needs more tokens than a bucket holds goes when the bucket is full. The rest
        -- is owed: the bucket is negative until time has filled it.
        CASE WHEN room < least(of_tokens, flow) THEN (least(of_tokens, flow) - room) / flow END,
        CASE WHEN l.concurrency IS NOT NULL AND places < 1 THEN 0.05 END);
    IF wait > 0 THEN
        INSERT INTO agentrun.permits
            (run_id, key, model, worker, priority, tokens, asked_at, next_at)
        VALUES (of_run, of_key, of_model, of_worker, of_priority, of_tokens, since,
                moment + make_interval(secs => wait))
        ON CONFLICT (run_id, key) DO UPDATE
        SET model = excluded.model, worker = excluded.worker, priority = excluded.priority,
            tokens = excluded.tokens, asked_at = excluded.asked_at, next_at = excluded.next_at,
            granted_at = NULL;
        -- The calls of a dead worker keep their place for a day, so that another worker can go on.
        DELETE FROM agentrun.permits d USING agentrun.workers w
        WHERE d.model = of_model AND w.worker = d.worker AND d.next_at < moment - interval '1 day'
          AND (w.dead_at IS NOT NULL OR w.beat_at + w.lease < moment);
        RETURN wait;
    END IF;
    -- Where only calls per minute are limited, nothing is left to do when the call ends.
    IF l.tpm IS NULL AND l.concurrency IS NULL THEN
        DELETE FROM agentrun.permits WHERE run_id = of_run AND key = of_key;
    ELSE
        INSERT INTO agentrun.permits
            (run_id, key, model, worker, priority, tokens, asked_at, granted_at)
        VALUES (of_run, of_key, of_model, of_worker, of_priority, of_tokens, since, moment)
        ON CONFLICT (run_id, key) DO UPDATE
        SET model = excluded.model, worker = excluded.worker, tokens = excluded.tokens,
            granted_at = excluded.granted_at;
    END IF;
    -- Only this call's share is drawn. The calls before it have not taken theirs yet.
    UPDATE agentrun.limits
    SET requests = l.requests - 1, tokens = l.tokens - of_tokens, filled_at = moment
    WHERE model = of_model;
    RETURN 0;
END $$;
COMMENT ON FUNCTION agentrun.permit IS
    'Whether a model call may be made now: 0, or in how many seconds to ask again.';

-- The call is over, or will not be made. What it did not use goes back into the bucket.
CREATE FUNCTION agentrun.release(of_run uuid, of_key text, of_worker text, used bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    WITH over AS (
        DELETE FROM agentrun.permits p
        WHERE p.run_id = of_run AND p.key = of_key AND p.worker = of_worker
        RETURNING p.model, p.tokens, p.granted_at
    )
    UPDATE agentrun.limits l SET tokens = l.tokens + o.tokens - used
    FROM over o
    WHERE l.model = o.model AND o.granted_at IS NOT NULL AND o.tokens <> used;
END $$;
COMMENT ON FUNCTION agentrun.release IS
    'End the permit of a model call, and put back what the call did not use.';


-- Functions: rights -------------------------------------------------------------------------------

-- The owner of the schema and a superuser may do everything, since they could drop these checks.
-- Every other login gets its rights from a role. Where a grant is too coarse, triggers check what a
-- role writes.
--
-- Functions that check rights, and functions of triggers, set search_path: a temporary table of the
-- session, such as a pg_settings of its own, would otherwise be found before that of the catalog.

CREATE FUNCTION agentrun.is_owner() RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_has_role(session_user, c.relowner, 'USAGE')
    FROM pg_class c WHERE c.oid = 'agentrun.runs'::regclass
$$;
COMMENT ON FUNCTION agentrun.is_owner IS
    'Whether the session''s login may do whatever the owner of the schema may.';

CREATE FUNCTION agentrun.plays(VARIADIC wanted text[]) RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM agentrun.roles r JOIN pg_roles p ON p.rolname = r.name
        WHERE r.role = ANY (wanted) AND pg_has_role(session_user, p.oid, 'MEMBER'))
$$;
COMMENT ON FUNCTION agentrun.plays IS
    'Whether the session''s login is a member of one of these roles.';


-- Functions: triggers -----------------------------------------------------------------------------

CREATE FUNCTION agentrun.refuse_change() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'agentrun.% is append-only: % refused', TG_TABLE_NAME, TG_OP
        USING HINT = 'The journal is the record of what happened; it is never edited.';
END $$;
COMMENT ON FUNCTION agentrun.refuse_change IS 'Refuses a statement on an append-only table.';

CREATE FUNCTION agentrun.refuse_removal() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM (SELECT DISTINCT run_id FROM removed) m
        LEFT JOIN agentrun.tombstones t USING (run_id)
        LEFT JOIN agentrun.runs r USING (run_id)
        WHERE t.run_id IS NULL OR r.run_id IS NOT NULL
    ) THEN
        RAISE EXCEPTION 'agentrun.% is append-only: % refused', TG_TABLE_NAME, TG_OP
            USING HINT = 'Finished runs are removed whole, by `agentrun prune`.';
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION agentrun.refuse_removal IS
    'Refuses to delete rows of a run that has no tombstone, or still exists.';

CREATE FUNCTION agentrun.refuse_removal_of_runs() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM removed m LEFT JOIN agentrun.tombstones t USING (run_id)
        WHERE t.run_id IS NULL OR m.status NOT IN ('done', 'failed', 'cancelled')
    ) THEN
        RAISE EXCEPTION 'agentrun.runs keeps what is not pruned: % refused', TG_OP
            USING HINT = 'Finished runs are removed whole, by `agentrun prune`.';
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION agentrun.refuse_removal_of_runs IS
    'Refuses to delete a run that has not ended, or has no tombstone.';

-- The statement that creates a run looks for a tombstone first. While it waits for a run of the
-- same key to be deleted, a tombstone may be committed that its snapshot does not see. This later
-- look does, and the statement has to begin anew.
CREATE FUNCTION agentrun.refuse_pruned_key() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM agentrun.tombstones t WHERE t.key = NEW.key) THEN
        RAISE EXCEPTION 'the run % was pruned a moment ago', quote_literal(NEW.key)
            USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION agentrun.refuse_pruned_key IS
    'Refuses a new run whose key was pruned a moment ago.';

-- A run's row is a projection of its journal. A login that is not the owner of the schema cannot
-- make the row say anything that no event says. Such a login can only append events.
CREATE FUNCTION agentrun.refuse_made_up_status() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text;
BEGIN
    IF NOT EXISTS (SELECT FROM now_so) OR agentrun.is_owner() THEN
        RETURN NULL;
    END IF;
    SELECT n.key INTO wrong
    FROM now_so n JOIN was w USING (run_id)
    CROSS JOIN LATERAL (
        SELECT j.epoch, j.worker, CASE j.event
                   WHEN 'created' THEN 'queued'
                   WHEN 'claimed' THEN 'running'
                   WHEN 'handed_back' THEN 'queued'
                   WHEN 'run_finished' THEN 'done'
                   WHEN 'run_failed' THEN 'failed'
                   WHEN 'run_cancelled' THEN 'cancelled'
                   WHEN 'parked' THEN CASE j.status WHEN 'waiting' THEN 'waiting' ELSE 'held' END
               END AS status
        FROM agentrun.journal j
        WHERE j.run_id = n.run_id AND j.event IN ('created', 'claimed', 'handed_back',
              'run_finished', 'run_failed', 'run_cancelled', 'parked')
        ORDER BY j.seq DESC LIMIT 1
    ) last
    WHERE (n.status, n.owner, n.epoch) IS DISTINCT FROM (w.status, w.owner, w.epoch)
      AND (n.status, n.epoch, n.owner) IS DISTINCT FROM
          (last.status, last.epoch, CASE last.status WHEN 'running' THEN last.worker END)
    LIMIT 1;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the status of run % follows its journal: UPDATE refused',
            quote_literal(wrong)
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Use `agentrun cancel`, `approve`, `resolve` or `resume`.';
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION agentrun.refuse_made_up_status IS
    'Refuses a status, owner or epoch of a run that its journal does not give it.';

-- An approver approves and rejects. Other letters are for workers and operators.
CREATE FUNCTION agentrun.refuse_other_letters() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    other text;
BEGIN
    SELECT s.kind INTO other FROM sent s WHERE s.kind NOT IN ('approve', 'reject') LIMIT 1;
    IF other IS NULL OR agentrun.is_owner() OR agentrun.plays('worker', 'operator')
       OR NOT agentrun.plays('approver') THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'an approver may approve and reject, and not %', other
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'That takes the role of operators: `agentrun roles`.';
END $$;
COMMENT ON FUNCTION agentrun.refuse_other_letters IS
    'Refuses letters of an approver that neither approve nor reject.';

-- Whether a letter is written by `send` or by an INSERT: the database says who sent it and when,
-- and a decision answers the request that is open now, or none. A `transaction` tool may not
-- decide. Its session began with an application_name that no SQL can change: SET changes the
-- setting, but the name stays in reset_val.
CREATE FUNCTION agentrun.stamp() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    open record;
BEGIN
    NEW.by := session_user;
    NEW.sent_at := clock_timestamp();
    NEW.answers := NULL;
    IF NEW.kind NOT IN ('approve', 'reject', 'resolve') THEN
        RETURN NEW;
    END IF;
    IF EXISTS (SELECT FROM pg_settings
               WHERE name = 'application_name' AND reset_val = 'agentrun tool') THEN
        RAISE EXCEPTION 'a tool cannot decide: % was sent on the connection of a tool', NEW.kind
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    SELECT a.seq, a.fingerprint, a.waits_for INTO open
    FROM agentrun.asked a WHERE a.run_id = NEW.run_id AND a.step = NEW.step;
    IF open.seq IS NOT NULL AND agentrun.is_readable(NEW.kind, NEW.payload)
       AND (NEW.kind = 'resolve') = (open.waits_for = 'doubt')
       AND coalesce(NEW.fingerprint = open.fingerprint, true) THEN
        NEW.answers := open.seq;
        NEW.fingerprint := open.fingerprint;
    ELSE
        RAISE WARNING 'this letter counts for nothing: step % does not ask for %', NEW.step,
            CASE NEW.kind WHEN 'resolve' THEN 'such a resolution' ELSE 'such a decision' END;
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION agentrun.stamp IS
    'Writes on a letter who sent it, when, and which request it answers; refuses decisions of '
    'tools.';

CREATE FUNCTION agentrun.forget_partials() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM agentrun.partials p USING gone WHERE p.run_id = gone.run_id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION agentrun.forget_partials IS
    'Deletes the partial replies of pruned runs, which a crash may have left.';


-- Triggers ----------------------------------------------------------------------------------------

-- Only the triggers of new letters and of new runs are per row. The others cost one call per
-- statement.

CREATE TRIGGER runs_append_only BEFORE TRUNCATE ON agentrun.runs
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_change();
CREATE TRIGGER runs_kept AFTER DELETE ON agentrun.runs
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_removal_of_runs();
CREATE TRIGGER runs_not_pruned AFTER INSERT ON agentrun.runs
    FOR EACH ROW EXECUTE FUNCTION agentrun.refuse_pruned_key();
CREATE TRIGGER runs_follow_the_journal AFTER UPDATE ON agentrun.runs
    REFERENCING OLD TABLE AS was NEW TABLE AS now_so
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_made_up_status();
CREATE TRIGGER partials_gone AFTER DELETE ON agentrun.runs
    REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.forget_partials();

CREATE TRIGGER journal_append_only BEFORE UPDATE OR TRUNCATE ON agentrun.journal
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_change();
CREATE TRIGGER journal_kept AFTER DELETE ON agentrun.journal
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_removal();

CREATE TRIGGER payloads_append_only BEFORE TRUNCATE ON agentrun.payloads
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_change();

CREATE TRIGGER exact_values_append_only BEFORE UPDATE OR TRUNCATE ON agentrun.exact_values
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_change();
CREATE TRIGGER exact_values_kept AFTER DELETE ON agentrun.exact_values
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_removal();

CREATE TRIGGER late_results_append_only BEFORE UPDATE OR TRUNCATE ON agentrun.late_results
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_change();
CREATE TRIGGER late_results_kept AFTER DELETE ON agentrun.late_results
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_removal();

CREATE TRIGGER mail_append_only BEFORE TRUNCATE ON agentrun.mail
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_change();
CREATE TRIGGER mail_stamp BEFORE INSERT ON agentrun.mail
    FOR EACH ROW EXECUTE FUNCTION agentrun.stamp();
CREATE TRIGGER mail_by_role AFTER INSERT ON agentrun.mail
    REFERENCING NEW TABLE AS sent
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_other_letters();

CREATE TRIGGER tombstones_append_only BEFORE TRUNCATE ON agentrun.tombstones
    FOR EACH STATEMENT EXECUTE FUNCTION agentrun.refuse_change();


-- Rights ------------------------------------------------------------------------------------------

-- The privileges of the roles are granted by store/roles.py.

REVOKE ALL ON agentrun.exact_values FROM PUBLIC;
REVOKE ALL ON agentrun.mask_key FROM PUBLIC;
REVOKE ALL ON agentrun.gateway_answers FROM PUBLIC;
REVOKE ALL ON agentrun.gateway_secret FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION agentrun.send FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION agentrun.prune FROM PUBLIC;


-- Views: what happened ----------------------------------------------------------------------------

-- Views run with the rights of the reader (security_invoker), since otherwise they would bypass
-- row-level security.

CREATE VIEW agentrun.steps WITH (security_invoker = true) AS
SELECT j.run_id, r.key, r.agent, j.seq, j.step, j.turn, j.kind, j.name, j.ident, j.effect,
       j.status, j.attempt, j.key AS idempotency_key, j.model, j.input_tokens, j.output_tokens,
       j.cached_tokens, j.cache_write_tokens, j.cache_lost_tokens, j.reasoning_tokens,
       j.audio_tokens, j.cost, j.cache_lost, j.priced_by, j.worker, j.epoch, j.started_at, j.at,
       round(extract(epoch FROM j.at - j.started_at) * 1000)::bigint AS duration_ms,
       j.codec, j.input, j.output, j.masked
FROM agentrun.journal j JOIN agentrun.runs r USING (run_id)
WHERE j.event = 'step_finished';
COMMENT ON VIEW agentrun.steps IS
    'Outcomes of steps. A step that was reopened has a row for each outcome; the last one '
    'counts.';

CREATE VIEW agentrun.tool_calls WITH (security_invoker = true) AS
SELECT run_id, key, agent, seq, step, turn, name, effect, status, attempt, idempotency_key,
       CASE WHEN codec & 4 <> 0 THEN input ELSE input -> 'args' END AS args,
       CASE WHEN codec & 8 <> 0 THEN output ELSE output -> 'result' END AS result,
       CASE WHEN codec & 8 = 0 THEN output -> 'error' ->> 'type' END AS error_type,
       CASE WHEN codec & 8 = 0 THEN output -> 'error' ->> 'message' END AS error,
       worker, started_at, at, duration_ms, masked
FROM agentrun.steps
WHERE kind = 'tool';
COMMENT ON VIEW agentrun.tool_calls IS 'Outcomes of tool calls: who did what, with what result.';

CREATE VIEW agentrun.model_calls WITH (security_invoker = true) AS
SELECT run_id, key, agent, seq, step, turn, model, status, attempt, idempotency_key,
       output ->> 'status' AS http_status,
       coalesce(output -> 'body' -> 'choices' -> 0 ->> 'finish_reason',
                output -> 'body' ->> 'stop_reason',
                output -> 'body' ->> 'status') AS finish_reason,
       output ->> 'ending' AS ending,
       input_tokens, output_tokens, cached_tokens, cache_write_tokens, cache_lost_tokens,
       reasoning_tokens, audio_tokens, cost, cache_lost, priced_by, worker, started_at, at,
       duration_ms, masked
FROM agentrun.steps
WHERE kind = 'model';
COMMENT ON VIEW agentrun.model_calls IS 'Outcomes of model calls.';
COMMENT ON COLUMN agentrun.model_calls.http_status IS 'Status of the provider''s answer, as text.';
COMMENT ON COLUMN agentrun.model_calls.finish_reason IS 'Why the model stopped, as it says.';
COMMENT ON COLUMN agentrun.model_calls.ending IS
    'complete, abandoned (the code stopped reading) or cut (the connection broke).';

CREATE VIEW agentrun.turns WITH (security_invoker = true) AS
SELECT run_id, key, agent, turn,
       min(started_at) AS started_at,
       max(at) AS at,
       round(extract(epoch FROM max(at) - min(started_at)) * 1000)::bigint AS duration_ms,
       count(*) FILTER (WHERE kind = 'model') AS model_calls,
       count(*) FILTER (WHERE kind = 'tool') AS tool_calls,
       count(*) FILTER (
           WHERE status = 'error'
             AND NOT (codec & 8 = 0 AND agentrun.is_control_flow(output))) AS errors,
       sum(input_tokens) AS input_tokens,
       sum(output_tokens) AS output_tokens,
       sum(cost) AS cost,
       count(*) FILTER (WHERE kind = 'model' AND cost IS NULL
                        AND (status <> 'error' OR input_tokens IS NOT NULL)) AS unpriced
FROM agentrun.steps
WHERE turn IS NOT NULL
GROUP BY run_id, key, agent, turn;
COMMENT ON VIEW agentrun.turns IS 'Sums over the finished steps of each turn.';
COMMENT ON COLUMN agentrun.turns.started_at IS 'When its first step began.';
COMMENT ON COLUMN agentrun.turns.at IS 'When its last step ended.';
COMMENT ON COLUMN agentrun.turns.model_calls IS 'Number of model calls.';
COMMENT ON COLUMN agentrun.turns.tool_calls IS 'Number of tool calls.';
COMMENT ON COLUMN agentrun.turns.errors IS 'Number of steps that ended in an error.';
COMMENT ON COLUMN agentrun.turns.cost IS 'US dollars of the priced model calls; see unpriced.';
COMMENT ON COLUMN agentrun.turns.unpriced IS 'Model calls whose price is not known.';

CREATE VIEW agentrun.attempts WITH (security_invoker = true) AS
SELECT j.run_id, r.key, r.agent, j.seq, j.step, j.turn, j.kind, j.name, j.model, j.effect,
       j.attempt, true AS answered,
       CASE WHEN j.status = 'not_sent' THEN 'not sent' WHEN j.event = 'attempt_failed' THEN 'failed'
            ELSE j.status END AS status,
       CASE WHEN j.codec & 8 = 0 THEN j.output -> 'error' ->> 'type' END AS error_type,
       CASE WHEN j.codec & 8 = 0 THEN j.output -> 'error' ->> 'message' END AS error,
       j.reason, j.key AS idempotency_key, j.worker, j.epoch, j.started_at, j.at, j.masked
FROM agentrun.journal j JOIN agentrun.runs r USING (run_id)
WHERE j.event IN ('attempt_failed', 'step_finished')
UNION ALL
SELECT a.run_id, r.key, r.agent, a.seq, a.step, a.turn, a.kind, a.name, a.model, a.effect,
       a.attempt, false,
       CASE WHEN r.status = 'running' AND r.epoch = a.epoch AND w.dead_at IS NULL
                 AND w.beat_at + w.lease >= clock_timestamp() THEN 'running'
            -- The provider works on it by itself; the next owner of the run asks for the response.
            WHEN r.status IN ('queued', 'running', 'waiting', 'held') AND EXISTS (
                SELECT FROM agentrun.journal x
                WHERE x.run_id = a.run_id AND x.step = a.step AND x.attempt = a.attempt
                  AND x.event = 'attempt_accepted') THEN 'running'
            ELSE 'no outcome' END,
       NULL, NULL, NULL, a.key, a.worker, a.epoch, a.at, NULL, a.masked
FROM agentrun.journal a JOIN agentrun.runs r USING (run_id)
LEFT JOIN agentrun.workers w ON w.worker = r.owner
WHERE a.event = 'attempt_started'
  AND NOT EXISTS (
      SELECT FROM agentrun.journal o
      WHERE o.run_id = a.run_id AND o.step = a.step AND o.kind = a.kind AND o.seq > a.seq
        AND o.event IN ('attempt_failed', 'step_finished')
        -- An earlier attempt's answer may come late and be adopted; then this one was not sent.
        AND (o.attempt = a.attempt OR o.attempt < a.attempt AND o.event = 'step_finished'));
COMMENT ON VIEW agentrun.attempts IS 'Every attempt at a step, including those without an outcome.';
COMMENT ON COLUMN agentrun.attempts.seq IS 'Journal row of the outcome, or else of the intent.';
COMMENT ON COLUMN agentrun.attempts.answered IS
    'Whether an outcome is recorded. If not, the effect may or may not have taken place.';
COMMENT ON COLUMN agentrun.attempts.status IS
    'ok, error, abandoned, cancelled; failed: another attempt followed; not sent: the run was '
    'stopped first; running: its worker is alive; no outcome: its worker was lost.';
COMMENT ON COLUMN agentrun.attempts.started_at IS 'When the attempt began.';
COMMENT ON COLUMN agentrun.attempts.at IS 'When it ended; null without an outcome.';

CREATE VIEW agentrun.transcript WITH (security_invoker = true) AS
WITH said AS (  -- runs is joined in each part, so that a condition on its key reaches the index
    SELECT r.run_id, r.key, a.seq, a.step, a.turn, a.at, e.n, e.element AS message, a.masked,
           false AS reply, json_typeof(m.list) = 'array' AS whole
    FROM agentrun.runs r JOIN agentrun.journal a USING (run_id)
    CROSS JOIN LATERAL (
        SELECT coalesce(a.input -> 'body' -> 'messages', a.input -> 'body' -> 'input') AS list
    ) m
    CROSS JOIN LATERAL agentrun.elements(
        CASE json_typeof(m.list)
            WHEN 'array' THEN m.list
            WHEN 'object' THEN m.list -> 'then'  -- only what is new in this request
            WHEN 'string' THEN json_build_array(
                json_build_object('role', 'user', 'content', m.list))
        END) e
    WHERE a.event = 'attempt_started' AND a.kind = 'model' AND a.attempt = 1
      AND a.codec & 4 = 0
    UNION ALL
    SELECT r.run_id, r.key, o.seq, o.step, o.turn, o.at, e.n, e.message, o.masked, true, false
    FROM agentrun.runs r JOIN agentrun.journal o USING (run_id)
    CROSS JOIN LATERAL (SELECT o.output -> 'body' AS body) b
    CROSS JOIN LATERAL (
        SELECT c.n, c.element -> 'message' AS message FROM agentrun.elements(b.body -> 'choices') c
        UNION ALL
        SELECT i.n, i.element FROM agentrun.elements(b.body -> 'output') i
        UNION ALL
        SELECT 1, b.body WHERE json_typeof(b.body -> 'content') = 'array'
    ) e
    WHERE o.event = 'step_finished' AND o.kind = 'model' AND o.codec & 8 = 0
    UNION ALL
    SELECT r.run_id, r.key, p.seq, p.step, p.turn, p.at, 1,
           json_build_object('role', CASE p.event WHEN 'step_finished' THEN 'assistant'
                                                  ELSE 'request' END,
                             'content', '[in payloads] ' || coalesce(v.value ->> 'preview', '')),
           p.masked, true, false
    FROM agentrun.runs r JOIN agentrun.journal p USING (run_id)
    CROSS JOIN LATERAL (
        SELECT CASE p.event WHEN 'step_finished' THEN p.output ELSE p.input END AS value
    ) v
    WHERE p.kind = 'model'
      AND (p.event = 'attempt_started' AND p.attempt = 1 AND p.codec & 4 <> 0
           OR p.event = 'step_finished' AND p.codec & 8 <> 0)
), messages AS (
    SELECT s.run_id, s.key, s.seq, s.n AS position, s.step, s.turn,
           coalesce(s.message ->> 'role',
                    CASE s.message ->> 'type'
                        WHEN 'function_call' THEN 'assistant'
                        WHEN 'function_call_output' THEN 'tool'
                        ELSE s.message ->> 'type' END) AS role,
           CASE WHEN s.message -> '$ref' IS NOT NULL THEN '[recorded earlier in this run]'
                ELSE agentrun.text_of(coalesce(
                    s.message -> 'content', s.message -> 'output', s.message -> 'summary'))
           END AS content,
           CASE WHEN json_typeof(s.message -> 'tool_calls') = 'array' THEN s.message -> 'tool_calls'
                WHEN s.message ->> 'type' = 'function_call' THEN json_build_array(s.message)
           END AS tool_calls,
           s.message ->> 'name' AS name,
           coalesce(s.message ->> 'tool_call_id', s.message ->> 'call_id') AS call_id,
           (SELECT string_agg(c.element ->> 'id', ' ' ORDER BY c.n)
            FROM agentrun.elements(s.message -> 'tool_calls') c) AS calls,
           s.at,
           CASE WHEN s.masked IS NOT NULL THEN agentrun.masks_in(s.message::text) END AS masked,
           s.reply, s.whole, s.message::text LIKE '%"$ref":%' AS refers
    FROM said s
    WHERE json_typeof(s.message) = 'object'
), known AS (  -- a request repeats the reply before it, and the messages of the request before it
    SELECT m.*,
           min(m.seq) FILTER (WHERE m.reply) OVER (
               PARTITION BY m.run_id, m.key, m.role, m.content, m.calls, m.call_id) AS replied,
           min(m.seq) FILTER (WHERE m.whole) OVER (
               PARTITION BY m.run_id, m.key, m.position, m.role, m.content, m.calls, m.call_id
           ) AS asked
    FROM messages m
), compared AS (
    SELECT k.*, bool_and(k.whole AND k.asked < k.seq) OVER (
        PARTITION BY k.run_id, k.key, k.seq ORDER BY k.position) AS begins_alike
    FROM known k
)
SELECT run_id, key, seq, position, step, turn, role, content, tool_calls, name, call_id, at,
       masked
FROM compared
WHERE NOT begins_alike
  AND (reply OR role IS NULL OR role IN ('system', 'developer', 'user', 'tool')
       OR NOT refers AND (replied IS NULL OR replied > seq));
COMMENT ON VIEW agentrun.transcript IS
    'The conversation, one row per message: ORDER BY seq, position. Of each request only what is '
    'new is listed: neither messages of earlier requests nor replies. A system prompt outside '
    'the messages is not listed.';
COMMENT ON COLUMN agentrun.transcript.position IS 'Position within the same journal row.';
COMMENT ON COLUMN agentrun.transcript.role IS
    'system, user, assistant, tool, …; `request` for one that lies in payloads.';
COMMENT ON COLUMN agentrun.transcript.content IS 'Text of the message; parts joined by newlines.';
COMMENT ON COLUMN agentrun.transcript.tool_calls IS 'Tool calls the message asks for, as sent.';
COMMENT ON COLUMN agentrun.transcript.name IS 'Name given in the message.';
COMMENT ON COLUMN agentrun.transcript.call_id IS 'The tool call that the message answers.';
COMMENT ON COLUMN agentrun.transcript.masked IS 'What of the message is masked; null: nothing.';

CREATE VIEW agentrun.resumes WITH (security_invoker = true) AS
SELECT c.run_id, r.key, r.agent, c.seq, c.worker, c.epoch, c.at, c.reason,
       before.replayed, after.rerun, before.saved, before.saved_unpriced, after.in_doubt
FROM agentrun.journal c
JOIN agentrun.runs r USING (run_id)
CROSS JOIN LATERAL (
    SELECT coalesce(min(n.seq), 9223372036854775807) AS seq
    FROM agentrun.journal n
    WHERE n.run_id = c.run_id AND n.seq > c.seq AND n.event = 'claimed'
) next
CROSS JOIN LATERAL (
    -- The last event of each step before this claim, without steps that are set aside.
    SELECT array_agg(s.step) FILTER (WHERE s.event = 'attempt_started') AS open,
           count(*) FILTER (WHERE s.finished) AS replayed,
           coalesce(sum(s.cost) FILTER (WHERE s.finished), 0) AS saved,
           count(*) FILTER (WHERE s.finished AND s.kind = 'model' AND s.cost IS NULL
                            AND (s.status <> 'error' OR s.input_tokens IS NOT NULL))
               AS saved_unpriced
    FROM (
        SELECT DISTINCT ON (j.step) j.step, j.event, j.kind, j.status, j.cost, j.input_tokens,
               j.event = 'step_finished' OR j.event = 'resolved'
                   AND j.status IN ('happened', 'unknown', 'fail') AS finished
        FROM agentrun.journal j
        WHERE j.run_id = c.run_id AND j.seq < c.seq AND j.step IS NOT NULL
          AND j.event IN ('attempt_started', 'attempt_failed', 'step_finished', 'resolved')
        ORDER BY j.step, j.seq DESC
    ) s
    WHERE s.step NOT IN (SELECT a.step FROM agentrun.set_aside(c.run_id, c.seq) a)
) before
CROSS JOIN LATERAL (
    SELECT count(DISTINCT e.step) FILTER (
               WHERE e.event = 'attempt_started' AND e.step = ANY (before.open)) AS rerun,
           -- A doubt that was decided at once, before the run parked, has no event in_doubt.
           count(*) FILTER (WHERE e.event = 'in_doubt'
                            OR e.event = 'resolved'
                               AND e.status NOT IN ('reopened', 'approved', 'rejected', 'expired')
                               AND e.previous IS DISTINCT FROM 'in_doubt') AS in_doubt
    FROM (
        SELECT j.seq, j.step, j.event, j.status,
               lag(j.event) OVER (PARTITION BY j.step ORDER BY j.seq) AS previous
        FROM agentrun.journal j
        WHERE j.run_id = c.run_id AND j.step IS NOT NULL AND j.seq < next.seq
          AND j.event IN ('attempt_started', 'in_doubt', 'resolved')
    ) e
    WHERE e.seq > c.seq
) after
WHERE c.event = 'claimed' AND c.epoch > 1;
COMMENT ON VIEW agentrun.resumes IS
    'Each time a run changed hands: what was served from the journal, and what was done again.';
COMMENT ON COLUMN agentrun.resumes.worker IS 'The worker that took the run.';
COMMENT ON COLUMN agentrun.resumes.replayed IS
    'Steps that were finished before, and were not performed again.';
COMMENT ON COLUMN agentrun.resumes.rerun IS 'Steps that were open, and were attempted again.';
COMMENT ON COLUMN agentrun.resumes.saved IS 'US dollars of model calls that were not paid again.';
COMMENT ON COLUMN agentrun.resumes.saved_unpriced IS
    'Number of such calls whose price is not known.';
COMMENT ON COLUMN agentrun.resumes.in_doubt IS 'Number of doubts that this resume raised.';


-- Views: what waits for a person ------------------------------------------------------------------

-- All show the arguments of the call, from the last row that has them: only the first attempt's
-- intent repeats the arguments. A call that was never attempted has no attempt. The request of a
-- step that a divergence sets aside is void; if the code still asks for the call, there is a new
-- request.

CREATE VIEW agentrun.asked WITH (security_invoker = true) AS
SELECT r.run_id, r.key, r.agent, r.status AS run_status, q.seq, q.step, q.turn, q.kind, q.name,
       q.effect, CASE q.event WHEN 'in_doubt' THEN 'doubt' ELSE 'decision' END AS waits_for,
       CASE WHEN g.codec & 4 <> 0 THEN g.input ELSE g.input -> 'args' END AS args,
       q.fingerprint, q.key AS idempotency_key, q.reason, q.at, g.masked -> 'input' AS masked,
       CASE q.event WHEN 'approval_requested' THEN q.output -> 'suggested_budget' END
           AS suggested_budget
FROM agentrun.runs r
CROSS JOIN LATERAL (
    SELECT DISTINCT ON (j.step) j.* FROM agentrun.journal j
    WHERE j.run_id = r.run_id AND j.event IN ('approval_requested', 'in_doubt')
    ORDER BY j.step, j.seq DESC
) q
LEFT JOIN LATERAL (
    SELECT a.codec, a.input, a.masked FROM agentrun.journal a
    WHERE a.run_id = q.run_id AND a.step = q.step AND a.input IS NOT NULL AND a.seq <= q.seq
    ORDER BY a.seq DESC LIMIT 1
) g ON true
WHERE r.status IN ('queued', 'running', 'waiting', 'held')
  AND NOT EXISTS (
    SELECT FROM agentrun.journal l
    WHERE l.run_id = q.run_id AND l.seq > q.seq
      AND (l.step = q.step AND l.event IN ('attempt_started', 'resolved', 'step_finished')
           OR l.event = 'diverged'
              AND q.step IN (SELECT s.step FROM agentrun.listed_steps(l.output, 'set_aside') s)));
COMMENT ON VIEW agentrun.asked IS
    'What open runs ask a person: approvals, budgets and doubts, decided or not.';
COMMENT ON COLUMN agentrun.asked.seq IS 'Journal row of the request.';
COMMENT ON COLUMN agentrun.asked.waits_for IS
    'doubt: `agentrun resolve`; decision: an approval or a budget; divergence: the '
    'code asks for another step, see reason.';
COMMENT ON COLUMN agentrun.asked.fingerprint IS
    'Of what is asked for: a decision is about exactly that.';
COMMENT ON COLUMN agentrun.asked.at IS 'When it was asked, by the database clock.';
COMMENT ON COLUMN agentrun.asked.masked IS 'How much of args is masked, by kind; null: nothing.';
COMMENT ON COLUMN agentrun.asked.suggested_budget IS
    'A larger limit that allows the next call; null: the request is not about a budget.';

CREATE VIEW agentrun.in_doubt WITH (security_invoker = true) AS
SELECT a.run_id, a.key, a.agent, a.run_status, a.seq, a.step, i.turn, i.kind, i.name, i.effect,
       i.attempt, a.args, i.key AS idempotency_key, i.worker, i.at AS started_at, a.at, a.reason,
       a.fingerprint, a.masked
FROM agentrun.asked a
LEFT JOIN LATERAL (
    SELECT s.* FROM agentrun.journal s
    WHERE s.run_id = a.run_id AND s.step = a.step AND s.event = 'attempt_started'
      AND s.seq < a.seq
    ORDER BY s.seq DESC LIMIT 1
) i ON true
WHERE a.waits_for = 'doubt';
COMMENT ON VIEW agentrun.in_doubt IS
    'Attempts of `once` effects with an intent and no outcome, in open runs, not decided yet.';
COMMENT ON COLUMN agentrun.in_doubt.seq IS 'Journal row of the request.';
COMMENT ON COLUMN agentrun.in_doubt.worker IS 'The worker that began the attempt.';
COMMENT ON COLUMN agentrun.in_doubt.started_at IS 'When the attempt began.';
COMMENT ON COLUMN agentrun.in_doubt.at IS 'When the doubt was raised.';
COMMENT ON COLUMN agentrun.in_doubt.fingerprint IS
    'Of what is asked for: a decision is about exactly that.';
COMMENT ON COLUMN agentrun.in_doubt.masked IS 'How much of args is masked, by kind; null: nothing.';

CREATE VIEW agentrun.decided WITH (security_invoker = true) AS
SELECT a.run_id, a.key, a.agent, a.run_status, a.step, a.name, a.args, m.kind AS decision, m.by,
       m.claimed_by, m.signed_by, m.reason, a.at AS since, m.sent_at AS decided_at
FROM agentrun.asked a
JOIN agentrun.mail m ON m.run_id = a.run_id AND m.answers = a.seq
 AND m.kind IN ('approve', 'reject', 'resolve');
COMMENT ON VIEW agentrun.decided IS
    'Decisions that were sent, and that no worker has taken up yet.';
COMMENT ON COLUMN agentrun.decided.decision IS 'approve, reject or resolve.';
COMMENT ON COLUMN agentrun.decided.by IS
    'The database''s session user who decided, as the database knows it.';
COMMENT ON COLUMN agentrun.decided.claimed_by IS 'Who decided, as the sender says.';
COMMENT ON COLUMN agentrun.decided.signed_by IS
    'Who signed the decision, as the process says that verified it.';
COMMENT ON COLUMN agentrun.decided.reason IS 'Why it was decided so.';
COMMENT ON COLUMN agentrun.decided.decided_at IS
    'When the decision was sent, by the database clock.';

CREATE VIEW agentrun.inbox WITH (security_invoker = true) AS
SELECT a.run_id, a.key, a.agent, a.step, a.waits_for, a.name, a.effect,
       (SELECT max(s.attempt) FROM agentrun.journal s
        WHERE s.run_id = a.run_id AND s.step = a.step AND s.event = 'attempt_started') AS attempt,
       a.args, a.idempotency_key, a.reason, a.at AS since, a.fingerprint,
       a.masked, a.suggested_budget
FROM agentrun.asked a
WHERE NOT EXISTS (
    SELECT FROM agentrun.mail m
    WHERE m.run_id = a.run_id AND m.answers = a.seq AND m.kind IN ('approve', 'reject', 'resolve'))
UNION ALL
-- Runs that are held and ask nothing that a decision answers: their reason says what to do. And
-- runs that diverged: their reason names the ways to go on.
SELECT r.run_id, r.key, r.agent, p.step,
       CASE WHEN p.diverged THEN 'divergence' ELSE 'decision' END, coalesce(p.name, i.name),
       coalesce(p.effect, i.effect),
       (SELECT max(a.attempt) FROM agentrun.journal a
        WHERE a.run_id = r.run_id AND a.step = p.step AND a.event = 'attempt_started'),
       CASE WHEN g.codec & 4 <> 0 THEN g.input ELSE g.input -> 'args' END,
       coalesce(p.key, i.key), coalesce(p.reason, r.reason), p.at, NULL, g.masked -> 'input', NULL
FROM agentrun.runs r
CROSS JOIN LATERAL (
    SELECT j.seq, j.name, j.effect, j.key, j.reason, j.at,
           coalesce(j.step, (j.output -> 'divergence' ->> 'step')::integer) AS step,
           j.parked_for = 'divergence' AS diverged
    FROM agentrun.journal j
    WHERE j.run_id = r.run_id AND j.event = 'parked'
    ORDER BY j.seq DESC LIMIT 1
) p
LEFT JOIN LATERAL (
    SELECT s.* FROM agentrun.journal s
    WHERE s.run_id = r.run_id AND s.step = p.step AND s.seq < p.seq AND s.name IS NOT NULL
    ORDER BY s.seq DESC LIMIT 1
) i ON true
LEFT JOIN LATERAL (
    SELECT a.codec, a.input, a.masked FROM agentrun.journal a
    WHERE a.run_id = r.run_id AND a.step = p.step AND a.input IS NOT NULL AND a.seq <= p.seq
    ORDER BY a.seq DESC LIMIT 1
) g ON true
WHERE r.status = 'held' AND CASE WHEN p.diverged
    THEN NOT EXISTS (
        SELECT FROM agentrun.mail m
        WHERE m.run_id = r.run_id AND m.sent_at > p.at AND m.kind = 'resume')
    ELSE NOT EXISTS (SELECT FROM agentrun.asked a WHERE a.run_id = r.run_id) END;
COMMENT ON VIEW agentrun.inbox IS 'What waits for a person: doubts to resolve, decisions to take.';
COMMENT ON COLUMN agentrun.inbox.waits_for IS
    'doubt: `agentrun resolve`; decision: an approval or a budget; divergence: the '
    'code asks for another step, see reason.';
COMMENT ON COLUMN agentrun.inbox.fingerprint IS
    'Of what is asked for: a decision is about exactly that.';
COMMENT ON COLUMN agentrun.inbox.masked IS 'How much of args is masked, by kind; null: nothing.';
COMMENT ON COLUMN agentrun.inbox.suggested_budget IS
    'A larger limit that allows the next call; null: the request is not about a budget.';


-- Views: what it cost -----------------------------------------------------------------------------

-- An answer that came after its worker had lost the run still belongs to the run: it was billed for
-- certain. So its attempt is not listed as possibly billed, and where another attempt's answer
-- became the outcome, the call was paid twice.

CREATE VIEW agentrun.late_answers WITH (security_invoker = true) AS
SELECT l.run_id, r.key, r.agent, i.seq, l.step, i.turn, l.attempt,
       coalesce(l.model, i.model) AS model,
       CASE WHEN o.attempt = l.attempt THEN 'adopted'
            WHEN b.billing IN ('confirmed', 'unpriced') AND o.billing IN ('confirmed', 'unpriced')
                THEN 'paid twice'
            ELSE b.billing END AS billing,
       l.input_tokens, l.output_tokens, l.cached_tokens, l.cache_write_tokens, l.cache_lost_tokens,
       l.reasoning_tokens, l.audio_tokens, l.cost, l.cache_lost,
       CASE WHEN l.cost IS NULL THEN i.cost END AS reserved,
       coalesce(l.priced_by, i.priced_by) AS priced_by, l.worker, l.at,
       o.attempt AS other_attempt, o.worker AS other_worker, o.cost AS other_cost, o.at AS other_at,
       (SELECT c.reason FROM agentrun.journal c
        WHERE c.run_id = l.run_id AND c.event = 'claimed' AND c.seq > i.seq
        ORDER BY c.seq LIMIT 1) AS reason
FROM agentrun.late_results l
JOIN agentrun.runs r USING (run_id)
CROSS JOIN LATERAL (
    SELECT agentrun.billing(
        'step_finished', l.status, l.codec, l.output, l.cost, l.input_tokens)
) b (billing)
CROSS JOIN LATERAL (
    SELECT a.seq, a.turn, a.model, a.cost, a.priced_by FROM agentrun.journal a
    WHERE a.run_id = l.run_id AND a.step = l.step AND a.attempt = l.attempt AND a.kind = 'model'
      AND a.event = 'attempt_started'
    ORDER BY a.seq DESC LIMIT 1
) i
LEFT JOIN LATERAL (
    SELECT f.attempt, f.worker, f.cost, f.at,
           agentrun.billing(f.event, f.status, f.codec, f.output, f.cost, f.input_tokens) AS billing
    FROM agentrun.journal f
    WHERE f.run_id = l.run_id AND f.step = l.step AND f.event = 'step_finished' AND f.seq > i.seq
    ORDER BY f.seq DESC LIMIT 1
) o ON true;
COMMENT ON VIEW agentrun.late_answers IS
    'Answers to model calls that came after their worker had lost the run: adopted, or paid '
    'twice.';
COMMENT ON COLUMN agentrun.late_answers.seq IS 'Journal row of the intent.';
COMMENT ON COLUMN agentrun.late_answers.attempt IS 'The attempt that it answers, from 1.';
COMMENT ON COLUMN agentrun.late_answers.model IS 'The model that answered, or else that was asked.';
COMMENT ON COLUMN agentrun.late_answers.billing IS
    'adopted: it is the outcome of its step; paid twice: the answer of another attempt is the '
    'outcome, and both are billed; while there is no outcome, and where the other was not '
    'billed, as in spend.';
COMMENT ON COLUMN agentrun.late_answers.worker IS 'The worker that got it.';
COMMENT ON COLUMN agentrun.late_answers.at IS 'When it came, by the database clock.';
COMMENT ON COLUMN agentrun.late_answers.other_attempt IS 'The attempt that is the outcome.';
COMMENT ON COLUMN agentrun.late_answers.other_worker IS 'The worker that made that attempt.';
COMMENT ON COLUMN agentrun.late_answers.other_cost IS 'US dollars of that attempt.';
COMMENT ON COLUMN agentrun.late_answers.other_at IS 'When its outcome was written.';
COMMENT ON COLUMN agentrun.late_answers.reason IS 'Why the run changed hands meanwhile.';

-- A budget's reservation stands in the attempt's intent (`cost` of the row attempt_started). It is
-- shown as `reserved` until the cost is known.
CREATE VIEW agentrun.spend WITH (security_invoker = true) AS
SELECT o.run_id, r.key, r.agent, o.seq, o.step, o.turn, o.attempt,
       coalesce(o.model, i.model) AS model, b.billing, o.input_tokens, o.output_tokens,
       o.cached_tokens, o.cache_write_tokens, o.cache_lost_tokens, o.reasoning_tokens,
       o.audio_tokens, o.cost, o.cache_lost,
       CASE WHEN o.cost IS NULL THEN i.cost END AS reserved,
       coalesce(o.priced_by, i.priced_by) AS priced_by, o.worker, o.at
FROM agentrun.journal o
JOIN agentrun.runs r USING (run_id)
CROSS JOIN LATERAL (
    SELECT agentrun.billing(o.event, o.status, o.codec, o.output, o.cost, o.input_tokens)
) b (billing)
LEFT JOIN LATERAL (
    SELECT a.model, a.cost, a.priced_by FROM agentrun.journal a
    WHERE o.cost IS NULL AND a.run_id = o.run_id AND a.step = o.step AND a.attempt = o.attempt
      AND a.event = 'attempt_started' AND a.seq < o.seq
    ORDER BY a.seq DESC LIMIT 1
) i ON true
WHERE o.event IN ('attempt_failed', 'step_finished') AND o.kind = 'model'
  AND b.billing <> 'not billed'
  -- To ask for a background response costs nothing. The first answer with its usage has its cost.
  AND (o.effect IS DISTINCT FROM 'read' OR o.cost IS NOT NULL OR o.input_tokens IS NOT NULL)
  AND NOT (o.cost IS NULL AND o.input_tokens IS NULL
           AND agentrun.goes_on(o.event, o.codec, o.output)
           AND EXISTS (SELECT FROM agentrun.look(o.run_id, o.output)))
UNION ALL
SELECT a.run_id, a.key, a.agent, a.seq, a.step, a.turn, a.attempt, i.model,
       CASE a.status WHEN 'running' THEN 'running' ELSE 'possibly billed' END,
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, i.cost, i.priced_by, a.worker,
       a.started_at
FROM agentrun.attempts a JOIN agentrun.journal i USING (run_id, seq)
WHERE a.kind = 'model' AND NOT a.answered
  AND NOT EXISTS (SELECT FROM agentrun.late_results l
                  WHERE l.run_id = a.run_id AND l.step = a.step AND l.attempt = a.attempt)
UNION ALL
SELECT l.run_id, l.key, l.agent, l.seq, l.step, l.turn, l.attempt, l.model, l.billing,
       l.input_tokens, l.output_tokens, l.cached_tokens, l.cache_write_tokens, l.cache_lost_tokens,
       l.reasoning_tokens, l.audio_tokens, l.cost, l.cache_lost, l.reserved, l.priced_by, l.worker,
       l.at
FROM agentrun.late_answers l
WHERE l.billing NOT IN ('adopted', 'not billed');
COMMENT ON VIEW agentrun.spend IS
    'Attempts at model calls: what they cost, or may have cost. Group it by agent, model, turn, '
    'at::date; spend_by_run has the sums of runs and their children.';
COMMENT ON COLUMN agentrun.spend.seq IS 'Journal row of the outcome, or else of the intent.';
COMMENT ON COLUMN agentrun.spend.model IS 'The model that answered, or else that was asked.';
COMMENT ON COLUMN agentrun.spend.billing IS
    'confirmed; unpriced: answered, price not known; running: under way; possibly billed: sent, '
    'and its outcome is not known; paid twice: see late_answers.';

CREATE VIEW agentrun.spend_by_run WITH (security_invoker = true) AS
SELECT r.run_id, r.key, r.agent, p.key AS parent_key, s.*
FROM agentrun.runs r
LEFT JOIN agentrun.runs p ON p.run_id = r.parent
CROSS JOIN LATERAL (
    SELECT sum(c.cost) FILTER (WHERE t.run_id = r.run_id) AS cost,
           sum(c.calls) FILTER (WHERE t.run_id = r.run_id)::bigint AS calls,
           sum(c.unpriced) FILTER (WHERE t.run_id = r.run_id)::bigint AS unpriced,
           sum(c.unknown) FILTER (WHERE t.run_id = r.run_id)::bigint AS possibly_billed,
           sum(c.running) FILTER (WHERE t.run_id = r.run_id)::bigint AS running,
           sum(c.cost) AS tree_cost,
           sum(c.calls)::bigint AS tree_calls,
           sum(c.unpriced)::bigint AS tree_unpriced,
           sum(c.unknown)::bigint AS tree_possibly_billed,
           sum(c.running)::bigint AS tree_running,
           count(*) AS tree_runs,
           sum(c.twice) FILTER (WHERE t.run_id = r.run_id)::bigint AS paid_twice,
           sum(c.twice)::bigint AS tree_paid_twice,
           sum(c.cached) FILTER (WHERE t.run_id = r.run_id)::bigint AS cached_tokens,
           sum(c.written) FILTER (WHERE t.run_id = r.run_id)::bigint AS cache_write_tokens,
           sum(c.lost_tokens) FILTER (WHERE t.run_id = r.run_id)::bigint AS cache_lost_tokens,
           sum(c.lost) FILTER (WHERE t.run_id = r.run_id) AS cache_lost,
           sum(c.lost) AS tree_cache_lost
    FROM agentrun.tree(r.run_id) t
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(s.cost), 0) AS cost, count(*) AS calls,
               count(*) FILTER (WHERE s.billing = 'unpriced'
                                OR s.billing = 'paid twice' AND s.cost IS NULL) AS unpriced,
               count(*) FILTER (WHERE s.billing = 'possibly billed') AS unknown,
               count(*) FILTER (WHERE s.billing = 'running') AS running,
               count(*) FILTER (WHERE s.billing = 'paid twice') AS twice,
               coalesce(sum(s.cached_tokens), 0) AS cached,
               coalesce(sum(s.cache_write_tokens), 0) AS written,
               coalesce(sum(s.cache_lost_tokens), 0) AS lost_tokens,
               coalesce(sum(s.cache_lost), 0) AS lost
        FROM agentrun.spend s WHERE s.run_id = t.run_id
    ) c
) s;
COMMENT ON VIEW agentrun.spend_by_run IS 'What each run has cost, and its tree of child runs.';
COMMENT ON COLUMN agentrun.spend_by_run.parent_key IS 'The run whose child it is, if any.';
COMMENT ON COLUMN agentrun.spend_by_run.cost IS 'US dollars of its confirmed calls.';
COMMENT ON COLUMN agentrun.spend_by_run.calls IS 'Its attempts at model calls that count in spend.';
COMMENT ON COLUMN agentrun.spend_by_run.unpriced IS 'Of them, those whose price is not known.';
COMMENT ON COLUMN agentrun.spend_by_run.possibly_billed IS 'Of them, those possibly billed.';
COMMENT ON COLUMN agentrun.spend_by_run.running IS 'Of them, those under way.';
COMMENT ON COLUMN agentrun.spend_by_run.tree_cost IS 'As cost, of the run and all below it.';
COMMENT ON COLUMN agentrun.spend_by_run.tree_calls IS 'As calls, of the run and all below it.';
COMMENT ON COLUMN agentrun.spend_by_run.tree_unpriced IS
    'As unpriced, of the run and all below it.';
COMMENT ON COLUMN agentrun.spend_by_run.tree_possibly_billed IS
    'As possibly_billed, of the run and all below it.';
COMMENT ON COLUMN agentrun.spend_by_run.tree_running IS 'As running, of the run and all below it.';
COMMENT ON COLUMN agentrun.spend_by_run.tree_runs IS 'How many runs that are.';
COMMENT ON COLUMN agentrun.spend_by_run.paid_twice IS
    'Of its calls, those whose answer came after another was paid.';
COMMENT ON COLUMN agentrun.spend_by_run.tree_paid_twice IS
    'As paid_twice, of the run and all below it.';
COMMENT ON COLUMN agentrun.spend_by_run.cached_tokens IS 'Its input tokens read from a cache.';
COMMENT ON COLUMN agentrun.spend_by_run.cache_write_tokens IS
    'Its input tokens written to a cache.';
COMMENT ON COLUMN agentrun.spend_by_run.cache_lost_tokens IS
    'Its input tokens that were in a cache before a resume, and were not after it.';
COMMENT ON COLUMN agentrun.spend_by_run.tree_cache_lost IS
    'As cache_lost, of the run and all below it.';


-- Comments of columns that mean the same everywhere -----------------------------------------------

-- Each is written once, by the column's name. A column that has its own comment above keeps it.

DO $comments$
DECLARE
    c record;
BEGIN
    FOR c IN
        SELECT t.relname, a.attname, d.meaning
        FROM (VALUES
            ('run_id', 'The run; derived from namespace and key.'),
            ('key', 'The run''s key, chosen by the caller; unique in the database.'),
            ('agent', 'The agent''s name.'),
            ('run_status', 'Status of the run.'),
            ('seq', 'Position in the run''s journal, from 1, without holes.'),
            ('epoch', 'Fencing number: +1 each time the run changes hands.'),
            ('worker', 'The worker that wrote this.'),
            ('event', 'What happened: created, claimed, attempt_started, step_finished, …'),
            ('at', 'When it was written, by the database clock.'),
            ('step', 'Number of the step in its run, as `agentrun show` prints it.'),
            ('turn', 'Number of the turn: one model call and the tool calls it asked for.'),
            ('kind', 'turn, model, tool, function, wait or child.'),
            ('name', 'Name of the tool or function.'),
            ('ident', 'The place of the step in the path of the code.'),
            ('attempt', 'Number of the attempt at the step, from 1.'),
            ('effect', 'Effect class: read, idempotent, transaction or once.'),
            ('idempotency_key', 'The same for every attempt of the step.'),
            ('status', 'How the step ended: ok, error, abandoned or cancelled.'),
            ('started_at', 'When the attempt that gave the outcome began.'),
            ('duration_ms', 'Milliseconds from started_at to at: until the outcome was '
                            'written, which for short steps is most of it.'),
            ('since', 'Since when it waits.'),
            ('model', 'The model that was asked.'),
            ('input_tokens', 'Tokens of the request, cached ones included; from the provider.'),
            ('output_tokens', 'Tokens of the reply, reasoning included; from the provider.'),
            ('cached_tokens', 'Of the input tokens, those read from the provider''s cache.'),
            ('cache_write_tokens', 'Of the input tokens, those written to the provider''s cache.'),
            ('cache_lost_tokens', 'Of the input tokens, those that an earlier call of the run '
                'had in the provider''s cache, and this one, the first after a resume, had not.'),
            ('cache_lost', 'US dollars that cache_lost_tokens cost more than cached ones.'),
            ('audio_tokens', 'Of the input and output tokens, those of audio.'),
            ('reasoning_tokens', 'Of the output tokens, those spent on reasoning.'),
            ('cost', 'US dollars. Null is not known, never free.'),
            ('reserved', 'US dollars it costs at most, where a budget reserved them and the cost '
                'is not known.'),
            ('priced_by', 'Price list and its version.'),
            ('overlapping', 'The step began while another step of its scope was under way.'),
            ('by', 'Who decided.'),
            ('reason', 'Why, in words.'),
            ('codec', 'Flags: 1 input escaped, 2 output escaped, 4 input in payloads, 8 output '
                'in payloads, 16 input shared with earlier rows, 32 input masked, 64 output '
                'masked.'),
            ('masked', 'How much of input and output is masked, by kind; null: nothing. What the '
                'code saw is in exact_values.'),
            ('input', 'What was asked. Escaped: ␛ and four hex digits stand for NUL or a lone '
                'surrogate. In payloads: {payload, size, preview}.'),
            ('output', 'The result; written as input is.'),
            ('args', 'Arguments of the tool, by name.'),
            ('result', 'What the tool returned.'),
            ('error_type', 'Type of the error, if it ended in one.'),
            ('error', 'Message of the error, if it ended in one.')
        ) AS d(attname, meaning)
        JOIN pg_attribute a ON a.attname = d.attname AND a.attnum > 0
        JOIN pg_class t ON t.oid = a.attrelid AND t.relkind IN ('r', 'p', 'v')
        WHERE t.relnamespace = 'agentrun'::regnamespace
          AND col_description(a.attrelid, a.attnum) IS NULL
    LOOP
        EXECUTE format('COMMENT ON COLUMN agentrun.%I.%I IS %L', c.relname, c.attname, c.meaning);
    END LOOP;
END $comments$;

COMMENT ON SCHEMA agentrun IS 'Durable agent runs: what happened, and who did it.';
