#!/usr/bin/env python3
"""Draws the pictures of docs/src/speed.md from results/kernels-sweep.json, the output of

    nnz bench kernels --shape 1024x1024 --batch 128 --density 0.01,0.02,0.05,0.1,0.2,0.3,0.5,0.8 --json --threads 1
"""

import json
import math
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
W, H, LEFT, RIGHT, TOP, BOTTOM = 640, 380, 64, 120, 40, 52
COLOURS = {"plan": "#1a6fb0"}


class Chart:
    """A chart with two logarithmic axes."""

    def __init__(self, title, x, y, x_label, y_label):
        self.x, self.y, self.parts, self.labels = x, y, [], []
        self.text(LEFT, 22, title, size=15, weight="bold")
        self.text((LEFT + W - RIGHT) / 2, H - 12, x_label, anchor="middle")
        self.parts.append(f'<text x="16" y="{(TOP + H - BOTTOM) / 2}" text-anchor="middle" '
                          f'transform="rotate(-90 16 {(TOP + H - BOTTOM) / 2})">{y_label}</text>')

    def text(self, x, y, words, size=12, anchor="start", weight="normal", fill="#222"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
                          f'font-weight="{weight}" fill="{fill}">{words}</text>')

    def place(self, x, y):
        share = lambda v, lim: (math.log(v) - math.log(lim[0])) / (math.log(lim[1]) - math.log(lim[0]))
        return LEFT + share(x, self.x) * (W - LEFT - RIGHT), H - BOTTOM - share(y, self.y) * (H - TOP - BOTTOM)

    def grid(self, xs, ys, form):
        for v in xs:
            x, _ = self.place(v, self.y[0])
            self.parts.append(f'<path d="M{x:.1f} {TOP}V{H - BOTTOM}" stroke="#ddd"/>')
            self.text(x, H - BOTTOM + 16, f"{v:g}", anchor="middle")
        for v in ys:
            _, y = self.place(self.x[0], v)
            self.parts.append(f'<path d="M{LEFT} {y:.1f}H{W - RIGHT}" stroke="#ddd"/>')
            self.text(LEFT - 6, y + 4, form(v), anchor="end")

    def line(self, points, colour, name, dash=False):
        at = [self.place(*p) for p in points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
        style = ' stroke-dasharray="6 4"' if dash else ""
        self.parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{style}/>')
        if not dash:
            self.parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in at]
        self.labels.append((at[-1][1] + 4, at[-1][0] + 8, name, colour))

    def write(self, name):
        below = 0
        for y, x, words, colour in sorted(self.labels):
            below = max(y, below + 14)
            self.text(x, below, words, fill=colour)
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" '
                f'font-size="12" fill="#222"><rect width="{W}" height="{H}" fill="#fff"/>')
        (ROOT / "docs" / "src" / name).write_text(head + "\n".join(self.parts) + "</svg>\n")


def main():
    rows = json.loads((ROOT / "results" / "kernels-sweep.json").read_text())
    by = {k: sorted((r for r in rows if r["kernel"] == k), key=lambda r: r["density"]) for k in COLOURS}
    densities = [r["density"] for r in by["plan"]]
    low, high = min(densities) * 0.9, 1.0
    ticks = [d for d in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if low <= d <= high]

    speeds = [r["speedup_step"] for k in by for r in by[k]]
    chart = Chart("A training step beside a dense one, 1024x1024, batch 128", (low, high),
                  (min(speeds) * 0.8, max(speeds) * 1.3), "density", "times as fast as dense")
    chart.grid(ticks, [v for v in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if min(speeds) * 0.8 < v < max(speeds) * 1.3],
               lambda v: f"{v:g}x")
    chart.line([(low, 1), (high, 1)], "#888", "dense", dash=True)
    for k, rs in by.items():
        chart.line([(r["density"], r["speedup_step"]) for r in rs], COLOURS[k], k)
    chart.write("speed-over-density.svg")

    limit = [(r["density"], r["gflops"] / r["share"]) for r in by["plan"]]
    rates = [r["gflops"] for k in by for r in by[k]]
    top = max(v for _, v in limit) * 1.3
    chart = Chart("How near the limit: operations on nonzeros, one thread", (low, high), (min(rates) * 0.8, top),
                  "density", "GFLOP/s")
    chart.grid(ticks, [v for v in (1, 2, 5, 10, 20, 50, 100, 200) if min(rates) * 0.8 < v < top], lambda v: f"{v:g}")
    chart.line(limit, "#888", by["plan"][-1]["bound"], dash=True)
    for k, rs in by.items():
        chart.line([(r["density"], r["gflops"]) for r in rs], COLOURS[k], k)
    chart.write("roofline.svg")


if __name__ == "__main__":
    main()
