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
    yield "| | `route_fn` | handler actor |"
    yield "|---|---|---|"
    two = measured["two_workers"]
    yield "| two workers, both CPUs, 64 in flight: CPU a message | " + " | ".join(ratio(two[r]) for r in ("fn", "actor")) + " |"
    fair = measured["fairness"]
    cells = []
    for r in ("fn", "actor"):
        ours, reference = ([fair[r][f][side]["median"] for f in ("p99_us", "p50_us")] for side in ("ours", "reference"))
        cells.append(f"{ours[0] / ours[1]:.1f} (plain tokio {reference[0] / reference[1]:.1f})")
    yield "| 1,000 connections, 1 in flight: p99 / p50 | " + " | ".join(cells) + " |"


measured = json.loads((HERE / "measured.json").read_text())
text = PAGE.read_text()
for name, rows in {"budget": budget, "scale": scale}.items():
    table = "\n".join(rows(measured))
    text = re.sub(rf"(<!-- {name} -->).*?(<!-- end -->)", lambda m: f"{m[1]}\n{table}\n{m[2]}", text, flags=re.S)
PAGE.write_text(text)
