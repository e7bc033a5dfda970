#!/usr/bin/env python3
"""Writes small files that lie to fuzz/corpus, each named after its lie: numbers whose product wraps, places outside, shapes that a
file is far too short for, references that are followed again and again. Needs nothing."""
import io, json, pathlib, struct, zipfile

root = pathlib.Path(__file__).resolve().parent / "corpus"


def put(target, name, data, kind="hostile"):
    path = root / target / f"{kind}-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


u32 = lambda *a: struct.pack(f"<{len(a)}I", *a)
f32 = lambda *a: struct.pack(f"<{len(a)}f", *a)
i64 = lambda *a: struct.pack(f"<{len(a)}q", *a)


def safetensors(tensors, metadata):
    header, body = {"__metadata__": metadata}, b""
    for name, (kind, shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def packed(packing, shape, parts):
    said = {"format": "nnz-weights-1", "layout": {"w": {"packing": packing, "shape": shape}}, "said": None}
    return safetensors({f"w.{k}": v for k, v in parts.items()}, {"format": "pt", "nnz": json.dumps(said)})


# Packed weights: starts that leave the columns, a mask and a code of more entries than they are.
three = {"values": ("F32", [5], f32(1, 2, 3, 4, 5)), "col_indices": ("U32", [5], u32(0, 1, 2, 0, 1))}
put("weights", "starts", packed("csr", [2, 3], {**three, "crow_indices": ("U32", [3], u32(0, 1000, 5))}))
put("weights", "rows", packed("csr", [2**64 - 1, 0], {**three, "crow_indices": ("U32", [3], u32(0, 1, 5))}))
one = ("F32", [1], f32(1))
put("weights", "code", packed("entropy", [2**16, 2**16], {"compressed": one, "code": ("U8", [9], bytes(9))}))
put("weights", "few-ones", packed("entropy", [2**11, 2**11], {"compressed": ("F32", [0], b""), "code": ("U8", [0], b"")}))
put("weights", "mask", packed("bitmask", [2**40, 2**40], {"compressed": one, "bitmask": ("U8", [1], b"\1")}))
put("weights", "values", packed("entropy", [1, 2], {"compressed": ("F32", [5], f32(1, 2, 3, 4, 5)), "code": ("U8", [1], b"\1")}))
put("weights", "nothing", packed("csr", [0, 0], {
    "values": ("F32", [0], b""), "col_indices": ("U32", [0], b""), "crow_indices": ("U32", [0], b"")}))


def model(layers, inputs, tensors, layout, **more):
    header = {"model": {"name": "x", "input": [1, 1, inputs], "layers": [{"layer": "flatten"}, *layers]},
              "normalization": {"mean": 0.0, "std": 1.0}, "classes": ["a"], "data": "d", "method": "m", "prune_head": True}
    return safetensors(tensors, {"nnz": json.dumps({"format": "nnz-1", "header": {**header, **more}, "layout": layout})})


def linear(inputs):
    return [{"layer": "linear", "name": "a", "inputs": inputs, "outputs": 1, "bias": False}]


def rows(starts, columns):
    return {"a.weight.crow_indices": ("U32", [len(starts)], u32(*starts)),
            "a.weight.col_indices": ("U32", [len(columns)], u32(*columns)),
            "a.weight.values": ("F32", [len(columns)], f32(*[1.0] * len(columns)))}


csr = {"a.weight": "csr"}
put("model", "wide", model(linear(2**32 - 1), 2**32 - 1, rows([0, 1], [0]), csr))
put("model", "starts", model(linear(3), 3, rows([0, 2**32 - 1], [0]), csr))
put("model", "deviation", model(linear(3), 3, rows([0, 1], [0]), csr, normalization={"mean": 0.0, "std": 0.0}))
deep = {"layer": "relu"}
for i in range(60):
    deep = {"layer": "residual", "name": f"r{i}", "body": [deep], "shortcut": []}
put("model", "deep", model([deep, *linear(3)], 3, rows([0, 1], [0]), csr))


# Pickles: a view of 2^61 + 1 numbers, dictionaries that hold each other, a shape that thousands share.
def text(s):
    return b"X" + struct.pack("<I", len(s)) + s.encode()


def word(module, name):
    return f"c{module}\n{name}\n".encode()


def tensor(kind, n, shape, stride):
    place = b"(" + text("storage") + word("torch", kind) + text("0") + text("cpu") + bytes([75, n]) + b"tQ"
    sizes = lambda list: b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", s) for s in list) + b"t"
    return word("torch._utils", "_rebuild_tensor_v2") + b"(" + place + b"K\0" + sizes(shape) + sizes(stride) + b"\x89}tR"


def torch(pickle, data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as z:
        for name, member in {"data.pkl": b"\x80\2" + pickle + b".", "data/0": data}.items():
            z.writestr(zipfile.ZipInfo(f"a/{name}"), member)
    return out.getvalue()


put("torch", "view", torch(b"}(" + text("w") + tensor("DoubleStorage", 1, [2**61 + 1], [0]) + b"u", bytes(8)))
put("torch", "nothing", torch(b"}(" + text("w") + tensor("FloatStorage", 1, [0, 2**40, 2**40], [1, 1, 1]) + b"u", bytes(4)))
for name, leaf in {"again": b"}", "again-tensors": tensor("FloatStorage", 1, [1], [1])}.items():
    pickle = leaf + b"q\0"
    for d in range(15):
        pickle += b"}q" + bytes([d + 1]) + b"(" + b"".join(text(f"k{k}") + b"h" + bytes([d]) for k in range(6)) + b"u"
    put("torch", name, torch(pickle, bytes(8)))


# ONNX, written by hand.
def number(n):
    out, n = b"", n % 2**64
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(tag, value):
    if isinstance(value, int):
        return number(tag << 3) + number(value)
    value = value.encode() if isinstance(value, str) else value
    return number(tag << 3 | 2) + number(len(value)) + value


FLOAT, BYTE, LONG = 1, 2, 7


def constant(name, kind, dims, raw):
    return b"".join(field(1, d) for d in dims) + field(2, kind) + field(8, name) + field(9, raw)


def node(op, inputs, outputs, **lists):
    attributes = [field(5, field(1, n) + b"".join(field(8, v) for v in vs) + field(20, 7)) for n, vs in lists.items()]
    return b"".join(field(1, i) for i in inputs) + b"".join(field(2, o) for o in outputs) + field(3, op) + field(4, op) + b"".join(attributes)


def port(name, dims):
    shape = b"".join(field(1, field(1, d)) for d in dims)
    return field(1, name) + field(2, field(1, field(1, FLOAT) + field(2, shape)))


def onnx(name, nodes, constants, out):
    graph = b"".join(field(1, n) for n in nodes) + field(2, "g") + b"".join(field(5, c) for c in constants)
    graph += field(11, port("x", [1, 3])) + field(12, port("y", out))
    put("onnx", name, field(1, 9) + field(7, graph) + field(8, field(1, "") + field(2, 20)))


onnx("axis-twice", [node("Slice", ["c", "s", "e", "a"], ["y"])], [
    constant("c", FLOAT, [6], f32(*range(6))), constant("s", LONG, [2], i64(5, 5)),
    constant("e", LONG, [2], i64(6, 6)), constant("a", LONG, [2], i64(0, 0))], [1])
onnx("no-inner", [node("MatMulInteger", ["a", "b"], ["y"])], [
    constant("a", BYTE, [5, 0], b""), constant("b", BYTE, [0, 3], b"")], [5, 3])
onnx("third-input", [node("MatMul", ["x", "w", "b"], ["y"])], [
    constant("w", FLOAT, [3, 2], f32(*range(6))), constant("b", FLOAT, [5], f32(*range(5)))], [1, 2])
onnx("axes", [node("Range", ["s", "e", "d"], ["r"]), node("Unsqueeze", ["c", "r"], ["u"]), node("Pad", ["u", "p", "z", "ax"], ["y"])], [
    constant("s", LONG, [], i64(1)), constant("e", LONG, [], i64(60001)), constant("d", LONG, [], i64(1)),
    constant("c", FLOAT, [1], f32(1)), constant("p", LONG, [2], i64(0, 0)), constant("z", FLOAT, [], f32(0)),
    constant("ax", LONG, [1], i64(0))], [1])
onnx("frame", [node("ConstantOfShape", ["sh"], ["c"]),
               node("Conv", ["c", "w"], ["y"], pads=[2**20, 2**20 - 1, 2**20 - 1] * 2, strides=[2**20] * 3)], [
    constant("sh", LONG, [5], i64(1, 1, 2**21, 2, 2)), constant("w", FLOAT, [1, 1, 1, 1, 1], f32(1))], [1])
onnx("spread", [node("ConstantOfShape", ["sh"], ["c"]), node("ConstantOfShape", ["ws"], ["w"]),
                node("ConvTranspose", ["c", "w"], ["y"], dilations=[2**18])], [
    constant("sh", LONG, [3], i64(1, 2**13, 1)), constant("ws", LONG, [3], i64(2**13, 1, 2))], [1])


# First inputs of targets whose bytes are no file of their own: how long the values are, rows, columns, then the parts.
def parts(values, shape, *rest):
    small = lambda n: struct.pack("<Q", n << 8 | 1)
    return struct.pack("<H", len(values)) + small(shape[0]) + small(shape[1]) + values + b"".join(rest)


put("packed", "csr", b"\0" + parts(f32(1, 2, 3), [2, 3], u32(0, 2, 1), u32(0, 2, 3)), "seed")
put("packed", "bitmask", b"\1" + parts(f32(1, 2, 3), [2, 3], b"\5\2"), "seed")
put("entropy", "two-of-four", parts(f32(1, 2), [2, 2], bytes([0x55, 0x12, 0x80, 0, 0])), "seed")

recipe = """title = "{method}"
data = "table"
model = "mlp:3-8-2"
seeds = [0]

[train]
epochs = 1
batch = 4
schedule = "cosine"
warmup = 0.1
storage = "sparse"
prune_head = false
validation = 0.2

[train.optimizer]
name = "sgd"
lr = 0.1
momentum = 0.9
nesterov = true
weight_decay = 1e-4

[[arm]]
name = "{method}"
method = "{method}"
options = {{ density = 0.5 }}
"""
for method in ["rigl", "set", "gmp", "static-random"]:
    put("experiment", method, recipe.format(method=method).encode(), "seed")

words = {w: i for i, w in enumerate(["a", "b", "c", "ab", "abc", "Ġ", "<unk>"])}
for name, kind in {
    "bpe": {"type": "BPE", "vocab": words, "merges": ["a b", "ab c"], "unk_token": "<unk>"},
    "words": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    "pieces": {"type": "WordPiece", "vocab": words, "unk_token": "<unk>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9},
    "unigram": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5], ["ab", -2.0]], "byte_fallback": False},
}.items():
    split = lambda pattern: {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    said = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": {"type": "NFC"},
            "pre_tokenizer": split(r"\p{L}+|\p{N}|(a+)+b"), "post_processor": None, "decoder": None, "model": kind}
    put("tokenizer", name, json.dumps(said, ensure_ascii=False).encode(), "seed")
# Compiled, each part would take ten megabytes.
said["pre_tokenizer"] = split(r"(?=\p{L}{200})" * 40)
put("tokenizer", "parts", json.dumps(said, ensure_ascii=False).encode())
