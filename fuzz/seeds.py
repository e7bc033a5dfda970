#!/usr/bin/env python3
"""Writes the first inputs of every fuzz target to fuzz/corpus. Needs NumPy and Pillow, and nnz itself in PATH or NNZ."""
import gzip, io, os, pathlib, shutil, struct, subprocess, tempfile, wave

import numpy as np
from PIL import Image

root = pathlib.Path(__file__).resolve().parent
rng = np.random.default_rng(0)


def put(target, name, data):
    path = root / "corpus" / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def saved(write):
    out = io.BytesIO()
    write(out)
    return out.getvalue()


rows = "".join(f"{'ab'[i % 2]},{i % 5},{'rgb'[i % 3]}\n" for i in range(12))
put("csv", "comma", f"y,size,colour\n{rows}".encode())
put("csv", "semicolon", f"y,size,colour\n{rows}".replace(",", ";").encode())
put("csv", "tab", rows.replace(",", "\t").encode())
put("csv", "quoted", b'\xef\xbb\xbfy,"a ""b"", c"\n0,"1"\n1,2\n0,3\n1,"4\n"\n')
put("csv", "packed", gzip.compress(f"y,size,colour\n{rows}".encode(), mtime=0))
put("svm", "plain", b"+1 1:0.5 3:2 # one\n-1 2:1\n-1 qid:3 1:1e-3 4:7\n1 0:2\n")
put("txt", "latin", ("the quick brown fox jumps over the lazy dog. " * 3).encode())
put("txt", "wide", ("añb€𝄞 " * 20).encode())

small = np.arange(12, dtype=np.uint8).reshape(6, 2)
labels = np.array([0, 1, 0, 1, 2, 2])
for name, array in {
    "u1": small, "f4": small.astype("<f4"), "f8be": small.astype(">f8"), "i8": labels, "bool": labels > 0,
    "fortran": np.asfortranarray(small.astype("<i2")), "scalar": np.float32(3), "objects": np.array([None], dtype=object),
}.items():
    put("npy", name, saved(lambda out: np.save(out, array)))
put("npz", "one", saved(lambda out: np.savez(out, x=small, y=labels)))
put("npz", "two", saved(lambda out: np.savez_compressed(out, x_train=small, y_train=labels, x_test=small, y_test=labels)))
put("npz", "pictures", saved(lambda out: np.savez(out, images=np.zeros((6, 5, 5, 3), np.uint8), labels=labels)))


def tensors(**arrays):
    kinds = {"uint8": "U8", "int64": "I64", "float32": "F32"}
    head, data = "{", b""
    for name, a in arrays.items():
        head += f'"{name}":{{"dtype":"{kinds[str(a.dtype)]}","shape":{list(a.shape)},"data_offsets":[{len(data)},{len(data) + a.nbytes}]}},'
        data += a.tobytes()
    head = (head[:-1] + "}").encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + data


put("safetensors", "one", tensors(x=small, y=labels))
put("safetensors", "floats", tensors(x_train=small.astype("float32"), y_train=labels))


def clip(channels, width):
    def write(out):
        with wave.open(out, "wb") as w:
            w.setparams((channels, width, 8000, 0, "NONE", ""))
            w.writeframes(bytes(range(24)))

    return saved(write)


for channels, width in [(1, 1), (1, 2), (2, 2), (2, 3)]:
    put("wav", f"{channels}-{width}", clip(channels, width))
gray = Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8))
colour = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
for name, image in {"gray": gray, "colour": colour, "palette": colour.convert("P"), "bits": gray.convert("1"), "alpha": colour.convert("RGBA")}.items():
    put("png", name, saved(lambda out: image.save(out, "png")))
for name, image, options in [
    ("gray", gray, {}), ("colour", colour, {}), ("progressive", colour, {"progressive": True}),
    ("full", colour, {"subsampling": 0}), ("cmyk", colour.convert("CMYK"), {}), ("restart", colour, {"restart_marker_blocks": 1}),
]:
    put("jpg", name, saved(lambda out: image.save(out, "jpeg", quality=50, **options)))
put("cifar10", "row", bytes([3]) + bytes(3072))
idx = lambda dims, data: bytes([0, 0, 8, len(dims)]) + b"".join(struct.pack(">I", d) for d in dims) + data
put("idx", "labels", idx([4], bytes(4)))
put("idx", "pictures", idx([2, 3, 3], bytes(18)))
put("idx", "packed", gzip.compress(idx([2, 3, 3], bytes(18)), mtime=0))


formats = root.parent / "goldens" / "formats"
for name in ["zip.pth", "legacy.pth"]:
    put("torch", name.split(".")[0], (formats / name).read_bytes())
word = lambda n, size=8: n.to_bytes(size, "little")
text = lambda t: word(len(t)) + t.encode()
pairs = text("general.alignment") + word(4, 4) + word(32, 4) + text("list") + word(9, 4) + word(8, 4) + word(2) + text("a") + text("b")
for name, kind, size, shape in [("f32", 0, 16, [2, 2]), ("q4_1", 3, 40, [32, 2]), ("q6_k", 14, 210, [256])]:
    info = text("w") + word(len(shape), 4) + b"".join(map(word, shape)) + word(kind, 4) + word(0)
    head = word(3, 4) + word(1) + word(2) + pairs + info
    put("gguf", name, head + bytes(-(len(head) + 4) % 32) + bytes(size))
put("weights", "one", tensors(w=small.astype("float32")))
mask = np.array([[5], [2]], dtype=np.uint8)
put("weights", "bitmask", tensors(**{"w.compressed": np.float32([1, 2, 3]), "w.bitmask": mask, "w.shape": np.int64([2, 8])}))

nnz = os.environ.get("NNZ", "nnz")
for recipe in sorted((root.parent / "recipes").rglob("*.toml")):
    put("recipe", recipe.stem + "-" + recipe.parent.name, recipe.read_bytes())
with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    (place / "t.csv").write_text("y,size,colour\n" + rows * 4)

    def run(*arguments):
        subprocess.run([nnz, *arguments], cwd=place, check=True, capture_output=True)

    for method, density in [("magnitude", "0.5"), ("set", "0.3")]:
        run("train", "t.csv?target=y", "--method", method, "--density", density, "--model", "mlp:4-3-2", "--epochs", "2",
            "--no-controls", "--run-dir", method)
        put("model", method, (place / method / "models" / f"{method}.safetensors").read_bytes())
        put("report", method, (place / method / "record.json").read_bytes())
    put("history", "set", (place / "set" / "arms" / "set-0.topology").read_bytes())
    put("recipe", "resolved", (place / "set" / "recipe.toml").read_bytes())
