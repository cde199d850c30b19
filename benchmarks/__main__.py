"""`python -m benchmarks`: every figure beside its peers, on the same server in the same minutes.

Repeats are interleaved: one of us, one of each peer, and again. Each figure is one line of JSON
and some rows: medians, the spread, and whether what is aimed at was reached. Nothing is turned
off: fsync is on, durability is the default; the server is the embedded one, or that of
AGENTRUN_DATABASE_URL.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psycopg

import agentrun
from benchmarks import ours, sizes
from benchmarks.dsn import database
from benchmarks.figures import FIGURES, Figure, median_of
from benchmarks.peers import PEERS, Peer

_SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers",
             "wal_sync_method", "max_connections")  # fmt: skip


def main() -> int:
    options = _options()
    sizes.READER = options.reader
    chosen = [f for f in FIGURES if not options.figures or set(options.figures) & _numbers(f)]
    dsn = agentrun.connect().dsn
    peers = _installed([] if options.no_peers else list(PEERS), chosen)
    _print_settings(dsn, options.repeats)
    found = {}
    for figure in chosen:
        found[figure.number] = _measure(figure, dsn, peers, options.repeats)
        _print(figure, found[figure.number])
    if options.plot:
        _plot(options.plot, chosen, found)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("figures", nargs="*", help="numbers of figures; default: all")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats of a figure")
    parser.add_argument("--no-peers", action="store_true", help="agentrun and plain Postgres only")
    parser.add_argument("--reader", type=float, default=sizes.READER, metavar="SECONDS",
                        help="how long figure 15's reader stays; default: %(default)s")  # fmt: skip
    parser.add_argument("--plot", metavar="PNG", help="draw it (needs matplotlib)")
    return parser.parse_args()


def _numbers(figure: Figure) -> set[str]:
    return set(figure.number.split(", "))


def _installed(peers: list[Peer], chosen: list[Figure]) -> list[tuple[Peer, str]]:
    """Peers that are wanted and can be had."""
    found = []
    for peer in peers:
        if not peer.figures & {figure.name for figure in chosen}:
            continue
        try:
            found.append((peer, peer.install()))
        except subprocess.CalledProcessError as error:
            print(f"{peer.name} is left out: {(error.stderr or str(error)).strip()[-300:]}")
    for peer, versions in found:
        print(f"{peer.name}: {versions}")
    return found


def _print_settings(dsn: str, repeats: int) -> None:
    with psycopg.connect(dsn) as conn:
        server = {name: (conn.execute(f"SHOW {name}").fetchone() or ("",))[0] for name in _SETTINGS}
    folder = Path(__file__).parent
    described = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    commit = subprocess.run(described, capture_output=True, text=True).stdout.strip() or "unknown"
    about = {
        "date": f"{datetime.now(UTC):%F %R} UTC",
        "commit": commit,
        "python": platform.python_version(),
        "psycopg": psycopg.__version__,
        "cpus": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "repeats": repeats,
        "server": server,
    }
    print(json.dumps({"settings": about}), flush=True)


def _measure(
    figure: Figure, dsn: str, peers: list[tuple[Peer, str]], repeats: int
) -> dict[str, list[float]]:
    """Values of all repeats, by what was measured."""
    values: dict[str, list[float]] = defaultdict(list)
    for _ in range(1 if figure.slow else repeats):
        with database(dsn, "ours") as own, agentrun.connect(own):
            ours.warm()
            for name, value in figure.measure(own).items():
                values[name].append(value)
        for peer, _versions in peers:
            if figure.name not in peer.figures:
                continue
            with database(dsn, peer.name) as theirs:
                try:
                    value = figure.of_peer(partial(peer.measure, figure.name), theirs)
                except (subprocess.SubprocessError, ValueError) as error:
                    said = (getattr(error, "stderr", None) or str(error)).strip()[-300:]
                    print(f"{peer.name} failed at {figure.name}: {said}", file=sys.stderr)
                else:
                    values[peer.name].append(value)
    return values


def _print(figure: Figure, values: dict[str, list[float]]) -> None:
    values = {name: found for name, found in values.items() if found}
    median = {name: statistics.median(found) for name, found in values.items()}
    reached = {}
    for target, met in figure.targets.items():
        try:
            value, ok = met(values)
        except KeyError:
            continue  # the peer was left out
        reached[target] = {"value": round(value, 5), "met": ok}
    rounded = {name: [round(value, 7) for value in found] for name, found in values.items()}
    print(json.dumps({"figure": figure.number, "title": figure.title, "values": rounded,
                      "targets": reached}))  # fmt: skip
    print(f"{figure.number:>6}  {figure.title}")
    scale = 1000 if figure.unit == "ms" else 1
    for name, found in values.items():
        spread = f"[{min(found) * scale:.3f} … {max(found) * scale:.3f}]" if found[1:] else ""
        ratio = median_of(found, values["agentrun"])
        alone = name == "agentrun" or not figure.unit
        beside = "" if alone else f"{ratio:8.1f} x agentrun"
        print(
            f"        {name:16} {median[name] * scale:10.3f} {figure.unit:2} {spread:24} {beside}"
        )
    for target, told in reached.items():
        print(f"        {'met   ' if told['met'] else 'MISSED'} {target}: {told['value']:g}")
    sys.stdout.flush()


def _plot(path: str, figures: list[Figure], found: dict[str, dict[str, list[float]]]) -> None:
    """How many times longer others take, a bar each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = []
    for figure in figures:
        median = {name: statistics.median(v) for name, v in found[figure.number].items()}
        bars += [
            (f"{figure.name}: {name}", value / median["agentrun"])
            for name, value in median.items()
            if name in {peer.name for peer in PEERS} | {"plain insert", "pgbench"}
        ]
    axes = pyplot.subplots(figsize=(8, 0.4 * len(bars) + 1))[1]
    axes.barh([name for name, _ in reversed(bars)], [ratio for _, ratio in reversed(bars)])
    axes.axvline(1.0, color="black")
    axes.set_xscale("log")
    axes.set_xlabel("times as long as agentrun")
    pyplot.tight_layout()
    pyplot.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
