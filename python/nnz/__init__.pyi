# Written by python/stubs.py from what the program says its commands take.
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

from ._errors import Error as Error, MissingFile as MissingFile
from ._model import Layer as Layer, Model as Model, from_arrays as from_arrays, load as load, save as save
from ._nnz import __version__ as __version__
from ._program import COMMANDS as COMMANDS, GROUPS as GROUPS, Progress as Progress, options as options
from ._results import (
    Answer as Answer,
    Arm as Arm,
    CompareResult as CompareResult,
    EvalResult as EvalResult,
    InspectResult as InspectResult,
    PruneResult as PruneResult,
    Record as Record,
    ReproduceResult as ReproduceResult,
    RunResult as RunResult,
    TrainResult as TrainResult,
)

_Path = str | PathLike[str]
_Progress = Callable[[Any], Any]

def train(data: Any, *, target: str | int | float | None = None, missing: str | int | float | None = None, unseen: str | int | float | None = None, test: Any = None, method: str | int | float | None = None, density: float | None = None, sparsity: float | None = None, pattern: str | int | float | None = None, distribution: str | int | float | None = None, layer: str | str | Sequence[str] | None = None, set: Mapping[str, Any] | Sequence[str] | None = None, recipe: _Path | None = None, model: str | int | float | None = None, from_: str | int | float | None = None, normalize: str | int | float | None = None, task: Literal['classification', 'regression', 'reconstruction'] | None = None, epochs: int | None = None, batch: int | None = None, optimizer: Literal['sgd', 'adam', 'adamw', 'lbfgs'] | None = None, lr: float | None = None, schedule: Literal['cosine', 'constant', 'step'] | None = None, warmup: float | None = None, storage: Literal['auto', 'dense', 'masked', 'sparse'] | None = None, prune_head: bool = False, prune: str | str | Sequence[str] | None = None, keep: str | str | Sequence[str] | None = None, clip: float | None = None, ema: float | None = None, smoothing: float | None = None, augment: str | int | float | None = None, dtype: Literal['f32', 'bf16'] | None = None, seeds: int | None = None, seed: int | None = None, f64: bool = False, no_controls: bool = False, run_dir: _Path | None = None, resume: bool = False, again: bool = False, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> TrainResult:
    """Train a sparse network and compare it with its controls.

    Data are a name, a path, `(X, y)` of arrays, tensors or sparse matrices, or a DataFrame with `target`.

    data: Data set: a name from `nnz data list`, or a file or folder (`nnz help data` lists the formats)
    target: The column of a table that has the labels, by name or by number from 1
    missing: What becomes of cells of a table without a value: mean, median, mode, category or drop [default: they are refused]
    unseen: What becomes of texts that the table learned from does not have: category (they count as none of its texts), drop (their row is left out) or refuse [default: refuse]
    test: Test data: a share of the rows [default: 0.2], or a file
    method: The method; `nnz methods` lists them
    density: Nonzeros / prunable weights, above 0 and at most 1
    sparsity: The same as a sparsity: zeros / prunable weights
    pattern: Where zeros may fall: unstructured, per-row, row, N:M (2:4), flat:N:M, block:RxC (block:4x4)
    distribution: How the budget is shared between layers: uniform, er, erk, erk-plus, global; owl, for methods that look at what weights read; sensitivity, for `nnz prune` with --data
    layer: Options for the layers of a name, where * stands for any characters: a density, a pattern, keep, or OPTION=VALUE,…, such as 'blocks.*.mlp=0.3'; of several that name a layer the last counts
    set: Any option of the method; `nnz show METHOD` lists them
    recipe: A TOML file with the method (method = "magnitude"), its options, and options for layers ([[layers]]); options that are given besides go before
    model: Network: mlp:IN-HIDDEN-..-OUT, lenet5, vgg-small, resnet8, resnet20, resnet32 (or resnet20:WIDTH), mobilenet-small, transformer:WIDTH-DEPTH-HEADS-PATCH, causal-transformer:VOCABULARY-WIDTH-DEPTH-HEADS, autoencoder:IN-HIDDEN-..-CODE, vae:IN-HIDDEN-..-CODE, or a TOML file with its layers, such as net.toml [default: mlp with 300 and 100 hidden units]
    from_: Start from a trained network instead of random values: a file of nnz, ONNX, or a checkpoint of a known architecture. Every arm does, and --lr is 0.01 by default
    normalize: How values become inputs of a network of another program whose file does not say it: unit (bytes divided by 255), raw, data (less the mean of the training rows, divided by their deviation), imagenet, or MEAN:DEVIATION after the division by 255, such as 0.1307:0.3081, once or for red, green and blue
    task: The task [default: regression if rows have numbers to predict, else classification]
    epochs: Passes over the training data [default: 20]
    batch: Rows per step [default: 128; fewer if an epoch would have fewer than 16 steps]
    optimizer: Update rule [default: sgd]
    lr: Learning rate [default: 0.1 for sgd, 0.001 for adam and adamw; lbfgs takes none]
    schedule: How the learning rate falls [default: cosine]
    warmup: Share of the run over which the learning rate first rises from zero [default: 0.1]
    storage: Storage of weights [default: auto]
    prune_head: Let the method prune the classifier head, too
    prune: Let the method prune these layers only, by role or name, such as attention,mlp or 'blocks.*'
    keep: Keep these layers dense, by role or name
    clip: Scale gradients down to this Euclidean norm [default: none; 1 if numbers are predicted]
    ema: Evaluate and keep a moving average of the weights with this decay, such as 0.999
    smoothing: Spread this share of every target evenly over all classes, such as 0.1 [default: 0]
    augment: Augment training rows, such as flip,crop=4,cutout=8,mixup=0.2
    dtype: Number type of the finished network [default: f32]
    seeds: Networks per arm, with seeds SEED, SEED + 1, ... [default: 1]
    seed: First seed [default: 0]
    f64: Train in 64 bits, for checks
    no_controls: Train only the method: no random mask, no dense network, no small dense network
    run_dir: Directory of the run [default: runs/ID]
    resume: Resume an interrupted run; an error if there is none
    again: Run again even if there is a result
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def compare(data: Any, *, target: str | int | float | None = None, missing: str | int | float | None = None, unseen: str | int | float | None = None, test: Any = None, model: str | int | float | None = None, from_: str | int | float | None = None, normalize: str | int | float | None = None, methods: str | str | Sequence[str] | None = None, input: Mapping[str, Any] | Sequence[str] | None = None, set: Mapping[str, Any] | Sequence[str] | None = None, sweep: Mapping[str, Any] | Sequence[str] | None = None, metric: str | int | float | None = None, densities: float | str | Sequence[float] | None = None, max_size: str | int | float | None = None, max_latency: str | int | float | None = None, max_drop: float | None = None, rates: float | str | Sequence[float] | None = None, epochs: int | None = None, batch: int | None = None, optimizer: Literal['sgd', 'adam', 'adamw', 'lbfgs'] | None = None, lr: float | None = None, schedule: Literal['cosine', 'constant', 'step'] | None = None, warmup: float | None = None, storage: Literal['auto', 'dense', 'masked', 'sparse'] | None = None, prune_head: bool = False, prune: str | str | Sequence[str] | None = None, keep: str | str | Sequence[str] | None = None, clip: float | None = None, ema: float | None = None, smoothing: float | None = None, augment: str | int | float | None = None, dtype: Literal['f32', 'bf16'] | None = None, seeds: int | None = None, seed: int | None = None, dir: _Path | None = None, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> CompareResult | RunResult:
    """Compare methods fairly: equal steps, equal tuning, control arms, paired intervals; or experiments by their metrics.

    Data are a name, a path, `(X, y)` of arrays, tensors or sparse matrices, or a DataFrame with `target`.

    data: Data set: a name from `nnz data list`, or a file or folder; or experiments, separated by commas
    target: The column of a table that has the labels, by name or by number from 1
    missing: What becomes of cells of a table without a value: mean, median, mode, category or drop [default: they are refused]
    unseen: What becomes of texts that the table learned from does not have: category (they count as none of its texts), drop (their row is left out) or refuse [default: refuse]
    test: Test data: a share of the rows [default: 0.2], or a file
    model: Network, as for `nnz train`
    from_: Start every arm from a trained network instead of random values: a file of nnz, ONNX, or a checkpoint of a known architecture. The dense arm trains it on, and --lr is 0.01 by default
    normalize: How values become inputs of a network of another program whose file does not say it: unit (bytes divided by 255), raw, data (less the mean of the training rows, divided by their deviation), imagenet, or MEAN:DEVIATION after the division by 255, such as 0.1307:0.3081, once or for red, green and blue
    methods: Methods, separated by commas
    input: An input of an experiment; `nnz show KEY` lists them
    set: An option of an experiment; `nnz show KEY` lists them. Of several experiments, EXPERIMENT.KEY=VALUE is one's alone
    sweep: Values of an option of an experiment, an arm for each; with several, an arm for each combination
    metric: Show only this metric of an experiment, and the arm that is best by it
    densities: Densities, above 0 and below 1 [default: 0.1,0.02; with --max-drop 0.5,0.2,0.1,0.05,0.02,0.01]
    max_size: The largest density whose file stays below this, such as 2MB or 200kB
    max_latency: The largest density that answers one row within this, such as 1ms or 50us
    max_drop: Name the smallest density that loses at most this many points of validation accuracy against dense
    rates: Learning rates tried for every arm at every density, on the validation split [default: --lr alone]
    epochs: Passes over the training data [default: 20]
    batch: Rows per step [default: 128; fewer if an epoch would have fewer than 16 steps]
    optimizer: Update rule [default: sgd]
    lr: Learning rate [default: 0.1 for sgd, 0.001 for adam and adamw; lbfgs takes none]
    schedule: How the learning rate falls [default: cosine]
    warmup: Share of the run over which the learning rate first rises from zero [default: 0.1]
    storage: Storage of weights [default: auto]
    prune_head: Let the method prune the classifier head, too
    prune: Let the method prune these layers only, by role or name, such as attention,mlp or 'blocks.*'
    keep: Keep these layers dense, by role or name
    clip: Scale gradients down to this Euclidean norm [default: none; 1 if numbers are predicted]
    ema: Evaluate and keep a moving average of the weights with this decay, such as 0.999
    smoothing: Spread this share of every target evenly over all classes, such as 0.1 [default: 0]
    augment: Augment training rows, such as flip,crop=4,cutout=8,mixup=0.2
    dtype: Number type of the finished network [default: f32]
    seeds: Networks per arm, with seeds SEED, SEED + 1, ... [default: 3]
    seed: First seed [default: 0]
    dir: Directory [default: runs/compare-ID]
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def run(recipe: str | int | float, *, smoke: bool = False, input: Mapping[str, Any] | Sequence[str] | None = None, set: Mapping[str, Any] | Sequence[str] | None = None, sweep: Mapping[str, Any] | Sequence[str] | None = None, metric: str | int | float | None = None, seeds: int | None = None, seed: int | None = None, run_dir: _Path | None = None, resume: bool = False, again: bool = False, quiet: bool = False, threads: int | None = None, data: Any = None, progress: _Progress | None = None) -> TrainResult | RunResult:
    """Run a recipe: a file, the name of one that comes with nnz, or a run directory to resume.

    A run of data in memory goes on with `data`, the same as before.

    recipe: A TOML file, ROOM/METHOD/CLAIM, the key of an experiment, or a run directory
    smoke: Run the recipe's seconds-long form instead
    input: An input of an experiment; `nnz show KEY` lists them
    set: An option of an experiment; `nnz show KEY` lists them. Of several experiments, EXPERIMENT.KEY=VALUE is one's alone
    sweep: Values of an option of an experiment, an arm for each; with several, an arm for each combination
    metric: Show only this metric of an experiment, and the arm that is best by it
    seeds: Runs of an experiment, with seeds SEED, SEED + 1, ... [default: 1, or what the recipe says]
    seed: First seed of an experiment [default: 0]
    run_dir: Directory of the run [default: runs/ID]
    resume: Resume an interrupted run; an error if there is none
    again: Run again even if there is a result
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def prune(model: _Path | Model, *, method: str | int | float | None = None, density: float | None = None, sparsity: float | None = None, pattern: str | int | float | None = None, distribution: str | int | float | None = None, layer: str | str | Sequence[str] | None = None, set: Mapping[str, Any] | Sequence[str] | None = None, recipe: _Path | None = None, data: Any = None, finetune: int | None = None, normalize: str | int | float | None = None, batch: int | None = None, optimizer: Literal['sgd', 'adam', 'adamw', 'lbfgs'] | None = None, lr: float | None = None, schedule: Literal['cosine', 'constant', 'step'] | None = None, warmup: float | None = None, storage: Literal['auto', 'dense', 'masked', 'sparse'] | None = None, prune_head: bool = False, prune: str | str | Sequence[str] | None = None, keep: str | str | Sequence[str] | None = None, clip: float | None = None, ema: float | None = None, smoothing: float | None = None, augment: str | int | float | None = None, dtype: Literal['f32', 'bf16'] | None = None, seed: int | None = None, output: _Path | None = None, calibrate: _Path | str | Sequence[_Path] | None = None, layout: Literal['dense', 'csr', 'bitmask', 'entropy'] | None = None, numbers: Literal['f32', 'f16', 'bf16', 'int8'] | None = None, calibration_tokens: int | None = None, calibration_length: int | None = None, dense_layout: bool = False, quiet: bool = False, threads: int | None = None, tokenizer: Any = None, progress: _Progress | None = None) -> PruneResult:
    """Prune a trained model.

    Without `output`, the answer's `model` is in memory alone. A model of transformers may be given as it is, with its `tokenizer` if there is text to calibrate on, and comes back as one. Data are a name, a path, `(X, y)` of arrays, tensors or sparse matrices, or a DataFrame with `target`.

    model: A model written by nnz; a language model (a GGUF file, or a folder of safetensors or PyTorch weights); an encoder or a image network (ONNX, or a checkpoint)
    method: The method; `nnz methods` lists them
    density: Nonzeros / prunable weights, above 0 and at most 1
    sparsity: The same as a sparsity: zeros / prunable weights
    pattern: Where zeros may fall: unstructured, per-row, row, N:M (2:4), flat:N:M, block:RxC (block:4x4)
    distribution: How the budget is shared between layers: uniform, er, erk, erk-plus, global; owl, for methods that look at what weights read; sensitivity, for `nnz prune` with --data
    layer: Options for the layers of a name, where * stands for any characters: a density, a pattern, keep, or OPTION=VALUE,…, such as 'blocks.*.mlp=0.3'; of several that name a layer the last counts
    set: Any option of the method; `nnz show METHOD` lists them
    recipe: A TOML file with the method (method = "magnitude"), its options, and options for layers ([[layers]]); options that are given besides go before
    data: Data set for scoring, fine-tuning and evaluation
    finetune: Train the survivors for this many epochs
    normalize: How values become inputs of a network of another program whose file does not say it: unit (bytes divided by 255), raw, data (less the mean of the training rows, divided by their deviation), imagenet, or MEAN:DEVIATION after the division by 255, such as 0.1307:0.3081, once or for red, green and blue
    batch: Rows per step [default: 128; fewer if an epoch would have fewer than 16 steps]
    optimizer: Update rule [default: sgd]
    lr: Learning rate [default: 0.1 for sgd, 0.001 for adam and adamw; lbfgs takes none]
    schedule: How the learning rate falls [default: cosine]
    warmup: Share of the run over which the learning rate first rises from zero [default: 0.1]
    storage: Storage of weights [default: auto]
    prune_head: Let the method prune the classifier head, too
    prune: Let the method prune these layers only, by role or name, such as attention,mlp or 'blocks.*'
    keep: Keep these layers dense, by role or name
    clip: Scale gradients down to this Euclidean norm [default: none; 1 if numbers are predicted]
    ema: Evaluate and keep a moving average of the weights with this decay, such as 0.999
    smoothing: Spread this share of every target evenly over all classes, such as 0.1 [default: 0]
    augment: Augment training rows, such as flip,crop=4,cutout=8,mixup=0.2
    dtype: Number type of the finished network [default: f32]
    seed: Key of all random choices [default: 0]
    output: The pruned model: a file; a folder for models of other programs, or a file that ends in .onnx
    calibrate: Calibration text for a language model or an encoder; images for other networks, a folder or a file; for CLIP both, each with its own --calibrate
    layout: Layout of the matrices of a language model [default: the smallest of dense, csr and bitmask]
    numbers: Number type of a language model [default: f16]
    calibration_tokens: Tokens that --calibrate takes from the start of its text [default: 16384]
    calibration_length: Tokens per block of the calibration text [default: 512]
    dense_layout: Write zeros too, so that any safetensors reader gets plain matrices
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def sensitivity(model: _Path | Model, data: Any = None, *, method: str | int | float | None = None, density: float | None = None, sparsity: float | None = None, pattern: str | int | float | None = None, distribution: str | int | float | None = None, layer: str | str | Sequence[str] | None = None, set: Mapping[str, Any] | Sequence[str] | None = None, recipe: _Path | None = None, densities: float | str | Sequence[float] | None = None, rows: int | None = None, normalize: str | int | float | None = None, target: str | int | float | None = None, missing: str | int | float | None = None, unseen: str | int | float | None = None, seed: int | None = None, output: _Path | None = None, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer:
    """What a network loses when one of its layers alone is pruned, and the densities that lose least.

    Data are a name, a path, `(X, y)` of arrays, tensors or sparse matrices, or a DataFrame with `target`.

    model: A model written by nnz, or a network of another program (ONNX, or a checkpoint)
    data: Data set: a name from `nnz data list`, or a file or folder [default: the training data of a model written by nnz]
    method: The method; `nnz methods` lists them
    density: Nonzeros / prunable weights, above 0 and at most 1
    sparsity: The same as a sparsity: zeros / prunable weights
    pattern: Where zeros may fall: unstructured, per-row, row, N:M (2:4), flat:N:M, block:RxC (block:4x4)
    distribution: How the budget is shared between layers: uniform, er, erk, erk-plus, global; owl, for methods that look at what weights read; sensitivity, for `nnz prune` with --data
    layer: Options for the layers of a name, where * stands for any characters: a density, a pattern, keep, or OPTION=VALUE,…, such as 'blocks.*.mlp=0.3'; of several that name a layer the last counts
    set: Any option of the method; `nnz show METHOD` lists them
    recipe: A TOML file with the method (method = "magnitude"), its options, and options for layers ([[layers]]); options that are given besides go before
    densities: Densities to which every layer alone is pruned [default: 0.5]
    rows: Training rows that are measured, at most [default: 2000]
    normalize: How values become inputs of a network of another program whose file does not say it: unit (bytes divided by 255), raw, data (less the mean of the training rows, divided by their deviation), imagenet, or MEAN:DEVIATION after the division by 255, such as 0.1307:0.3081, once or for red, green and blue
    target: The column of a table that has the labels, by name or by number from 1
    missing: What becomes of cells of a table without a value: mean, median, mode, category or drop [default: they are refused]
    unseen: What becomes of texts that the table learned from does not have: category (they count as none of its texts), drop (their row is left out) or refuse [default: refuse]
    seed: Key of all random choices [default: 0]
    output: Write the densities that lose least at --density as a recipe for `nnz prune --recipe`
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def perplexity(model: _Path | Model, text: _Path, *, tokens: int | None = None, length: int | None = None, against: _Path | None = None, overlap: int | None = None, quiet: bool = False, threads: int | None = None, tokenizer: Any = None, progress: _Progress | None = None) -> Answer:
    """How well a language model predicts a text.

    model: A language model: a GGUF file, or a folder of safetensors or PyTorch weights
    text: A text (UTF-8; .gz too)
    tokens: Tokens from the start of the text [default: 32768]
    length: Tokens per block; blocks are independent [default: 512]
    against: Another model to compare with, block by block
    overlap: Number of likeliest next tokens whose overlap with those of the other model is measured [default: 5]
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def generate(model: _Path | Model, prompt: str | int | float, *, tokens: int | None = None, temperature: float | None = None, top_k: int | None = None, top_p: float | None = None, seed: int | None = None, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer:
    """Go on with a text by a language model.

    model: A language model: a GGUF file, or a folder of safetensors or PyTorch weights
    prompt: The text to go on with
    tokens: Most tokens that a language model generates [default: 64]
    temperature: Softmax temperature of a language model; 0 takes the likeliest token [default: 0]
    top_k: Sample among this many of the likeliest tokens; 0 for all [default: 0]
    top_p: Sample among the likeliest tokens that together have this probability [default: 1]
    seed: Key of all random choices [default: 0]
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def convert(model: _Path | Model, *, output: _Path, layout: Literal['dense', 'csr', 'bitmask', 'entropy'] | None = None, numbers: Literal['f32', 'f16', 'bf16', 'int8'] | None = None, sparse_initializer: bool = False, raw: bool = False, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer:
    """Write a model of another program as safetensors, dense or packed.

    model: A language model (a GGUF file, or a folder of safetensors or PyTorch weights), an encoder or an image network (ONNX, or a checkpoint), or a network that nnz trained
    output: The folder to write, or a file that ends in .onnx
    layout: Layout of matrices [default: the smallest of dense, csr and bitmask]
    numbers: Number type; ONNX files have 32 bits [default: f16]
    sparse_initializer: Write matrices of an ONNX file with a density below a third as sparse initializers: ONNX Runtime reads them; shape inference, converters, quantizers and OpenVINO do not
    raw: Omit the preprocessing of a network that nnz trained from an ONNX file: means, deviations, categories, scales
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def eval(model: _Path | Model, data: Any = None, *, split: Literal['test', 'train', 'all'] | None = None, against: _Path | None = None, normalize: str | int | float | None = None, target: str | int | float | None = None, missing: str | int | float | None = None, unseen: str | int | float | None = None, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> EvalResult:
    """Accuracy and loss of a model on a data set; a language model's accuracy on questions.

    Data are a name, a path, `(X, y)` of arrays, tensors or sparse matrices, or a DataFrame with `target`.

    model: A model written by nnz, a network of another program (ONNX, or a checkpoint), or a language model
    data: Data set: a name from `nnz data list`, or a file or folder [default: the training data of a model written by nnz]. For a language model lines of a context, candidates and the number of the right one from 0, with tabs between
    split: Rows to evaluate on [default: test]
    against: Another language model to compare with, question by question
    normalize: How values become inputs of a network of another program whose file does not say it: unit (bytes divided by 255), raw, data (less the mean of the training rows, divided by their deviation), imagenet, or MEAN:DEVIATION after the division by 255, such as 0.1307:0.3081, once or for red, green and blue
    target: The column of a table that has the labels, by name or by number from 1
    missing: What becomes of cells of a table without a value: mean, median, mode, category or drop [default: they are refused]
    unseen: What becomes of texts that the table learned from does not have: category (they count as none of its texts), drop (their row is left out) or refuse [default: refuse]
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def inspect(model: _Path | Model, *, history: bool = False, arm: str | int | float | None = None, html: _Path | None = None, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> InspectResult:
    """What a model consists of: density, bytes, degrees, dead units, components, spectral gap.

    model: A model written by nnz, any file or folder of weights, or a run's directory with --history
    history: How the topology changed during training: growth, pruning, ages, overlap with the start
    arm: The arm whose history is shown [default: the first]
    html: Write all measurements, with pictures, as a web page, and its numbers as CSV next to it
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def methods(*, papers: bool = False, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer:
    """List the methods.

    papers: Print the table of all papers as Markdown, as the README shows it
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def show(method: str | int | float, *, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer:
    """Everything about one method: idea, paper, options, claims.

    method: The method's key
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def cite(recipe: str | int | float, *, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer:
    """BibTeX entries to cite for a method or a recipe.

    recipe: A method's key, a recipe, or a run directory (everything that ran is cited)
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def reproduce(method: str | int | float, *, scale: Literal['smoke', 'small'] | None = None, record: _Path | None = None, again: bool = False, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> ReproduceResult:
    """Run the claims of a method and judge them.

    method: The method's key, one of its claims as KEY/CLAIM, or `all`
    scale: Scale of the runs [default: small]
    record: Write each dated result under this directory, as ROOM/METHOD/CLAIM.toml
    again: Run again even if there is a result
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def report(run: _Path, *, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer:
    """Write the report of a finished run again.

    run: The run directory
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def top(run: _Path | None = None, *, once: bool = False, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer:
    """Show a run in progress.

    run: The run directory [default: the newest under runs/]
    once: Print once and exit
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def doctor(*, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer:
    """Check processor, threads, memory, data and directories; exit code 1 if something will not work.

    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

def predict(model: _Path | Model, what: Any = None, *, input: Mapping[str, Any] | Sequence[str] | None = None, text: str | str | Sequence[str] | None = None, tokens: int | None = None, temperature: float | None = None, top_k: int | None = None, top_p: float | None = None, seed: int | None = None, target: str | int | float | None = None, missing: str | int | float | None = None, unseen: str | int | float | None = None, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Any:
    """Apply a model: the class of an image or a row, the vector of a text, how a text continues, which text fits an image.

    For arrays, tensors and sparse matrices, the answer is an array: see Model.predict.

    model: A model written by nnz, a language model, or an encoder or image network (ONNX, or a checkpoint)
    what: An image (PNG, JPEG), a table (CSV, TSV) or rows of numbers (svmlight, NumPy) for a model trained on such, or a text for an encoder or a language model to continue; with --text also a folder of images
    input: A NumPy array for an input of an ONNX or checkpoint network; prints every output. Give the name of the input if there are several
    text: A text that a network such as CLIP compares with the image; give two or more
    tokens: Most tokens that a language model generates [default: 64]
    temperature: Softmax temperature of a language model; 0 takes the likeliest token [default: 0]
    top_k: Sample among this many of the likeliest tokens; 0 for all [default: 0]
    top_p: Sample among the likeliest tokens that together have this probability [default: 1]
    seed: Key of all random choices [default: 0]
    target: The column of a table that has the labels, by name or by number from 1
    missing: What becomes of cells of a table without a value: mean, median, mode, category or drop [default: they are refused]
    unseen: What becomes of texts that the table learned from does not have: category (they count as none of its texts), drop (their row is left out) or refuse [default: refuse]
    quiet: Print only what was asked for
    threads: Threads to compute with [default: all cores]
    progress: a function that is called with notes and with Progress, instead of a bar"""

class _Data:
    @staticmethod
    def list(*, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer: ...
    @staticmethod
    def get(name: str | int | float, *, from_: _Path | None = None, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer: ...
    @staticmethod
    def check(data: Any, *, target: str | int | float | None = None, missing: str | int | float | None = None, unseen: str | int | float | None = None, test: Any = None, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer: ...
    def __call__(self, *, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer: ...

data: _Data

class _Bench:
    @staticmethod
    def kernels(*, shape: str | int | float | None = None, batch: int | None = None, density: str | int | float | None = None, pattern: str | int | float | None = None, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer: ...
    @staticmethod
    def cycles(model: _Path | Model, *, pattern: str | int | float | None = None, batch: int | None = None, side: int | None = None, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer: ...
    @staticmethod
    def scale(*, neurons: str | int | float | None = None, layers: int | None = None, degree: float | None = None, epsilon: float | None = None, inputs: int | None = None, classes: int | None = None, batch: int | None = None, rows: int | None = None, steps: int | None = None, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer: ...
    def __call__(self, model: _Path | Model | None = None, *, why: bool = False, batch: int | None = None, shape: str | str | Sequence[str] | None = None, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer: ...

bench: _Bench

class _Adapter:
    @staticmethod
    def take(base: _Path, tuned: _Path, *, output: _Path, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer: ...
    @staticmethod
    def fuse(base: _Path, adapter: _Path, *, output: _Path, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer: ...
    @staticmethod
    def unfuse(fused: _Path, adapter: _Path, *, output: _Path, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer: ...
    @staticmethod
    def switch(fused: _Path, from_: _Path, to: _Path, *, output: _Path, quiet: bool = False, threads: int | None = None, progress: _Progress | None = None) -> Answer: ...

adapter: _Adapter

__all__ = [
    'Answer',
    'Arm',
    'CompareResult',
    'Error',
    'EvalResult',
    'InspectResult',
    'Layer',
    'MissingFile',
    'Model',
    'Progress',
    'PruneResult',
    'Record',
    'ReproduceResult',
    'RunResult',
    'TrainResult',
    '__version__',
    'from_arrays',
    'load',
    'options',
    'save',
    'train',
    'compare',
    'run',
    'prune',
    'sensitivity',
    'perplexity',
    'generate',
    'convert',
    'eval',
    'inspect',
    'methods',
    'show',
    'cite',
    'reproduce',
    'report',
    'top',
    'doctor',
    'data',
    'bench',
    'adapter',
    'predict',
]
