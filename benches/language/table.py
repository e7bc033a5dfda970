#!/usr/bin/env python3
"""Tables of results/language-models.md from what benches/language/run.sh wrote: `benches/language/table.py FOLDER`."""
import json, math, pathlib, statistics, sys

# Student's t at 97.5%, by degrees of freedom.
T = {3: 3.182, 7: 2.365, 15: 2.131, 31: 2.040, 63: 1.998}
folder = pathlib.Path(sys.argv[1])


def losses(name):
    path = folder / f"{name}.json"
    return json.loads(path.read_text())["losses"] if path.exists() and path.stat().st_size else None


def ratio(a, b):
    """exp of the mean paired difference, with its interval."""
    d = [x - y for x, y in zip(a, b)]
    half = T[len(d) - 1] * statistics.stdev(d) / math.sqrt(len(d))
    mean = statistics.mean(d)
    return f"{math.exp(mean):.3f} ({math.exp(mean - half):.3f} to {math.exp(mean + half):.3f})"


dense = losses("dense")
print(f"dense: {math.exp(statistics.mean(dense)):.2f} over {len(dense)} blocks\n")
for at in ("0.5", "0.3", "2:4", "4:8"):
    rows = [(m, losses(f"{m}-{at}")) for m in ("sparsegpt", "dsnot", "wanda", "mag")]
    rows = sorted(((m, l) for m, l in rows if l), key=lambda r: statistics.mean(r[1]))
    if rows:
        print(f"| {at} | perplexity | over dense | over the one above |\n|---|---|---|---|")
    for i, (method, l) in enumerate(rows):
        above = ratio(l, rows[i - 1][1]) if i else ""
        print(f"| `{method.replace('mag', 'magnitude')}` | {math.exp(statistics.mean(l)):.2f} | {ratio(l, dense)} | {above} |")
    print()
for path in sorted(folder.glob("essential-*.json")):
    tried = json.loads(path.read_text() or "{}").get("tried", [])
    print(path.stem, [(round(t["density"], 2), round(t["perplexity"], 3)) for t in tried])
