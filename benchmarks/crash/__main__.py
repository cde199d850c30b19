"""`python -m benchmarks.crash`: the same refund agent in many frameworks, killed at every message.

Each program talks to a model, to a shop and, where it is durable, to Postgres. It is killed by
SIGKILL before a message to or from any of them, and started again as a supervisor would. Then the
world is asked: what was paid again, done again or lost, which programs are stuck, and how often a
person was asked. One model call paid again at a kill is the one whose answer was not recorded yet.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import agentrun
from benchmarks.crash.contestants import CONTESTANTS, Contestant
from benchmarks.crash.trial import Trial, try_contestant

COLUMNS = (
    "framework",
    "durability",
    "kills",
    "paid again",
    "most at one kill",
    "done again",
    "lost",
    "stuck",
    "a person was asked",
    "lines edited",
)


def main() -> int:
    """Run the trials, print a line of JSON each and the table; 1 if agentrun repeats or loses."""
    options = _options()
    chosen = [each for each in CONTESTANTS if all(word in each.name for word in options.only)]
    server = agentrun.connect().dsn
    versions: dict[str, str] = {}
    rows: list[tuple[Contestant, list[Trial]]] = []
    for contestant in chosen:
        try:
            versions[contestant.environment.name] = contestant.environment.install()
        except subprocess.CalledProcessError as error:
            print(f"{contestant.name} is left out: {(error.stderr or str(error)).strip()[-300:]}")
            continue
        rows.append((contestant, _try_points(contestant, server, options)))
    print("\n".join(_table(rows)))
    print("Seed", options.seed, "·", "; ".join(text for text in versions.values() if text))
    ours = [trial for each, trials in rows if each.durability == "agentrun" for trial in trials]
    return int(any(t.paid_again > 1 or t.done_again or t.lost or not t.ended for t in ours))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.crash", description=__doc__)
    parser.add_argument("only", nargs="*", help="words in the names of programs; default: all")
    parser.add_argument(
        "--points", type=int, default=24, help="kills of a program; 0: every message"
    )
    parser.add_argument("--jobs", type=int, default=2, help="programs at a time")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    return parser.parse_args()


def _try_points(contestant: Contestant, server: str, options: argparse.Namespace) -> list[Trial]:
    """An undisturbed run, then the kills; each is printed."""
    undisturbed = try_contestant(contestant, server, None)
    if not undisturbed.ended or undisturbed.paid_again or undisturbed.done_again:
        raise SystemExit(f"{contestant.name} fails undisturbed: {undisturbed}")
    points: Sequence[int] = range(1, undisturbed.messages + 1)
    if options.points and options.points < len(points):
        points = sorted(random.Random(options.seed).sample(points, options.points))
    trials = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for point, trial in zip(
            points, pool.map(lambda n: try_contestant(contestant, server, n), points), strict=True
        ):
            line = {"program": contestant.name, "point": point, **asdict(trial)}
            if trial.ended:
                del line["output"]
            print(json.dumps(line), flush=True)
            trials.append(trial)
    return [trial for trial in trials if trial.killed]


def _table(rows: list[tuple[Contestant, list[Trial]]]) -> list[str]:
    """The table in Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for contestant, trials in rows:
        cells = (
            contestant.framework,
            contestant.durability,
            len(trials),
            sum(trial.paid_again for trial in trials),
            max((trial.paid_again for trial in trials), default=0),
            sum(trial.done_again for trial in trials),
            sum(trial.lost for trial in trials),
            sum(not trial.ended for trial in trials),
            sum(trial.asked for trial in trials),
            contestant.count_edits(),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
