#!/usr/bin/env python3
"""Small random decoders of Hugging Face's `transformers` and their logits: goldens/formats/{gpt2,opt,neox}.

Needs torch, transformers (4.57) and safetensors.
"""
import json, pathlib

import torch
from transformers import (GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, OPTConfig, OPTForCausalLM)

out = pathlib.Path(__file__).resolve().parent / "formats"
tokens = [7, 31, 3, 58, 0, 42, 63, 9, 7]

models = {
    "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=24, n_layer=2, n_head=3, n_positions=32)),
    "opt": OPTForCausalLM(OPTConfig(vocab_size=64, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, ffn_dim=40,
                                    max_position_embeddings=32, word_embed_proj_dim=24)),
    "neox": GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                                             intermediate_size=40, rotary_pct=0.25, max_position_embeddings=32)),
    "neox-serial": GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                                                    intermediate_size=40, rotary_pct=1.0, max_position_embeddings=32,
                                                    use_parallel_residual=False)),
}
for name, model in models.items():
    torch.manual_seed(3)
    for p in model.parameters():
        p.data.normal_(0, 0.3)
    model.tie_weights()
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    model.save_pretrained(out / name)
    for extra in (out / name).glob("generation_config.json"):
        extra.unlink()
    (out / name / "logits.json").write_text(json.dumps({"tokens": tokens, "logits": logits.flatten().tolist()}) + "\n")
    print(name, tuple(logits.shape))
