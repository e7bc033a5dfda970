"""Models of transformers: in as they are, out as `from_pretrained` loads them."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

import nnz

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
torch = pytest.importorskip("torch")


def llama():
    config = transformers.LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config)


def density(model):
    weights = [p for n, p in model.named_parameters() if "proj" in n]
    return sum(int((p != 0).sum()) for p in weights) / sum(p.numel() for p in weights)


def test_a_loaded_model_is_pruned(here):
    model = llama()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    small = nnz.prune(model, method="magnitude", density=0.25, quiet=True).model
    assert type(small) is type(model) and density(small) == pytest.approx(0.25, abs=0.01)
    for name, p in small.named_parameters():
        kept = p != 0
        assert torch.equal(p[kept], before[name][kept]), name
    tokens = torch.arange(8)[None]
    assert small(tokens).logits.shape == model(tokens).logits.shape


def test_a_folder_goes_in_and_comes_out(here):
    llama().save_pretrained(here / "big")
    nnz.prune(here / "big", method="magnitude", density=0.5, output=here / "small", layout="dense", numbers="f32", quiet=True)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(here / "small")
    assert density(loaded) == pytest.approx(0.5, abs=0.01)
    assert np.isfinite(loaded(torch.arange(4)[None]).logits.detach().numpy()).all()


def test_a_named_folder_is_loaded_too(here):
    model = llama()
    found = nnz.prune(model, method="magnitude", density=0.25, output="small", layout="dense", quiet=True)
    assert type(found.model) is type(model) and density(found.model) == pytest.approx(0.25, abs=0.01)
    assert found.density == pytest.approx(0.25, abs=0.01)
    assert "<th>density</th>" in found._repr_html_()
    packed = nnz.prune(model, method="magnitude", density=0.25, output="packed", quiet=True)
    with pytest.raises(nnz.Error, match="leaves zeros out, which transformers does not read; prune with layout='dense'"):
        packed.model
    model.save_pretrained(here / "big")
    of_folder = nnz.prune("big", method="magnitude", density=0.5, output="half", layout="dense", quiet=True)
    with pytest.raises(nnz.Error, match="half is a folder .* load it with from_pretrained"):
        of_folder.model
    with pytest.raises(nnz.Error, match="^output: this model becomes a file or a folder"):
        nnz.prune("big", method="magnitude", density=0.5, quiet=True)


def test_a_tokenizer_needs_its_model(here):
    with pytest.raises(TypeError, match="tokenizer"):
        nnz.prune("folder", method="magnitude", density=0.5, tokenizer=object())
    with pytest.raises(TypeError, match="tokenizer: expected a tokenizer of transformers, got int"):
        nnz.prune(llama(), method="magnitude", density=0.5, tokenizer=3)
    (here / "t.txt").write_text("a text " * 500)
    with pytest.raises(nnz.Error, match="^model: its tokenizer reads the text; give it, too"):
        nnz.prune(llama(), method="wanda", density=0.5, calibrate="t.txt", quiet=True)
    with pytest.raises(nnz.Error, match="give a text with calibrate$"):
        nnz.prune(llama(), method="wanda", density=0.5, quiet=True)
    with pytest.raises(TypeError, match="Linear is a module of PyTorch; nnz.torch.prune"):
        nnz.prune(torch.nn.Linear(3, 3), method="magnitude", density=0.5)


def test_the_page_scores_a_pruned_folder(here):
    """As lm-evaluation-harness does, by what the page shows."""
    page = (Path(os.environ.get("NNZ_ROOT") or Path(__file__).parents[2]) / "docs/src/python.md").read_text()
    [code] = [block for block in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S) if "def loglikelihood" in block]
    words = "the cat sat on mat moon two and are four".split()
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, **{w: i + 1 for i, w in enumerate(words)}}, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    model = llama()
    model.save_pretrained("llama")
    tokenizer.save_pretrained("llama")
    nnz.prune("llama", method="magnitude", density=0.5, output="small", layout="dense", quiet=True)
    names: dict = {}
    exec(code, names)
    assert density(names["model"]) == pytest.approx(0.5, abs=0.01)
    for context, answers, _ in names["questions"]:
        for answer in answers:
            tokens = torch.tensor([tokenizer(context + answer).input_ids])
            # The mean loss of the answer's words, which here is one.
            labels = torch.where(torch.arange(tokens.shape[1]) < len(tokenizer(context).input_ids), -100, tokens)
            want = -names["model"](tokens, labels=labels).loss.item()
            assert names["loglikelihood"](context, answer) == pytest.approx(want, rel=1e-4)
    pruned = names["loglikelihood"](context, answer)
    names["model"] = model.eval()
    assert names["loglikelihood"](context, answer) != pytest.approx(pruned, rel=1e-4)
    assert names["accuracy"] in (0.0, 0.5, 1.0)
