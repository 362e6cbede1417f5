#!/usr/bin/env python3
"""Measures the example `bench_server` against a reference server with the load generator `loadgen`.

Neither of the two is part of this repository: any generator that prints the same JSON will do.
Writes measured.json beside this file, from which plot.py draws and table.py writes tables.

    cargo build --release --example bench_server
    docs/performance/measure.py --loadgen PATH/loadgen --reference PATH/tokioserver [--quick] [budget growth ...]
"""
import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import time

HERE = pathlib.Path(__file__).parent
BENCH = HERE.parent.parent / "target/release/examples/bench_server"

BUDGET = {
    "echo, 64 connections, 1 in flight, 64 B": "echo --conns 64 --depth 1 --size 64",
    "echo, 64 connections, 64 in flight, 64 B": "echo --conns 64 --depth 64 --size 64",
    "echo, 50 connections, 1 in flight, 1 KiB": "echo --conns 50 --depth 1 --size 1024",
    "fan-out to 1000 connections, 50 a second": "fanout --conns 1000 --id 2 --reply-id 2 --rate 50",
    "connect, echo, close": "churn --conns 64",
    "10,000 idle connections": "idle --conns 10000 --hold 2",
}
CONNECTIONS = [10, 100, 1000, 10_000]
SIZES = [16, 256, 4096, 65_536]
RECEIVERS = [10, 100, 1000, 10_000]
ROUTES = ["fn", "actor"]

ECHO = "echo --conns 64 --depth 16 --size 64"
# Ours against ours: what each is held against comes second.
OURS = {
    "two workers, an echo": (ECHO, "--workers 2 --route fn", "--workers 1 --route fn"),
    "two workers, 1 µs of work a message": (
        ECHO, "--workers 2 --route fn --work 1000", "--workers 1 --route fn --work 1000",
    ),
    "one actor on a thread of its own": (ECHO, "--workers 1 --route shared", "--workers 1 --route actor"),
}  # fmt: skip


def ours(options):
    return f"{BENCH} --port {{port}} --wire ltv-le {options}"


def reference(args, workers=1):
    return f"{args.reference} --port {{port}} --wire ltv-le --workers {workers}"


def compare(args, load, rounds, a, b, cpus="0", client_cpus="1"):
    scenario, *options = load.split()
    secs = [] if scenario == "idle" else ["--secs", str(args.secs)]
    command = [
        args.loadgen, "compare", "--json", "--scenario", scenario, *options, *secs,
        "--a-cmd", a, "--b-cmd", b, "--a-wire", "ltv-le", "--b-wire", "ltv-le",
        "--rounds", str(rounds), "--server-cpus", cpus, "--client-cpus", client_cpus,
    ]  # fmt: skip
    out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rows = {
        row["figure"]: {"ours": row["a_spread"], "reference": row["b_spread"], "ratio": row["ratio_spread"]}
        for row in out["summary"]
    }
    print(a.split("--")[-1], load, {name: round(row["ratio"]["median"], 3) for name, row in rows.items()}, flush=True)
    return {"errors": out["errors"], "rounds": rounds, **rows}


def by_route(args, load, rounds):
    b = reference(args)
    return {route: compare(args, load, rounds, ours(f"--workers 1 --route {route}"), b) for route in ROUTES}


def greedy(args, server, rounds):
    """The p99 of 50 connections with one message in flight, beside one that pipelines without end
    and alone: the median of the ratios."""
    ratios = []
    for n in range(rounds):
        port = 21_000 + n
        process = subprocess.Popen(["taskset", "-c", "0", *server.format(port=port).split()])
        address = ["taskset", "-c", "1", args.loadgen, "echo", "--addr", f"127.0.0.1:{port}", "--wire", "ltv-le"]
        others = [*address, "--conns", "50", "--secs", "2", "--warmup", "1", "--json"]
        try:
            time.sleep(0.5)
            p99 = []
            for greedy_depth in [None, 8192]:
                load = greedy_depth and subprocess.Popen(
                    [*address, "--conns", "1", "--depth", str(greedy_depth), "--secs", "3", "--warmup", "1"],
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                out = json.loads(subprocess.run(others, check=True, capture_output=True, text=True).stdout)
                p99.append(out["latency_us"]["p99"])
                if load:
                    load.wait()
            ratios.append(p99[1] / p99[0])
        finally:
            process.kill()
            process.wait()
    print(server, "greedy", ratios, flush=True)
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def manager():
    """What the manager's operations cost with 100,000 entries, with 100 = 1, from criterion's files."""
    subprocess.run(["cargo", "bench", "--bench", "parts", "--", "--noplot", "conn_manager/"], check=True, stdout=subprocess.DEVNULL)
    found = {}
    for path in (BENCH.parents[2] / "criterion/conn_manager").glob("*/*/new/estimates.json"):
        operation, entries = path.parts[-4], path.parts[-3]
        found.setdefault(operation, {})[entries] = json.loads(path.read_text())["median"]["point_estimate"]
    return {operation: points["100000"] / points["100"] for operation, points in found.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--loadgen", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 7")
    parser.add_argument("--secs", type=float, default=1)
    parser.add_argument("what", nargs="*", default=["budget", "growth", "scale"])
    args = parser.parse_args()
    rounds = 3 if args.quick else 7
    path = HERE / "measured.json"
    measured = json.loads(path.read_text()) if path.exists() else {}
    measured["machine"] = {"cpus": 2, "system": platform.system(), "arch": platform.machine()}
    if "budget" in args.what:
        measured["budget"] = {name: by_route(args, load, rounds) for name, load in BUDGET.items()}
    if "growth" in args.what:
        rounds = min(rounds, 3)
        series = {
            "by_connections": (CONNECTIONS, "echo --conns {} --depth 4 --size 64"),
            "by_size": (SIZES, "echo --conns 64 --depth 4 --size {}"),
            "by_receivers": (RECEIVERS, "fanout --conns {} --id 2 --reply-id 2 --rate 10"),
        }
        for name, (points, load) in series.items():
            measured[name] = {n: by_route(args, load.format(n), rounds) for n in points}
        measured["manager"] = manager()
    if "scale" in args.what:
        measured["scale"] = {
            name: compare(args, load, rounds, ours(a), ours(b), "0,1", "0,1") for name, (load, a, b) in OURS.items()
        }
        measured["scale"]["two workers of plain tokio, an echo"] = compare(
            args, ECHO, rounds, reference(args, 2), reference(args), "0,1", "0,1"
        )
        measured["fairness"] = by_route(args, "echo --conns 1000 --depth 1 --size 64", rounds)
        servers = {route: ours(f"--workers 1 --route {route}") for route in ROUTES} | {"reference": reference(args)}
        measured["greedy"] = {name: greedy(args, server, rounds) for name, server in servers.items()}
    path.write_text(json.dumps(measured, indent=1) + "\n")


main()
