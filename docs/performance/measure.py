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
import subprocess

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


def compare(args, load, route, rounds, workers=1, server_cpus="0"):
    scenario, *options = load.split()
    reference = f"{args.reference} --port {{port}} --wire ltv-le --workers {workers}"
    ours = f"{BENCH} --port {{port}} --wire ltv-le --workers {workers} --route {route}"
    secs = [] if scenario == "idle" else ["--secs", str(args.secs)]
    command = [
        args.loadgen, "compare", "--json", "--scenario", scenario, *options, *secs,
        "--a-cmd", ours, "--b-cmd", reference, "--a-wire", "ltv-le", "--b-wire", "ltv-le",
        "--rounds", str(rounds), "--server-cpus", server_cpus, "--client-cpus", "1",
    ]  # fmt: skip
    out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rows = {
        row["figure"]: {"ours": row["a_spread"], "reference": row["b_spread"], "ratio": row["ratio_spread"]}
        for row in out["summary"]
    }
    print(route, load, {name: round(row["ratio"]["median"], 3) for name, row in rows.items()}, flush=True)
    return {"errors": out["errors"], "rounds": rounds, **rows}


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
    routes = ["fn", "actor"]
    if "budget" in args.what:
        measured["budget"] = {
            name: {route: compare(args, load, route, rounds) for route in routes}
            for name, load in BUDGET.items()
        }
    if "growth" in args.what:
        measured["by_connections"] = {
            n: {"fn": compare(args, f"echo --conns {n} --depth 4 --size 64", "fn", 3)}
            for n in CONNECTIONS
        }
        measured["by_size"] = {
            n: {"fn": compare(args, f"echo --conns 64 --depth 4 --size {n}", "fn", 3)}
            for n in SIZES
        }
        measured["by_receivers"] = {
            n: {"fn": compare(args, f"fanout --conns {n} --id 2 --reply-id 2 --rate 20", "fn", 3)}
            for n in [10, 1000]
        }
    if "scale" in args.what:
        load = "echo --conns 64 --depth 64 --size 64"
        measured["two_workers"] = {
            route: compare(args, load, route, 3, workers=2, server_cpus="0,1") for route in routes
        }
        fair = "echo --conns 1000 --depth 1 --size 64"
        measured["fairness"] = {route: compare(args, fair, route, 3) for route in routes}
    path.write_text(json.dumps(measured, indent=1) + "\n")


main()
