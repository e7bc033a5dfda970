#!/usr/bin/env python3
"""Small random decoders of Hugging Face's `transformers`, their logits and greedy continuations: goldens/formats.

Needs torch, transformers (those of `OLD` were written by 4.57, the others by 5.24), safetensors and tokenizers. Without arguments all
but those of `OLD` are written; names choose some.
"""
import json, pathlib, sys

import torch
import transformers as t

out = pathlib.Path(__file__).resolve().parent / "formats"
tokens = [7, 31, 3, 58, 0, 42, 63, 9, 7]
long = [(11 * i * i + 5 * i + 3) % 64 for i in range(24)]

usual = dict(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24,
             max_position_embeddings=64, attn_implementation="eager")
llama = lambda **more: t.LlamaForCausalLM(t.LlamaConfig(**{**usual, "num_hidden_layers": 1, **more}))
rope = lambda **said: llama(rope_parameters={"rope_theta": 10000.0, **said}, hidden_size=32)
some = dict(num_experts_per_tok=2, moe_intermediate_size=12, head_dim=8)
gemma = dict(head_dim=8, query_pre_attn_scalar=12, sliding_window=6)

OLD = {
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=64, n_embd=24, n_layer=2, n_head=3, n_positions=32)),
    "opt": lambda: t.OPTForCausalLM(t.OPTConfig(vocab_size=64, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, ffn_dim=40,
                                                max_position_embeddings=32, word_embed_proj_dim=24)),
    "neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                                                         intermediate_size=40, rotary_pct=0.25, max_position_embeddings=32)),
    "neox-serial": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40, rotary_pct=1.0,
        max_position_embeddings=32, use_parallel_residual=False)),
}
NEW = {
    # Rotary positions.
    "rope-linear": lambda: rope(rope_type="linear", factor=2.0),
    "rope-dynamic": lambda: llama(rope_parameters={"rope_theta": 10000.0, "rope_type": "dynamic", "factor": 4.0},
                                  max_position_embeddings=16),
    "rope-llama3": lambda: rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                original_max_position_embeddings=32),
    "rope-yarn": lambda: rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=8.0),
    "rope-yarn-plain": lambda: rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, truncate=False, mscale=0.7,
                                    mscale_all_dim=0.4),
    # Families.
    "llama-biased": lambda: llama(attention_bias=True, mlp_bias=True, head_dim=6, rms_norm_eps=1e-5),
    "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**usual, sliding_window=5)),
    "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**usual, use_sliding_window=True, sliding_window=4, max_window_layers=1)),
    "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**usual, head_dim=8, tie_word_embeddings=True)),
    "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**usual, **gemma, attn_logit_softcapping=3.0, final_logit_softcapping=5.0)),
    "gemma3": lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**{**usual, "num_hidden_layers": 3}, **gemma, sliding_window_pattern=3)),
    "phi3": lambda: t.Phi3ForCausalLM(t.Phi3Config(**usual, sliding_window=7, pad_token_id=0)),
    "phi3-long": lambda: t.Phi3ForCausalLM(t.Phi3Config(
        **{**usual, "num_hidden_layers": 1}, original_max_position_embeddings=12, pad_token_id=0,
        rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]})),
    "stablelm": lambda: t.StableLmForCausalLM(t.StableLmConfig(**usual, use_qkv_bias=True, partial_rotary_factor=0.5)),
    "stablelm-parallel": lambda: t.StableLmForCausalLM(t.StableLmConfig(
        **{**usual, "num_hidden_layers": 1}, use_parallel_residual=True, partial_rotary_factor=0.5)),
    "olmo": lambda: t.OlmoForCausalLM(t.OlmoConfig(**usual, clip_qkv=0.5)),
    "olmo2": lambda: t.Olmo2ForCausalLM(t.Olmo2Config(**usual)),
    # Mixtures of experts.
    "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**usual, num_local_experts=4, num_experts_per_tok=2)),
    "mixtral-fused": lambda: t.MixtralForCausalLM(t.MixtralConfig(**usual, num_local_experts=4, num_experts_per_tok=2)),
    "qwen2-moe": lambda: t.Qwen2MoeForCausalLM(t.Qwen2MoeConfig(**usual, **some, num_experts=5, shared_expert_intermediate_size=20,
                                                                mlp_only_layers=[0])),
    "qwen3-moe": lambda: t.Qwen3MoeForCausalLM(t.Qwen3MoeConfig(**usual, **some, num_experts=4, norm_topk_prob=True)),
    "olmoe": lambda: t.OlmoeForCausalLM(t.OlmoeConfig(**usual, num_experts=4, num_experts_per_tok=2, clip_qkv=1.0)),
}


def write(name, model, tokens):
    torch.manual_seed(3)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    model.tie_weights()
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
        # The greedy continuation, token by token with a cache.
        read, cache, greedy = torch.tensor([tokens]), None, []
        for _ in range(8):
            answer = model(read, past_key_values=cache, use_cache=True)
            cache, read = answer.past_key_values, answer.logits[:, -1:].argmax(-1)
            greedy.append(int(read))
    model.save_pretrained(out / name, **({"save_original_format": False} if name.endswith("-fused") else {}))
    for extra in (out / name).glob("generation_config.json"):
        extra.unlink()
    said = {"tokens": tokens, "logits": [float(f"{v:.7g}") for v in logits.flatten().tolist()], "greedy": greedy}
    (out / name / "logits.json").write_text(json.dumps(said) + "\n")
    print(name, tuple(logits.shape), sum(f.stat().st_size for f in (out / name).iterdir()), greedy)


def tokenizer():
    """Words w0 to w63, after a first one that every text gets."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single=f"w{long[0]} $A", special_tokens=[(f"w{long[0]}", long[0])])
    return words


if __name__ == "__main__":
    for name in sys.argv[1:] or NEW:
        write(name, (OLD | NEW)[name](), tokens if name in OLD else long)
        if name == "mistral":
            tokenizer().save(str(out / name / "tokenizer.json"))
