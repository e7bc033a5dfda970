"""The program's commands as functions: the same answers, the same files, the same sentences."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import nnz

SMALL = dict(method="rigl", density=0.2, epochs=2, model="mlp:12-16-3", quiet=True)


@pytest.fixture(scope="module")
def small(digits, tmp_path_factory):
    """A network of density 0.2, in memory."""
    return nnz.train(digits, **SMALL, no_controls=True, run_dir=tmp_path_factory.mktemp("small") / "r").model()


def train(data, **more):
    return nnz.train(data, **{**SMALL, **more})


def test_a_training_is_data(digits, here):
    found = train(digits)
    assert [a.name for a in found.arms] == ["rigl", "static-random", "dense", "small-dense"]
    assert found.measure == "test_accuracy" and 0.5 < found.score <= 1
    assert found.run_dir.is_dir() and found.report.is_file()
    assert found.arms[0].nonzeros < found.arms[2].nonzeros and "auc" in found.arms[0].metrics
    assert found.arms[0].seeds[0].seed == 0
    assert found.to_dict()["arms"][0]["name"] == "rigl"
    assert found.rows()[0]["test_accuracy"] == found.score
    assert {r["arm"] for r in found.curves()} == {a.name for a in found.arms}
    html = found._repr_html_()
    assert "<table>" in html and "<svg" in html and "<script" not in html
    assert "rigl" in repr(found)
    with pytest.raises(Exception):
        found.yes = False


def test_arrays_are_read_as_their_file_is(digits, here):
    X, y = digits
    np.savez(here / "d.npz", x=X, y=y)
    of_file, of_memory = (train(d, no_controls=True, run_dir=str(here / n)) for d, n in ((here / "d.npz", "a"), ((X, y), "b")))
    assert of_file.arms == of_memory.arms or of_file.score == of_memory.score
    a, b = of_file.model(), of_memory.model()
    for name, value in a.state_dict().items():
        assert np.array_equal(value, b.state_dict()[name]), name
    # The same data are the same run.
    again = train((X.copy(), y.astype(np.int32)), no_controls=True, run_dir=str(here / "b"))
    assert again.run_dir == of_memory.run_dir


def test_the_program_says_the_same(digits, here):
    """One document, whoever asks; the program is the one built beside the library, if it is there."""
    program = os.environ.get("NNZ_PROGRAM")
    if not program:
        pytest.skip("NNZ_PROGRAM names no program")
    X, y = digits
    np.savez(here / "d.npz", x=X, y=y)
    ours = train("d.npz", run_dir="ours", threads=2).to_dict()
    words = "train d.npz --method rigl --density 0.2 --epochs 2 --model mlp:12-16-3 --run-dir theirs --json --quiet --threads 2"
    theirs = json.loads(subprocess.run([program, *words.split()], capture_output=True, check=True).stdout)

    def same(a, b, at=""):
        if isinstance(a, dict):
            assert set(a) == set(b), at
            for k in a:
                if k not in ("directory", "report", "seconds_per_epoch", "id"):
                    same(a[k], b[k], f"{at}/{k}")
        elif isinstance(a, list):
            assert len(a) == len(b), at
            for i, (x, z) in enumerate(zip(a, b)):
                same(x, z, f"{at}/{i}")
        else:
            assert a == b, at

    same(ours, theirs)


def test_every_command_has_a_function():
    described = set(nnz._program.described())
    groups = nnz._program.GROUPS
    ours = {*nnz._program.COMMANDS, "predict"} | {f"{g} {v}" for g, (verbs, _) in groups.items() for v in verbs}
    ours |= {own[0] for _, own in groups.values() if own}
    assert described == ours


def test_every_option_is_a_keyword():
    import inspect

    for name, c in nnz._program.described().items():
        group, _, verb = name.partition(" ")
        function = getattr(nnz, group)
        function = getattr(function, verb or "_own", function)
        assert set(c["arguments"]) - set(inspect.signature(function).parameters) == set(), name


def test_a_wrong_keyword_names_those_alike():
    with pytest.raises(TypeError, match="takes no 'densty'; did you mean 'density'"):
        nnz.train("mnist", method="rigl", densty=0.1)
    with pytest.raises(TypeError, match="lacks 'method'"):
        nnz.train("mnist")
    with pytest.raises(TypeError, match="2 positional|1 positional"):
        nnz.train("mnist", "rigl")
    with pytest.raises(TypeError, match="'data' twice"):
        nnz.train("mnist", data="mnist", method="rigl")
    with pytest.raises(TypeError, match="prune_head: expected True or False"):
        nnz.train("mnist", method="rigl", prune_head="yes")
    with pytest.raises(AttributeError, match="did you mean 'train'"):
        nnz.trian


def test_sentences_are_those_of_the_program():
    with pytest.raises(nnz.Error, match="density must be above 0 and at most 1, got 2"):
        nnz.train("mnist", method="rigl", density=2)
    with pytest.raises(ValueError, match="no method .*rigl"):
        nnz.show("rigll")
    with pytest.raises(nnz.Error, match="optimizer: expected one of .*adam.*, got 'adamm'"):
        nnz.train("mnist", method="rigl", optimizer="adamm")
    with pytest.raises(FileNotFoundError):
        nnz.train("no-such.npz", method="rigl")
    with pytest.raises(nnz.Error, match="cannot be used with"):
        nnz.train("mnist", method="rigl", density=0.1, sparsity=0.9)
    assert issubclass(nnz.Error, ValueError)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda m, d: nnz.train(d, method="set", epochs="a"), "^epochs: expected a whole number from 0 on, got 'a'$"),
        (lambda m, d: nnz.train(d, method="set", seed=-1), "^seed: expected a whole number from 0 on, got -1$"),
        (lambda m, d: nnz.train(d, method="set", density="a"), "^density: expected a number, got 'a'$"),
        (lambda m, d: nnz.train(d, method="set", seeds=0), r"^seeds: expected 1 to \d+, got 0$"),
        (lambda m, d: nnz.train(d, method="set", density=0.1, sparsity=0.9), "^the argument density cannot be used with sparsity$"),
        (lambda m, d: nnz.prune(m, method="snip", density=0.05), "measures on data: give `data=DATA`$"),
        (lambda m, d: nnz.prune(m, method="magnitude", density=0.05, finetune=2), "required arguments were not provided: data$"),
        (lambda m, d: nnz.prune(m, method="set", density=0.05), "methods that prune a trained model are those that start from all of its weights, such as magnitude, lamp"),
        (lambda m, d: nnz.prune(m, method="magnitude", density=0.05, calibrate="t.txt"), "^calibrate is for models .* data set of data$"),
        (lambda m, d: nnz.prune(m, method="magnitude", density=0.9), r"^model has density 0\.\d+ already"),
        (lambda m, d: nnz.prune(m, method="magnitude", density=0.05, calibrate="its own text\n" * 300), r"^calibrate: 'its own text.* \(\d+ characters\) is no path"),
        (lambda m, d: nnz.perplexity("no.gguf", "a long text " * 300), "^text: 'a long text.* is no path"),
        (lambda m, d: nnz.bench(), r"^bench\(\) lacks 'model'; or call one of its functions: kernels"),
        (lambda m, d: nnz.adapter(), "^nnz.adapter is called by its functions: take, fuse"),
        (lambda m, d: nnz.run("nope"), r"^no recipe `nope` \(`nnz.methods\(\)` lists what there is, `nnz.show\(KEY\)` its recipes\)"),
        (lambda m, d: nnz.show("rigll"), r"`nnz.methods\(\)` lists them"),
        (lambda m, d: nnz.train((d[0][:2], d[1][:2]), method="set", density=0.3), "^data: .*name a test file .`test=FILE`.|^data: "),
    ],
)
def test_sentences_are_in_the_words_of_python(small, digits, call, says):
    with pytest.raises((TypeError, ValueError), match=says) as said:
        call(small, digits)
    text = str(said.value)
    assert "--" not in text and "/nnz-" not in text and "\n" not in text and "digit found" not in text and len(text) < 400


def test_sentences_on_tables_say_what_tables_can(digits):
    pandas = pytest.importorskip("pandas")
    X, y = digits
    frame = pandas.DataFrame(X[:, :3], columns=["a", "b", "c"]).assign(kind=np.array(["ant", "bee", "cow"])[y])
    holes = frame.assign(a=np.where(np.arange(240) == 3, np.nan, 1.0))
    twice = frame.set_axis(["a", "b", "a", "kind"], axis=1)
    for data, more, says in (
        (frame, {}, "^data: which column has the answers. target=COL, one of `a`"),
        (holes, {"target": "kind"}, r'missing="mean", "median".*leave the column out \(`.drop\(columns="COL"\)`\)$'),
        (twice, {"target": "kind"}, "^data: line 1: two columns are named `a`; rename one$"),
        ((frame, y), {}, "data: X: column 'kind' holds no numbers; encode it first, or give one DataFrame with the answers in it"),
    ):
        with pytest.raises((TypeError, ValueError), match=says) as said:
            nnz.train(data, method="set", density=0.3, quiet=True, **more)
        assert "?" not in str(said.value).replace("answers?", "") and "--" not in str(said.value)


def test_a_file_that_is_not_there_is_one_everywhere():
    no = "no.safetensors"
    for call in (
        lambda: nnz.prune(no, method="magnitude", density=0.1),
        lambda: nnz.eval(no),
        lambda: nnz.inspect(no),
        lambda: nnz.bench(no),
        lambda: nnz.convert(no, output="x.safetensors"),
        lambda: nnz.predict(no, "x.csv"),
        lambda: nnz.predict(no, np.ones((2, 2))),
        lambda: nnz.perplexity("no.gguf", "no.txt"),
        lambda: nnz.adapter.fuse(no, "a", output="b"),
        lambda: nnz.run("no.toml"),
        lambda: nnz.load(no),
    ):
        with pytest.raises(nnz.MissingFile, match="No such file"):
            call()
    with pytest.raises(nnz.Error, match="are not written") as said:
        nnz.convert(no, output="no.pt")
    assert not isinstance(said.value, nnz.MissingFile)


def test_answers_stay_where_they_were_made(digits, here, monkeypatch):
    found = train(digits, no_controls=True)
    pruned = nnz.prune(found.model(), method="magnitude", density=0.1, output="p.safetensors")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert found.model().nonzeros > pruned.model.nonzeros > 0 and found.report.is_file() and found.curves()
    assert pruned.density == pruned.after.density == pruned.model.density


def test_notebooks_show_what_answers_hold(digits):
    found = train(digits, no_controls=True, epochs=10, set={"every": "2 steps"})
    history = nnz.inspect(found.run_dir, history=True)
    assert history.rows()[0]["rewirings"] > 0 and history.rows()[0]["born"] > 0
    assert "<th>born</th>" in history._repr_html_() and "<th>mean age</th>" in history._repr_html_()
    shown = nnz.show("rigl")._repr_html_()
    assert "<h4>docs</h4>" in shown and "fraction" in shown and "<td>Evci" not in shown.split("<h4>")[0]
    heads = re.findall("<th>(.*?)</th>", nnz.doctor()._repr_html_())
    assert heads[0] == "what", heads


def test_claims_that_are_not_shown_are_not_true():
    from nnz._results import ReproduceResult

    def claims(*verdicts):
        return [{"recipe": "r", "claim": {"statement": "s"}, "judgement": {"verdict": v}} for v in verdicts]

    assert ReproduceResult(claims("holds", "holds")) and not ReproduceResult(claims("holds", "not-shown"))
    assert not ReproduceResult(claims("holds"), yes=False)
    smoke = nnz.reproduce("rigl", scale="smoke", quiet=True)
    assert bool(smoke) == all(r["verdict"] == "holds" for r in smoke.rows())


def test_nothing_is_written_to_stdout(capfd, digits):
    train(digits, no_controls=True)
    nnz.methods()
    out, err = capfd.readouterr()
    assert out == "" and err == ""


def test_notes_go_where_python_prints(capsys, digits):
    train(digits, no_controls=True, quiet=False)
    assert "rigl" in capsys.readouterr().err


def test_progress_is_called(digits):
    seen = []
    train(digits, no_controls=True, quiet=False, progress=seen.append)
    steps = [e for e in seen if isinstance(e, nnz.Progress)]
    assert steps and steps[-1].step == steps[-1].steps and steps[-1].loss > 0 and 0 < steps[-1].density <= 1
    assert "rigl" in str(steps[-1])

    def angry(event):
        if isinstance(event, nnz.Progress):
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        train(digits, epochs=40, no_controls=True, quiet=False, progress=angry, run_dir="angry")
    with pytest.raises(TypeError, match="progress: expected a function"):
        train(digits, progress=3)


def test_options_of_a_method_are_a_dictionary(digits):
    found = train(digits, no_controls=True, set={"every": "3 steps", "fraction": 0.25})
    recipe = (found.run_dir / "recipe.toml").read_text()
    assert 'every = "3 steps"' in recipe and "fraction = 0.25" in recipe


def test_pruning_is_in_memory_unless_a_file_is_named(digits, here):
    found = train(digits)
    dense = found.model("dense")
    small = nnz.prune(dense, method="magnitude", density=0.1, data=digits)
    assert re.match(r"PruneResult\(before: density=1, .*; after: density=(0\.09|0\.1)\d*, ", repr(small)), small
    assert "test accuracy" not in nnz.prune(dense, method="magnitude", density=0.1)._repr_html_(), "a column of nothing"
    assert small.model.density == pytest.approx(0.1, abs=0.02) and small.document["output"] is None
    assert [r[""] for r in small.rows()] == ["before", "after"]
    kept = nnz.prune(dense, method="magnitude", density=0.1, output=here / "small.safetensors")
    assert (here / "small.safetensors").is_file()
    for name, value in small.model.state_dict().items():
        assert np.array_equal(value, kept.model.state_dict()[name])
    tuned = nnz.prune(dense, method="magnitude", density=0.1, data=digits, finetune=1, quiet=True)
    assert tuned.model.density == pytest.approx(0.1, abs=0.02)
    scored = nnz.eval(small.model, digits)
    assert scored.score == pytest.approx(small.document["after"]["test_accuracy"])
    look = nnz.inspect(kept.model)
    assert len(look.rows()) == 2 and "<svg" in look._repr_html_()


def test_an_experiment_runs():
    found = nnz.run("vsa-capacity", quiet=True)
    assert found.run_dir.is_dir() and found.rows() and "seed" in found.rows()[0]


def test_comparisons_are_tables(digits):
    found = nnz.compare(digits, methods=["set", "magnitude"], densities=[0.3], seeds=2, epochs=1, model="mlp:12-16-3", quiet=True)
    assert {r["arm"] for r in found.rows()} >= {"set", "magnitude", "dense", "static-random"}
    assert all(0 <= r["score"] <= 1 for r in found.rows()) and (found.run_dir / "compare.html").is_file()
    assert "set" in found._repr_html_()


def test_lists_and_entries():
    methods = nnz.methods()
    assert any(m["key"] == "rigl" for m in methods.rows())
    assert nnz.show("rigl").paper.arxiv == "1911.11134"
    assert "1911.11134" in nnz.cite("rigl").bibtex[0]
    names = [s["name"] for s in nnz.data.list().rows()]
    assert "mnist10k" in names and names == [s["name"] for s in nnz.data().rows()]
    checked = nnz.data.check("mnist10k")
    assert checked and checked.yes
    assert "markdown" in nnz.methods(papers=True).to_dict()
    with pytest.raises(TypeError):
        nnz.adapter()


def test_calls_may_nest_and_run_beside_each_other(digits):
    from concurrent.futures import ThreadPoolExecutor

    inner = []

    def inside(event):
        if isinstance(event, nnz.Progress) and not inner:
            inner.append(nnz.show("set").key)

    train(digits, quiet=False, progress=inside)
    assert inner == ["set"]
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda seed: train(digits, seed=seed, no_controls=True).arms[0], range(3)))
    assert runs[0].seeds != runs[1].seeds
    assert train(digits, seed=1, no_controls=True, threads=1, again=True).score == runs[1].score


SLOW = """
    import sys, numpy as np, nnz
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 600)
    X = rng.normal(size=(600, 64)) + np.eye(3)[y].repeat(22, axis=1)[:, :64]
    def tell(event):
        if isinstance(event, nnz.Progress) and event.step > 20:
            print("running", flush=True)
    try:
        nnz.train((X, y), method="rigl", density=0.2, epochs=EPOCHS, model="mlp:64-256-256-3", no_controls=True, run_dir="r", progress=tell)
    except KeyboardInterrupt as e:
        print("stopped:", e, flush=True)
        sys.exit(7)
"""


def test_ctrl_c_leaves_a_run_that_goes_on(here):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 600)
    X = rng.normal(size=(600, 64)) + np.eye(3)[y].repeat(22, axis=1)[:, :64]
    epochs = 60
    code = textwrap.dedent(SLOW).replace("EPOCHS", str(epochs))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline().strip() == "running"
    started = time.monotonic()
    child.send_signal(signal.SIGINT)
    said = [line for line in child.stdout if line.startswith("stopped")]
    assert child.wait(60) == 7 and time.monotonic() - started < 30
    assert said and "nnz.run('r', data=...)" in said[0], said
    assert not (here / "r" / "record.json").exists()
    with pytest.raises(nnz.Error, match="give the same data again"):
        nnz.run("r", quiet=True)
    resumed = nnz.run("r", data=(X, y), quiet=True)
    whole = nnz.train((X, y), method="rigl", density=0.2, epochs=epochs, model="mlp:64-256-256-3", no_controls=True, run_dir="w", quiet=True)
    assert resumed.score == whole.score
    for name, value in whole.model().state_dict().items():
        assert np.array_equal(value, resumed.model().state_dict()[name]), name


def test_ctrl_c_ends_a_command_that_saves_nothing():
    code = """
import nnz, sys, threading, os, signal, time
threading.Timer(0.7, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    nnz.bench.kernels(quiet=True)
    print("ended")
except KeyboardInterrupt:
    print("stopped")
sys.stdout.flush()
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() in ("stopped", "ended"), done.stderr


def test_the_import_is_light():
    code = "import sys, time; t = time.perf_counter(); import nnz; print(time.perf_counter() - t, 'numpy' in sys.modules)"
    found = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() for _ in range(5)]
    assert all(f[1] == "False" for f in found), "NumPy is imported before it is needed"
    assert min(float(f[0]) for f in found) < 0.15, found
