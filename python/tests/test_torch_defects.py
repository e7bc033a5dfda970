"""What must hold of `nnz.torch` at its edges: nothing wrong is returned in silence, and every refusal is one sentence."""

import copy
import io
import json
import math
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from torch import nn

import nnz.torch as nt

torch.manual_seed(0)
x, y = torch.randn(64, 20), torch.randint(0, 3, (64,))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3))


def deep():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 3))


def pruned(**arguments):
    model = network()
    nt.prune(model, density=0.2, **arguments)
    return model


def train(model, optimizer, steps=5):
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def one_sentence(caught, *parts):
    text = str(caught.value)
    assert "\n" not in text and len(text) < 300, text
    for part in parts:
        assert part in text, text


# Compiled modules under what records or transforms operations


def traced(model):
    return torch.jit.trace(model, x, check_trace=False)


def made(model):
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(model)(x)


def forward_mode(model):
    import torch.autograd.forward_ad as ad

    with ad.dual_level():
        return ad.unpack_dual(model(ad.make_dual(x, torch.ones_like(x)))).tangent


WATCHERS = {
    "torch.jit.trace": traced,
    "vmap": lambda m: torch.func.vmap(m)(x),
    "grad": lambda m: torch.func.grad(lambda p: torch.func.functional_call(m, p, (x,)).sum())(dict(m.named_parameters())),
    "jacrev": lambda m: torch.func.jacrev(m)(x[0]),
    "jvp": lambda m: torch.func.jvp(m, (x,), (torch.ones_like(x),)),
    "functionalize": lambda m: torch.func.functionalize(m)(x),
    "make_fx": made,
    "forward mode": forward_mode,
    "torch.export": lambda m: torch.export.export(m, (x,), strict=False),
}


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("how", WATCHERS)
def test_what_records_or_transforms_a_compiled_module_is_refused(how, convolution, gradients):
    model = nt.compile(pruned(), note=None)
    if convolution:
        layer = nn.Conv2d(1, 4, 3)
        with torch.no_grad():
            layer.weight[:, :, 0] = 0
        model = nt.compile(nn.Sequential(nn.Unflatten(-1, (1, 4, 5)), layer, nn.Flatten(-3), nn.Linear(24, 3)), density=1.0, note=None)
        assert isinstance(model[1], nt.SparseConv2d)
    with torch.set_grad_enabled(gradients):
        want = model(x)
        with pytest.raises(TypeError) as caught:
            WATCHERS[how](model)
        one_sentence(caught, "nnz.torch.decompile(module)")
        # Nothing of it stays.
        assert torch.equal(model(x), want)
        plain = nt.decompile(model)
        if how == "torch.jit.trace":
            torch.testing.assert_close(traced(plain)(x), want)


@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("how", ["fullgraph", "export"])
def test_a_whole_graph_of_a_compiled_module_is_refused(how, convolution):
    model = nt.compile(pruned(), note=None)
    if convolution:
        layer = nn.Conv2d(1, 4, 3)
        with torch.no_grad():
            layer.weight[:, :, 0] = 0
        model = nt.compile(nn.Sequential(nn.Unflatten(-1, (1, 4, 5)), layer), density=1.0, note=None)
    want = model(x)
    with pytest.raises(Exception) as caught:
        if how == "export":
            torch.export.export(model, (x,), strict=True)
        else:
            torch.compile(model, backend="eager", fullgraph=True)(x)
    # Dynamo puts a frame of its own around it.
    assert "torch.compile and torch.export do not see what the sparse kernels of nnz.torch compute: compile without" in str(caught.value)
    assert torch.equal(model(x), want)


def test_torch_compile_still_runs_a_compiled_module():
    model = nt.compile(pruned(), note=None)
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(torch.compile(model, backend="eager")(x), model(x))


# Zeros


def test_a_report_counts_the_nonzeros_that_are_there():
    model = pruned()
    report = nt.prune(model, density=0.5)
    assert report.layers[0].nonzeros == int(model[0].weight.count_nonzero()) == 256
    assert report.density == report.layers[0].density == 0.2


def test_a_copy_keeps_its_own_zeros_and_leaves_the_original_alone():
    model = pruned(keep_zeros=True)
    zeros = model[0].weight == 0
    twin = copy.deepcopy(model)
    train(twin, torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9))
    assert not twin[0].weight[zeros].count_nonzero() and twin[0].weight.count_nonzero() == 256
    # The copy looks at its own weights alone.
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    twin(x)
    assert model[0].weight.count_nonzero() == 1280


def test_zeros_are_kept_from_a_momentum_from_before_the_pruning():
    for make in (lambda p: torch.optim.Adam(p, 0.05), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)):
        model = network()
        optimizer = make(model.parameters())
        train(model, optimizer)
        report = nt.prune(model, density=0.2, keep_zeros=True)
        zeros = model[0].weight == 0
        train(model, optimizer)
        assert not model[0].weight[zeros].count_nonzero()
        assert not model[0].weight.grad[zeros].count_nonzero()
        report.kept.remove()
        train(model, optimizer)
        assert model[0].weight[zeros].count_nonzero()


def test_a_module_that_keeps_zeros_is_saved_and_goes_on_keeping_them():
    model = pruned(keep_zeros=True)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    zeros = model[0].weight == 0
    train(again, torch.optim.Adam(again.parameters(), 0.05))
    assert not again[0].weight[zeros].count_nonzero() and again[0].weight.count_nonzero() == 256


def test_two_passes_before_one_backward_with_kept_zeros():
    model = pruned(keep_zeros=True)
    hidden = nn.Sequential(nn.Linear(20, 20), model)
    (hidden(x).sum() + hidden(2 * x).sum()).backward()
    assert hidden[0].weight.grad is not None


def test_a_layer_that_stays_dense_keeps_its_zeros(monkeypatch):
    monkeypatch.setattr(nt._compile, "_faster", lambda *_: False)
    model = nt.compile(pruned(keep_zeros=True), x, note=None)
    assert type(model[0]) is nn.Linear
    zeros = model[0].weight == 0
    train(model, torch.optim.Adam(model.parameters(), 0.05))
    assert not model[0].weight[zeros].count_nonzero()
    monkeypatch.undo()
    sparse = nt.compile(model, note=None)
    assert isinstance(sparse[0], nt.SparseLinear) and sparse[0].values.numel() == 256


def test_a_second_pruning_keeps_its_zeros_in_place_of_the_first():
    model = pruned(keep_zeros=True)
    report = nt.prune(model, density=0.1, keep_zeros=True)
    assert len(model[0]._forward_pre_hooks) == 1
    train(model, torch.optim.Adam(model.parameters(), 0.05))
    assert model[0].weight.count_nonzero() == 128
    report.kept.remove()
    assert not model[0]._forward_pre_hooks and not model[0].weight._backward_hooks


# Numbers that have no order


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "snip", "grasp"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_data_that_is_not_finite_prunes_nothing(method, bad):
    model = network()
    before = copy.deepcopy(model.state_dict())
    wrong = x.clone()
    wrong[3, 4] = bad
    with pytest.raises(ValueError) as caught:
        nt.prune(model, method, 0.2, data=[(wrong, y)])
    one_sentence(caught, "`0.weight`", "NaN", "data=")
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_weights_that_are_not_finite_are_named():
    model = network()
    with torch.no_grad():
        model[0].weight[1, 2] = math.nan
    with pytest.raises(ValueError, match="`0.weight` holds NaN") as caught:
        nt.prune(model, density=0.2)
    one_sentence(caught, "keep=")
    with pytest.raises(ValueError, match="`0.weight` holds NaN"):
        nt.attach(torch.optim.SGD(model.parameters(), 0.1), density=0.2, module=model)


# What compiling would lose


def test_layers_whose_weight_has_hooks_or_whose_forward_is_another_stay_dense():
    said = []
    model = pruned()
    model[0].weight.register_hook(lambda g: g * 2)
    assert type(nt.compile(model, note=said.append)[0]) is nn.Linear and "hooks" in said[-1]
    model = pruned()
    model[0].weight.register_post_accumulate_grad_hook(lambda p: None)
    assert type(nt.compile(model, note=said.append)[0]) is nn.Linear and "hooks" in said[-1]
    model = pruned()
    model[0].forward = lambda input: torch.zeros(len(input), 64)
    assert type(nt.compile(model, note=said.append)[0]) is nn.Linear and "forward was replaced" in said[-1]


# Attaching


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "dsnot", "grasp", "synflow"])
def test_methods_that_a_loop_cannot_show_enough_are_refused_before_anything_changes(method):
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError) as caught:
        nt.attach(optimizer, method, 0.2, module=model, steps=60)
    one_sentence(caught, method, "nnz.torch.prune(module")
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_frozen_weights_are_left_out_or_refused_by_name():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    model[0].requires_grad_(False)
    frozen = model[0].weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError) as caught:
        nt.attach(optimizer, density=0.2, module=model, layers=["0", "2"])
    one_sentence(caught, "0.weight", "requires_grad=False", "keep=")
    handle = nt.attach(optimizer, density=0.2, module=model, steps=100, every=2)
    assert list(handle.masks) == ["2.weight"]
    train(model, optimizer, 10)
    assert torch.equal(model[0].weight, frozen) and handle.grown > 0
    model = network().requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad=False"):
        nt.attach(torch.optim.SGD(model.parameters(), 0.1), density=0.2, module=model)


def test_a_step_that_raises_leaves_gradients_and_groups_as_they_were():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    nt.attach(optimizer, module=model, density=0.2, steps=100, every=10)
    F.cross_entropy(model(x), y).backward()
    optimizer.param_groups[0]["lr"] = "x"
    with pytest.raises(TypeError):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.1
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    optimizer.zero_grad()
    assert model[0].weight.grad is None
    train(model, optimizer, 3)


@pytest.mark.parametrize("first", [True, False])
def test_schedulers_of_torch_go_with_it_before_and_after(first):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if first:
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        handle = nt.attach(optimizer, module=model, density=0.2, steps=100, every=10)
        if not first:
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        train(model, optimizer, 2)
        scheduler.step()
        handle.remove()
        train(model, optimizer, 1)
        scheduler.step()
    assert math.isclose(optimizer.param_groups[0]["lr"], 0.001)
    copy.deepcopy(optimizer).step()


def test_weights_are_attached_once():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    handle = nt.attach(optimizer, density=0.2, module=model, steps=100, every=2)
    for other in (optimizer, torch.optim.Adam(model.parameters())):
        with pytest.raises(ValueError) as caught:
            nt.attach(other, "set", 0.2, module=model, steps=100, every=2)
        one_sentence(caught, "rigl", "`0.weight`", "remove()")
    said = []
    assert type(nt.compile(model, density=1.0, note=said.append)[0]) is nn.Linear and "rigl rewires it" in said[0]
    train(model, optimizer, 5)
    handle.remove()
    handle.remove()
    nt.attach(optimizer, density=0.2, module=model).remove()
    assert isinstance(nt.compile(model, density=1.0, note=None)[0], nt.SparseLinear)
    held = network()
    report = nt.prune(held, density=0.2, keep_zeros=True)
    optimizer = torch.optim.SGD(held.parameters(), 0.1)
    with pytest.raises(ValueError, match="kept.remove"):
        nt.attach(optimizer, density=0.2, module=held, start="weights")
    report.kept.remove()
    nt.attach(optimizer, density=0.2, module=held, start="weights")


# Networks of other people


class Named(nn.Module):
    """Calls its layers by keyword, as models of transformers may."""

    def __init__(self):
        super().__init__()
        self.first, self.last = network()[0], network()[2]

    def forward(self, x):
        return self.last(input=torch.relu(self.first(input=x)))


def test_layers_called_by_keyword_are_looked_at():
    model, plain = Named(), network()
    nt.prune(model, "wanda", 0.2, data=[x])
    nt.prune(plain, "wanda", 0.2, data=[x])
    assert torch.equal(model.first.weight, plain[0].weight)
    want = model(x)
    torch.testing.assert_close(nt.compile(model, x, note=None)(x), want)


class Tied(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight
        # A head that is not the last layer.
        self.more = nn.Linear(16, 2) if hidden else None

    def forward(self, x):
        return self.head(self.embed(x))


def test_a_head_that_an_embedding_shares_is_left_alone():
    model = Tied(False)
    with pytest.raises(ValueError, match="every weight is kept.*prune_head"):
        nt.prune(model, density=0.5)
    assert bool((model.embed.weight != 0).all())
    model = Tied(True)
    with pytest.raises(ValueError, match="every weight is kept"):
        nt.prune(model, density=0.5)
    assert nt.prune(model, density=0.5, layers=["head"]).layers[0].nonzeros == 400


def test_layers_of_gpt2_are_refused_by_name():
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=40, n_positions=8, n_embd=16, n_layer=1, n_head=2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError) as caught:
        nt.prune(model, density=0.1)
    one_sentence(caught, "transformer.h.0.attn.c_attn.weight", "Conv1D", "keep=")
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert [l.name for l in nt.prune(model, density=0.5, layers=["lm_head"]).layers] == ["lm_head.weight"]


def test_a_checkpoint_of_another_folder_resumes(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()

        def forward(self, x, labels):
            logits = self.body(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    rows = [{"x": a, "labels": b} for a, b in zip(x, y)]

    def run(folder, resume=None, **arguments):
        settings = transformers.TrainingArguments(
            folder, max_steps=6, per_device_train_batch_size=8, save_steps=2, report_to=[], use_cpu=True, disable_tqdm=True, seed=3
        )
        callback = nt.rewiring_callback(density=0.2, every=2, **arguments)
        trainer = transformers.Trainer(Model(), settings, train_dataset=rows, callbacks=[callback])
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    whole = run(str(tmp_path / "r1"))
    checkpoint = str(tmp_path / "r1" / "checkpoint-2")
    with pytest.raises(ValueError, match="resume_from="):
        run(str(tmp_path / "r2"), checkpoint)
    torch.testing.assert_close(run(str(tmp_path / "r3"), checkpoint, resume_from=checkpoint), whole, rtol=0, atol=0)


# Arguments


def attached(**arguments):
    model = network()
    return nt.attach(torch.optim.SGD(model.parameters(), 0.1), **{"module": model, **arguments})


LAZY = nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 3))
META = nn.Sequential(nn.Linear(20, 8, device="meta"), nn.Linear(8, 3, device="meta"))

WRONG = {
    "density nan": (lambda: nt.prune(network(), density=math.nan), ValueError, ["prune: density", "finite"]),
    "attach density nan": (lambda: attached(density=math.nan), ValueError, ["attach: density", "finite"]),
    "density text": (lambda: attached(density="a"), TypeError, ["attach: density", "number"]),
    "fraction nan": (lambda: attached(density=0.2, fraction=math.inf), ValueError, ["attach: fraction", "finite"]),
    "an option that is an object": (lambda: attached(density=0.2, fraction=object()), TypeError, ["attach: fraction"]),
    "compile density": (lambda: nt.compile(network(), density="a"), TypeError, ["compile: density"]),
    "seed": (lambda: nt.prune(network(), density=0.2, seed=-1), ValueError, ["prune: seed", "at least 0"]),
    "seed kind": (lambda: nt.prune(network(), density=0.2, seed=1.0), TypeError, ["prune: seed", "whole number"]),
    "attach seed": (lambda: attached(density=0.2, seed=-1), ValueError, ["attach: seed"]),
    "steps_per_epoch -5": (lambda: attached(density=0.2, steps_per_epoch=-5), ValueError, ["attach: steps_per_epoch", "at least 1"]),
    "steps_per_epoch 0": (lambda: attached(density=0.2, steps_per_epoch=0), ValueError, ["attach: steps_per_epoch", "at least 1"]),
    "steps 1.5": (lambda: attached(density=0.2, steps=1.5), TypeError, ["attach: steps", "whole number"]),
    "steps a": (lambda: attached(density=0.2, steps="a"), TypeError, ["attach: steps", "whole number"]),
    "every 0": (lambda: attached(density=0.2, every=0), ValueError, ["attach: every", "at least 1"]),
    "every 0 steps": (lambda: attached(density=0.2, every="0 steps"), ValueError, ["attach: every", "100 steps", "got '0 steps'"]),
    "every 0.0 run": (lambda: attached(density=0.2, steps=50, every=" 0.0  run"), ValueError, ["attach: every"]),
    "a method without options": (lambda: nt.prune(network(), "neural-persistence", 0.2), ValueError, ["no option `density`; it has none"]),
    "prune 3": (lambda: nt.prune(3, density=0.2), TypeError, ["prune: an nn.Module", "int"]),
    "attach 3": (lambda: attached(module=3, density=0.2), TypeError, ["attach: an nn.Module", "int"]),
    "compile 3": (lambda: nt.compile(3), TypeError, ["compile: an nn.Module", "int"]),
    "decompile 3": (lambda: nt.decompile(3), TypeError, ["decompile: an nn.Module", "int"]),
    "state_dict 3": (lambda: nt.state_dict(3), TypeError, ["state_dict: an nn.Module", "int"]),
    "a pair for batches": (lambda: nt.prune(network(), "snip", 0.2, data=(x, y)), ValueError, ["prune: data", "data=[(input, target)]"]),
    "numpy batches": (lambda: nt.prune(network(), "wanda", 0.2, data=[x.numpy()]), TypeError, ["prune: a batch", "torch.from_numpy"]),
    "numpy data": (lambda: nt.prune(network(), "wanda", 0.2, data=x.numpy()), TypeError, ["prune: data", "ndarray"]),
    "data 3": (lambda: nt.prune(network(), "wanda", 0.2, data=3), TypeError, ["prune: data", "int"]),
    "loss 3": (lambda: nt.prune(network(), "snip", 0.2, data=[(x, y)], loss=3), TypeError, ["prune: loss", "function"]),
    "layers 3": (lambda: nt.prune(network(), density=0.2, layers=3), TypeError, ["prune: layers", "names"]),
    "keep 3": (lambda: attached(density=0.2, keep=[3]), TypeError, ["attach: keep", "names"]),
    "method 3": (lambda: nt.prune(network(), 3, 0.2), TypeError, ["prune: method", "3"]),
    "attach method 3": (lambda: attached(method=3, density=0.2), TypeError, ["attach: method", "3"]),
    "distribution 3": (lambda: nt.prune(network(), density=0.2, distribution=3), TypeError, ["prune: distribution"]),
    "lazy prune": (lambda: nt.prune(LAZY, density=0.2), ValueError, ["prune: `0.weight`", "one batch"]),
    "lazy compile": (lambda: nt.compile(LAZY), ValueError, ["compile: `0", "one batch"]),
    "meta prune": (lambda: nt.prune(META, density=0.2), ValueError, ["prune: `0.weight`", "meta"]),
    "meta compile": (lambda: nt.compile(META), ValueError, ["compile: `0", "meta"]),
    "meta attach": (
        lambda: nt.attach(torch.optim.SGD(META.parameters(), 0.1), density=0.2, module=META), ValueError, ["attach: `0.weight`", "meta"]
    ),
    "a small network": (lambda: nt.prune(deep(), density=0.02), ValueError, ["without a connection", 'distribution="uniform"']),
    "callback method": (lambda: nt.rewiring_callback("foo", 0.2), ValueError, ["foo"]),
    "callback option": (lambda: nt.rewiring_callback("rigl", densty=0.2), ValueError, ["densty"]),
    "callback wanda": (lambda: nt.rewiring_callback("wanda", 0.2), ValueError, ["wanda", "nnz.torch.prune"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_get_one_sentence(name):
    if name.startswith("callback"):
        pytest.importorskip("transformers")
    run, kind, parts = WRONG[name]
    with pytest.raises(kind) as caught:
        run()
    assert type(caught.value) is kind
    one_sentence(caught, *parts)


def test_numbers_of_numpy_are_numbers():
    model = network()
    assert nt.prune(model, density=np.float32(0.25)).layers[0].nonzeros == 320
    assert json.dumps(attached(density=np.float64(0.2), fraction=np.float32(0.25)).state_dict()["options"])


def test_what_a_method_makes_no_use_of_is_said():
    for method, given, unused in (
        ("magnitude", dict(data=[x]), "data="),
        ("magnitude", dict(score=lambda m: 1.0), "score="),
        ("wanda", dict(data=[x], loss=F.cross_entropy), "loss="),
    ):
        with pytest.warns(UserWarning, match=f"{method} made no use of {unused}"):
            nt.prune(network(), method, 0.2, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nt.prune(network(), "snip", 0.2, data=[(x, y)], loss=F.cross_entropy)
        nt.prune(network(), "synflow", 0.2, data=[x])
        nt.prune(network(), "wanda", 0.2, data=[(x, y)])
