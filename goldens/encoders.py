#!/usr/bin/env python3
"""Small random relatives of BERT of Hugging Face's `transformers`, and what they answer: goldens/graphs/encoders.json and a folder each.

Needs torch and transformers (5.24).
"""
import json, pathlib

import numpy as np
import torch
import transformers as t

torch.set_grad_enabled(False)
out = pathlib.Path(__file__).resolve().parent / "graphs"
# The second text ends before the first; the token of number 1 fills it.
short = torch.tensor([[2, 7, 31, 5, 9, 3], [2, 17, 3, 1, 1, 1]])
far = torch.tensor([[2 + (7 * i * i + i) % 58 for i in range(150)]])
sizes = dict(vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24, max_position_embeddings=14)
distil = dict(vocab_size=60, dim=16, n_layers=1, n_heads=4, hidden_dim=24, max_position_embeddings=14)
roberta = dict(sizes, type_vocab_size=1, pad_token_id=1)
electra = dict(sizes, embedding_size=12)
modern = dict(sizes, num_hidden_layers=3, num_attention_heads=2, local_attention=4, global_attn_every_n_layers=2, pad_token_id=1,
              cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3, attn_implementation="eager")
labels = {0: "no", 1: "yes", 2: "perhaps"}

MODELS = {
    "roberta": (t.RobertaModel, t.RobertaConfig(**roberta)),
    "roberta-masked": (t.RobertaForMaskedLM, t.RobertaConfig(**roberta)),
    "roberta-judge": (t.RobertaForSequenceClassification, t.RobertaConfig(**roberta, id2label=labels)),
    "mpnet": (t.MPNetModel, t.MPNetConfig(**{**sizes, "max_position_embeddings": 160})),
    "distilbert": (t.DistilBertModel, t.DistilBertConfig(**distil)),
    "distilbert-masked": (t.DistilBertForMaskedLM, t.DistilBertConfig(**distil)),
    "distilbert-judge": (t.DistilBertForSequenceClassification, t.DistilBertConfig(**distil, id2label=labels)),
    "electra": (t.ElectraForPreTraining, t.ElectraConfig(**electra)),
    "electra-judge": (t.ElectraForSequenceClassification, t.ElectraConfig(**electra, id2label=labels)),
    "modernbert": (t.ModernBertModel, t.ModernBertConfig(**modern)),
    "modernbert-masked": (t.ModernBertForMaskedLM, t.ModernBertConfig(**modern)),
}


def describe(a):
    a = np.asarray(a)
    if a.dtype.kind == "i":
        return {"kind": "int", "shape": list(a.shape), "values": [int(v) for v in a.flatten()]}
    return {"kind": "float", "shape": list(a.shape), "values": [float(str(np.float32(v))) for v in a.flatten()]}


def answers(name, model):
    torch.manual_seed(5)
    for parameter, p in model.named_parameters():
        p.copy_(torch.randn_like(p) * 0.25 + (1 if "orm" in parameter and parameter.endswith(".weight") else 0))
    model.tie_weights()
    model.eval()
    # Far positions share a group in MPNet.
    ids, mask = (far, torch.ones_like(far)) if name == "mpnet" else (short, (short != 1).long())
    feeds = {"input_ids": ids, "attention_mask": mask}
    if name.startswith("electra"):
        feeds["token_type_ids"] = torch.zeros_like(ids)
    y = model(**feeds)
    model.save_pretrained(out / name)
    (out / name / "generation_config.json").unlink(missing_ok=True)
    if name.endswith("-masked"):
        outputs = [y.logits, (torch.log1p(y.logits.relu()) * mask[..., None]).max(1).values]
    elif hasattr(y, "logits"):
        outputs = [y.logits]
    else:
        h = y.last_hidden_state
        mean = (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        outputs = [h, torch.nn.functional.normalize(mean, dim=1)]
    print(name, [tuple(o.shape) for o in outputs], sum(f.stat().st_size for f in (out / name).iterdir()))
    return {"inputs": {k: describe(v) for k, v in feeds.items()}, "outputs": [describe(o) for o in outputs]}


if __name__ == "__main__":
    found = {name: answers(name, build(config)) for name, (build, config) in MODELS.items()}
    (out / "encoders.json").write_text(json.dumps(found) + "\n")
