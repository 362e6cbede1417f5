#!/usr/bin/env python3
"""Draws growth.svg from measured.json. Needs matplotlib."""
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent
FIGURE = "server_cpu_us_per_op"
PANELS = [
    ("by_connections", "connections, 4 in flight, 64 B", "a message"),
    ("by_size", "payload bytes, 64 connections, 4 in flight", "a message"),
    ("by_receivers", "receivers, 10 broadcasts a second", "a delivery"),
]

measured = json.loads((HERE / "measured.json").read_text())
figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 4.2))
for axis, (key, what, per) in zip(axes, PANELS):
    points = measured[key]
    xs = [int(x) for x in points]
    for route in next(iter(points.values())):
        ratios = [p[route][FIGURE]["ratio"] for p in points.values()]
        medians = [ratio["median"] for ratio in ratios]
        spread = [[r["median"] - r["min"] for r in ratios], [r["max"] - r["median"] for r in ratios]]
        axis.errorbar(xs, medians, yerr=spread, marker="o", capsize=3, label=f"route {route}")
    axis.axhline(1, color="grey", linewidth=1, linestyle="--", label="plain tokio")
    axis.set_ylim(0, 2)
    axis.set(xscale="log", xlabel=what, ylabel=f"server CPU {per}, plain tokio = 1")
    axis.legend()
figure.tight_layout()
figure.savefig(HERE / "growth.svg", metadata={"Date": None})
