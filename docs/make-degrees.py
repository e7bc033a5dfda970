#!/usr/bin/env python3
"""Draws docs/src/rewire-degrees.svg from the history of a run of SET, and prints the table beside it:

    nnz reproduce itop
    nnz inspect runs/ID --history --arm set --json | docs/make-degrees.py
"""

import json
import math
import pathlib
import sys

W, H, LEFT, RIGHT, TOP, BOTTOM = 640, 380, 64, 120, 40, 52
COLOURS = ["#9a9a9a", "#d08a2e", "#1a6fb0"]

layer = json.load(sys.stdin)["layers"][0]
looks = [layer["looks"][i] for i in (0, len(layer["looks"]) // 2, len(layer["looks"]) - 1)]


def curve(look):
    """Share of the inputs with at least so many connections."""
    histogram = look["fan_out"]["histogram"]
    units = left = sum(histogram)
    points = []
    for degree, n in enumerate(histogram):
        if n and degree:
            points.append((degree, left / units))
        left -= n
    return points


curves = [curve(look) for look in looks]
most = max(x for c in curves for x, _ in c)
least = min(y for c in curves for _, y in c)
px = lambda x: LEFT + math.log(x) / math.log(most) * (W - LEFT - RIGHT)
py = lambda y: TOP + math.log(y) / math.log(least) * (H - TOP - BOTTOM)
parts = []
say = lambda x, y, words, anchor="start", size=12, fill="#222": parts.append(
    f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}">{words}</text>')
say(LEFT, 22, f"Fan-out of the inputs of {layer['name']} under SET", size=15)
for x in [v for v in (1, 2, 5, 10, 20, 50, 100, 200) if v <= most]:
    parts.append(f'<path d="M{px(x):.1f} {TOP}V{H - BOTTOM}" stroke="#ddd"/>')
    say(px(x), H - BOTTOM + 16, x, "middle")
for y in [v for v in (1, 0.1, 0.01, 0.001) if v >= least * 0.999]:
    parts.append(f'<path d="M{LEFT} {py(y):.1f}H{W - RIGHT}" stroke="#ddd"/>')
    say(LEFT - 6, py(y) + 4, f"{y:g}", "end")
for i, (look, points) in enumerate(zip(looks, curves)):
    path = "L".join(f"{px(x):.1f} {py(y):.1f}" for x, y in points)
    parts.append(f'<path d="M{path}" fill="none" stroke="{COLOURS[i]}" stroke-width="2"/>')
    say(W - RIGHT + 10, TOP + 16 + 18 * i, f"step {look['step']:,}", fill=COLOURS[i])
say((LEFT + W - RIGHT) / 2, H - 12, "connections", "middle")
parts.append(f'<text x="16" y="{H / 2}" font-size="12" text-anchor="middle" transform="rotate(-90 16 {H / 2})">'
             "share of inputs with at least so many</text>")
out = pathlib.Path(__file__).resolve().parent / "src" / "rewire-degrees.svg"
out.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif">'
               f'<rect width="{W}" height="{H}" fill="#fff"/>{"".join(parts)}</svg>\n')
print("| step | exponent | from | units | distance | exponential (p) | log-normal (p) |\n|---|---|---|---|---|---|---|")
for look in layer["looks"][::3]:
    t = look["fan_out_tail"]
    if t:
        other = lambda a: f"{a['ratio']:+.1f} ({a['p']:.2g})"
        print(f"| {look['step']:,} | {t['exponent']:.1f} | {t['from']} | {t['units']} | {t['distance']:.3f} | "
              f"{other(t['exponential'])} | {other(t['log_normal'])} |")
