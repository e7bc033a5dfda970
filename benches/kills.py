#!/usr/bin/env python3
"""Kills nnz (SIGKILL) at moments spread over the length of a training, a pruning of a language model, a comparison and two exports, gives the
same command again, and compares every file with those of one that was not killed. Ends with 1 if one differs.

    NNZ=target/release/nnz python3 benches/kills.py [KILLS [FIRST [WORD...]]] > results.md

WORDs choose what is killed: `training`, `pruning`, `folder`, `file`, `comparing`. Moments are in seconds of computing, so that a busy machine does
not move them, and follow from their number, which begins with FIRST: by turns anywhere in the length of the program, and after it began to write.
Linux says both (/proc): a temporary file may have no name.

`crates/nnz/tests/kills.rs` does the same with a few kills in the gate; this needs no compiler. Files with seconds in them: of JSON, all but the
seconds is compared; `report.html` with what `nnz report` makes of the record; curves and pages of a comparison only by being there.
"""
import datetime, json, os, pathlib, random, re, shutil, struct, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
NNZ = str(pathlib.Path(os.environ.get("NNZ", ROOT / "target/release/nnz")).resolve())
KILLS = int(sys.argv[1]) if len(sys.argv) > 1 else 50
FIRST = int(sys.argv[2]) if len(sys.argv) > 2 else 1
WORDS = sys.argv[3:]


def start(folder, words):
    env = {**os.environ, "NNZ_DATA": str(folder / "no-data"), "NNZ_CACHE": str(folder / "no-cache")}
    return subprocess.Popen([NNZ, *words], cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def state(process):
    """Seconds a process has computed, and whether it wrote more than messages."""
    try:
        place = pathlib.Path(f"/proc/{process.pid}")
        seconds = sum(int((task / "schedstat").read_text().split()[0]) for task in (place / "task").iterdir()) / 1e9
        return seconds, int(re.search(r"wchar: (\d+)", (place / "io").read_text())[1]) > 4096
    except OSError:
        return 0.0, False


def finish(process):
    said = process.communicate()[1].decode(errors="replace")
    if process.returncode:
        sys.exit(f"ended with {process.returncode}: {said}")


def without_seconds(value):
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if k != "seconds_per_epoch"}
    return [without_seconds(v) for v in value] if isinstance(value, list) else value


def unfinished(name):
    return name.startswith(".nnz-") and name.endswith(".tmp")


def files(folder, out):
    """Name and content of every file; what only a clock decides is left out."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_dir():
            continue
        name, data = str(path.relative_to(out)), path.read_bytes()
        if path.name == "report.html":
            finish(start(folder, ["report", str(path.parent)]))
            assert path.read_bytes() == data, f"{path} is not of its record"
            data = b""
        elif path.name == "timings.json":
            data = json.dumps({k: len(v) if isinstance(v, list) else 1 for k, v in json.loads(data).items()}).encode()
        elif path.suffix == ".json" and b"seconds_per_epoch" in data:
            data = json.dumps(without_seconds(json.loads(data))).encode()
        elif path.name == "arms.csv" or "tfevents" in path.name or re.fullmatch(r"compare\.(md|csv|html)|.*seconds\.svg", path.name):
            data = b"there" if data else b""
        found[name] = data
    return found


def kill(what, folder, command, exported=False):
    def begin(name):
        (folder / name).mkdir(exist_ok=True) if "{}/" in command else None
        return start(folder, [w.replace("_", " ").format(name) if "steps" in w else w.format(name) for w in command.split()])

    if WORDS and not any(word in what for word in WORDS):
        return
    length = first = None
    for name in ["again", "whole"]:
        process, states = begin(name), [(0.0, False)]
        while process.poll() is None:
            states.append(state(process))
            time.sleep(0.0005)
        finish(process)
        length = max(seconds for seconds, _ in states)
        first = min([seconds for seconds, wrote in states if wrote], default=length)
    whole = files(folder, folder / "whole")
    assert whole, what
    killed = early = tries = 0
    while killed < KILLS:
        tries += 1
        assert tries < 20 * KILLS, "too few were alive when they were to be killed"
        name = f"cut-{tries}"
        process = begin(name)
        share = (0.5 + 0.618033988749895 * (FIRST + tries)) % 1
        moment = length * share if tries % 2 else first + (length - first) * share
        seconds, wrote = 0.0, False
        while seconds < moment and process.poll() is None:
            time.sleep(0.0005)
            now = state(process)
            seconds, wrote = max(seconds, now[0]), wrote or now[1]
        process.kill()
        process.communicate()
        if process.returncode != 0:
            killed += 1
            early += not wrote
            if exported and (folder / name).exists():
                for file in (f for f in (folder / name).rglob("*") if f.is_file() and not unfinished(f.name)):
                    assert file.read_bytes() == whole[str(file.relative_to(folder / name))], f"{what}: {file} is half"
            finish(begin(name))
        cut = files(folder, folder / name)
        assert cut.keys() == whole.keys(), f"{what}: other files: {cut.keys() ^ whole.keys()}"
        for file, data in whole.items():
            assert cut[file] == data, f"{what}, kill {killed}: {name}/{file} differs"
        shutil.rmtree(folder / name)
    shutil.rmtree(folder / "whole")
    shutil.rmtree(folder / "again")
    print(f"| {what} | {killed} | {early} | {len(whole)} | {length:.2f} s, writes from {first:.2f} s on |", flush=True)


def safetensors(path, names, side):
    rng = random.Random(1)
    values = struct.pack(f"<{side * side}f", *(rng.random() - 0.5 if rng.random() < 0.2 else 0.0 for _ in range(side * side)))
    size = len(values)
    header = {n: {"dtype": "F32", "shape": [side, side], "data_offsets": [i * size, (i + 1) * size]} for i, n in enumerate(names)}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values * len(names))


def main():
    version = subprocess.run([NNZ, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{datetime.date.today()}, {version}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
    print("| what | kills | before anything was written | files compared | seconds of computing |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        rows = [[(i + 1) * 2654435761 * k % (97 + k) for k in range(1, 9)] for i in range(600)]
        lines = [",".join(map(str, x)) + "," + ["low", "middle", "high"][(x[0] + x[3] + x[6]) // 110 % 3] for x in rows]
        (folder / "table.csv").write_text("a,b,c,d,e,f,g,h,y\n" + "\n".join(lines) + "\n")
        lines = [f"{x[0]},{x[1]},{x[2]},{x[3]},{['low', 'high'][x[0] // 50 % 2]}" for x in rows[:240]]
        (folder / "small.csv").write_text("a,b,c,d,y\n" + "\n".join(lines) + "\n")
        shutil.copy(ROOT / "goldens/formats/tiny.gguf", folder)
        (folder / "text.txt").write_text("".join(chr(97 + (i * i * 7 + i // 26) % 26) for i in range(40000)))
        safetensors(folder / "w.safetensors", "abcdef", 1024)
        kill("training", folder, "train table.csv --target y --method rigl --density 0.2 --model mlp:8-48-32-3 --epochs 8 --batch 16 "
             "--seeds 2 --storage sparse --set every=7_steps --run-dir {}")
        kill("pruning a language model", folder, "prune tiny.gguf --method sparsegpt --density 0.5 --calibrate text.txt "
             "--calibration-length 64 --calibration-tokens 16384 -o {}", exported=True)
        kill("exporting to a folder", folder, "convert w.safetensors --layout entropy --numbers f32 -o {}", exported=True)
        kill("exporting to a file", folder, "convert w.safetensors --layout csr --numbers f32 -o {}/w.safetensors", exported=True)
        kill("comparing", folder, "compare small.csv --target y --methods rigl,imp --densities 0.3,0.5 --seeds 2 --model mlp:4-24-16-2 "
             "--epochs 12 --batch 16 --rates 0.05,0.2 --threads 2 --quiet --dir {}")


main()
