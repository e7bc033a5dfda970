#!/usr/bin/env python3
"""Files as other programs leave them, with the numbers they stand for: goldens/foreign.

Needs torch, numpy, safetensors, sentencepiece, gguf 0.19 and compressed-tensors 0.9.4.
"""
import collections, json, pathlib, sys

import gguf
import numpy as np
import torch
import safetensors.torch as st
import torch.nn.utils.prune
from gguf import GGMLQuantizationType as Kind, GGUFWriter
from gguf.quants import dequantize

torch.manual_seed(0)
rng = np.random.default_rng(19)
out = pathlib.Path(__file__).resolve().parent / "foreign"
out.mkdir(exist_ok=True)
want = {}  # file -> tensor -> shape and numbers


def tell(file, tensors):
    want[file] = {k: {"shape": list(v.shape), "values": v.float().flatten().tolist()} for k, v in tensors.items()}


def save(file, what, tensors, **how):
    torch.save(what, out / file, **how)
    tell(file, tensors)


class Python2:
    """Pickles as OrderedDict([[name, tensor], ...]), as Python 2 did."""

    def __init__(self, d):
        self.d = d

    def __reduce__(self):
        return collections.OrderedDict, ([[k, v] for k, v in self.d.items()],)


w, c = torch.randn(6, 4), torch.randn(2, 3, 3, 3)
plain = {"w": w, "c": c}
save("python2.pth", Python2(plain), plain)
save("python2-legacy.pth", Python2(plain), plain, _use_new_zipfile_serialization=False)
save("ddp.pth", {"state_dict": {"module." + k: v for k, v in plain.items()}, "state_dict_ema": {"module.w": w + 1}, "epoch": 3}, plain)
save("checkpoint.pth", {"model": collections.OrderedDict(plain), "optimizer": {"state": {0: {"exp_avg": w}}}, "epoch": 1}, plain)
save("lightning.pth", {"state_dict": {"model." + k: v for k, v in plain.items()}, "pytorch-lightning_version": "2.0"}, plain)
save("parts.pth", {"model": {"w": w}, "head": {"w": w + 1}}, {"model.w": w, "head.w": w + 1})
sparse = w * (w.abs() > 0.7)
save("sparse.pth", {"coo": sparse.to_sparse(), "csr": sparse.to_sparse_csr(), "net": w}, {"coo": sparse, "csr": sparse, "net": w})
shards = out / "shards"
shards.mkdir(exist_ok=True)
for i, part in enumerate([{"w": w}, {"c": c}], 1):
    torch.save(part, shards / f"pytorch_model-0000{i}-of-00002.bin")
index = {"metadata": {}, "weight_map": {"w": "pytorch_model-00001-of-00002.bin", "c": "pytorch_model-00002-of-00002.bin"}}
(shards / "pytorch_model.bin.index.json").write_text(json.dumps(index))
tell("shards", plain)
fp8 = {"e4m3": w.to(torch.float8_e4m3fn), "e5m2": w.to(torch.float8_e5m2)}
save("fp8.pth", fp8, fp8)
linear = torch.nn.Linear(4, 6)
torch.nn.utils.prune.l1_unstructured(linear, "weight", amount=0.5)
save("masked.pth", linear.state_dict(), {"weight": linear.weight.detach(), "bias": linear.bias.detach()})
normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 6))
save("normed.pth", normed.state_dict(), {"weight": normed.weight.detach(), "bias": normed.bias.detach()})
torch.jit.script(torch.nn.Linear(2, 2)).save(str(out / "script.pt"))

# Blocks of GGML: random bytes with small scales, decoded by the gguf package.
blocks = {}
halves = {"Q4_0": [0], "Q4_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q6_K": [208], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108],
          "Q5_K": [0, 2], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [], "NVFP4": [], "TQ1_0": [52], "TQ2_0": [64], "IQ2_XXS": [0], "IQ2_XS": [0],
          "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "IQ1_S": [0], "IQ1_M": []}
assert set(halves) == {k.name for k in gguf.quants._type_traits} - {"BF16"}, "the package decodes other types"
for name, at in halves.items():
    size = gguf.GGML_QUANT_SIZES[Kind[name]][1]
    b = rng.integers(0, 256, (3, size), dtype=np.uint8)
    for i in at:
        b[:, i : i + 2] = rng.normal(0, 0.1, (3, 1)).astype("<f2").view(np.uint8)
    if name == "MXFP4":
        b[:, 0] = [1, 120, 130]
    if name == "IQ1_M":  # The highest bits of its scale are those of its last byte.
        b[:, 55] = [0x20, 0x2F, 0xB1]
    values = dequantize(b.reshape(1, -1), Kind[name]).astype("<f4").reshape(-1)
    blocks[name] = {"bytes": b.reshape(-1).tolist(), "bits": values.view("<u4").tolist()}
(out / "blocks.json").write_text(json.dumps(blocks))


def gguf_file(name, **how):
    g = GGUFWriter(str(out / name), "llama", **how)
    a, b = rng.normal(size=(4, 32)).astype("f4"), rng.normal(size=(2, 32)).astype("f2")
    g.add_block_count(1)
    g.add_tensor("a", a)
    g.add_tensor("b", b)
    g.add_tensor("odd", rng.integers(0, 256, (1, 292), dtype=np.uint8), raw_dtype=Kind.Q8_K)
    g.write_header_to_file()
    g.write_kv_data_to_file()
    g.write_tensors_to_file()
    g.close()
    return {"a": torch.tensor(a), "b": torch.tensor(b)}


tell("big.gguf", gguf_file("big.gguf", endianess=gguf.GGUFEndian.BIG))
tell("split-00001-of-00002.gguf", gguf_file("split.gguf", split_max_tensors=2))

# Matrices packed by compressed-tensors.
from compressed_tensors.compressors.sparse_compressors.sparse_24_bitmask import Sparse24BitMaskTensor
from compressed_tensors.compressors.sparse_compressors.sparse_bitmask import BitmaskTensor

m = torch.randn(6, 8)
m *= torch.zeros_like(m).reshape(-1, 4).scatter_(1, m.reshape(-1, 4).abs().topk(2, 1).indices, 1.0).reshape(m.shape)
for file, kind in [("bitmask.safetensors", BitmaskTensor), ("bitmask24.safetensors", Sparse24BitMaskTensor)]:
    parts = kind.from_dense(m).dict("layer.weight", "cpu")
    st.save_file({k: v.contiguous() for k, v in {**parts, "norm.weight": torch.ones(8)}.items()}, out / file)
    tell(file, {"layer.weight": m, "norm.weight": torch.ones(8)})

# Whole numbers and 8-bit floats with scales.
q = torch.randint(-127, 128, (6, 8), dtype=torch.int8)
rows, groups, one = torch.rand(6, 1), torch.rand(6, 2), torch.rand(1)
zero = torch.randint(-3, 4, (6, 1), dtype=torch.int8)
f = torch.randn(6, 8).to(torch.float8_e4m3fn)
scaled = {"row.weight": q, "row.weight_scale": rows, "group.weight": q.clone(), "group.weight_scale": groups, "all.weight": q.clone(),
          "all.weight_scale": one, "zero.weight": q.clone(), "zero.weight_scale": rows.clone(), "zero.weight_zero_point": zero,
          "scb.weight": q.clone(), "scb.SCB": rows.flatten() * 127, "scb.weight_format": torch.tensor(0, dtype=torch.uint8),
          "fp8.weight": f, "fp8.weight_scale": rows.clone(), "block.weight": f.clone(), "block.weight_scale_inv": one.reshape(1, 1).clone()}
st.save_file(scaled, out / "scaled.safetensors")
tell("scaled.safetensors", {"row.weight": q * rows, "group.weight": q * groups.repeat_interleave(4, 1), "all.weight": q * one,
     "zero.weight": (q.float() - zero) * rows, "scb.weight": q * ((rows * 127) / 127), "fp8.weight": f.float() * rows, "block.weight": f.float() * one})
# Views that PyTorch stores as other numbers, with a mark.
z = torch.randn(4, 3, dtype=torch.complex64)
save("negated.pth", {"negated": z.conj().imag, "turned": z.conj().imag.T}, {"negated": -z.imag, "turned": -z.imag.T})
marks = {"conjugate": z.conj(), "both": torch._neg_view(z.conj()), "negative": torch._neg_view(z)}
torch.save({k: v for name, t in marks.items() for k, v in [(name, t), (f"{name}.resolved", t.resolve_conj().resolve_neg())]}, out / "marked.pth")
# Every type that safetensors writes: those whose numbers are read, and those that are listed.
t = torch.arange(-3, 9).reshape(3, 4)
signed = {n: t.to(getattr(torch, n)) for n in ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int32", "int16", "int8")}
whole = {n: (t + 3).to(getattr(torch, n)) for n in ("uint8", "uint16", "uint32", "uint64")}
types = {**signed, **whole, "bool": t > 2}
st.save_file(types, out / "types.safetensors")
tell("types.safetensors", types)
listed = {n: (t * 1.5).to(getattr(torch, n)) for n in ("float8_e4m3fnuz", "float8_e5m2fnuz", "complex64")}
bits = torch.arange(12, dtype=torch.uint8).reshape(3, 4)
listed |= {n: bits.clone().view(getattr(torch, n)) for n in ("float8_e8m0fnu", "float4_e2m1fn_x2")}
st.save_file(listed, out / "listed.safetensors")
(out / "want.json").write_text(json.dumps(want))

# A vocabulary of sentencepiece's byte-pair encoding, and texts split by that package itself. Needs sentencepiece 0.2.
import io
import sentencepiece as spm

words = "a sparse network keeps few of its weights and it runs faster; the network that is dense keeps all of its weights and runs slower. "
model = io.BytesIO()
spm.SentencePieceTrainer.train(sentence_iterator=iter([words] * 20), model_writer=model, model_type="bpe", vocab_size=330, byte_fallback=True,
                               character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
                               hard_vocab_limit=False)
tokenizer = spm.SentencePieceProcessor(model_proto=model.getvalue())
n = tokenizer.vocab_size()
g = GGUFWriter(str(out / "pieces.gguf"), "llama")
g.add_tokenizer_model("llama")
g.add_token_list([tokenizer.id_to_piece(i) for i in range(n)])
g.add_token_scores([tokenizer.get_score(i) for i in range(n)])
g.add_token_types([2 if tokenizer.is_unknown(i) else 3 if tokenizer.is_control(i) else 6 if tokenizer.is_byte(i) else 1 for i in range(n)])
g.add_tensor("t", np.zeros((1, 32), "f4"))
g.write_header_to_file()
g.write_kv_data_to_file()
g.write_tensors_to_file()
g.close()
texts = ["a sparse network", "weights  and slower", "zebra: \u00e9\u4e2d\u2603 keeps", " the network that is dense", "few\nof its weights.", "fasterfaster"]
(out / "pieces.json").write_text(json.dumps({"vocabulary": n, "texts": {t: tokenizer.encode(t) for t in texts}}))

