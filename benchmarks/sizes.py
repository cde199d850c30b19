"""How much each figure does in one repeat; the peers' scripts read the same numbers."""

STEPS = 300  # sequential steps in one run
RUNS, RUN_STEPS = 50, 40  # concurrent runs, and steps in each
BACKLOG = 10_000  # ended runs that a prune finds, beside which those are done
TURNS_BESIDE, TIMES = 3, 4  # turns of beside it and alone, and how often all are done in each
PARALLEL, SLEEP = 20, 0.05  # tools at once in one run, and seconds that each takes
STARTS = 20  # submissions to an idle worker, one after the other
SUBMITTED = 300  # one-step runs through workers
TURNS, TURN_BYTES = 200, 4096  # of the long conversation
LONG = 10_000  # steps of the run that is resumed and shown
REPLAYED = 500  # steps of the run that a peer resumes
DISTANT = 40  # steps over the slow line
DELAY = 0.0015  # seconds that the slow line holds each message, either way
KILLS = 5  # SIGKILLs in a repeat
BUDGET = 0.05  # seconds in which a worker polls, where a peer has no other setting
FINISHED, SLEEPING, WAITING = 1_000_000, 100_000, 100_000  # runs beside which others are claimed
CLAIMS, TURNS_OF_CLAIMS = 20, 10  # claims in a turn, and turns in either database
PARKED, ACTIVE, ACTIVE_STEPS = 10_000, 1_000, 20  # runs in one process; steps of an active one
IDLE = 5  # seconds in which it has nothing to do
UNDISTURBED, READER = 30, 60  # seconds of load without a long reader, and with one: --reader
SUBMITTED_A_SECOND = 200  # runs, under that load
COUNTED = 2  # seconds until the server has counted what was changed
