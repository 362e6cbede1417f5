#!/usr/bin/env python3
"""Writes the tables of ../performance.md from measured.json, between its markers."""
import json
import pathlib
import re

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parent / "performance.md"
CPU, MEMORY, AFTER = "server_cpu_us_per_op", "bytes_per_conn", "bytes_per_conn_after_echo"


def ratio(point, figure=CPU):
    spread = point[figure]["ratio"]
    return f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"


def budget(measured):
    yield "| scenario | `route_fn` | handler actor |"
    yield "|---|---|---|"
    for name, routes in measured["budget"].items():
        if MEMORY in routes["fn"]:
            cells = [
                f"{p[MEMORY]['ours']['median']:.0f} bytes a connection, {p[AFTER]['ours']['median']:.0f} after an echo"
                for p in (routes["fn"], routes["actor"])
            ]
        else:
            cells = [ratio(routes["fn"]), ratio(routes["actor"])]
        yield f"| {name} | {' | '.join(cells)} |"


def scale(measured):
    yield "| ours against ours, both CPUs for server and generator | throughput | CPU a message |"
    yield "|---|---|---|"
    for name, point in measured["scale"].items():
        yield f"| {name} | {ratio(point, 'ops_per_s')} | {ratio(point)} |"


def fairness(measured):
    yield "| p99 | `route_fn` | handler actor | plain tokio |"
    yield "|---|---|---|---|"
    fair = measured["fairness"]
    sides = [(fair["fn"], "ours"), (fair["actor"], "ours"), (fair["fn"], "reference")]
    cells = [f"{p['p99_us'][side]['median'] / p['p50_us'][side]['median']:.1f}" for p, side in sides]
    yield "| 1,000 connections, 1 in flight: p99, p50 = 1 | " + " | ".join(cells) + " |"
    beside = measured["greedy"]
    cells = [f"{r['median']:.1f} ({r['min']:.1f} to {r['max']:.1f})" for r in (beside[k] for k in ("fn", "actor", "reference"))]
    yield "| 50 connections beside one with 8,192 in flight: p99, alone = 1 | " + " | ".join(cells) + " |"


def manager(measured):
    yield "| with 100,000 entries, with 100 = 1 | |"
    yield "|---|---|"
    for operation, times in sorted(measured["manager"].items()):
        yield f"| {operation.replace('_', ' ')} | {times:.2f} |"


measured = json.loads((HERE / "measured.json").read_text())
text = PAGE.read_text()
for name, rows in {"budget": budget, "scale": scale, "fairness": fairness, "manager": manager}.items():
    table = "\n".join(rows(measured))
    text = re.sub(rf"(<!-- {name} -->).*?(<!-- end -->)", lambda m: f"{m[1]}\n{table}\n{m[2]}", text, flags=re.S)
PAGE.write_text(text)
