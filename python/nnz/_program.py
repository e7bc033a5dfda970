"""The program's commands as functions. What they take is what the program says it takes, asked once when it is first needed."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Callable

from . import _data, _nnz, _results
from ._errors import Error, MissingFile
from ._words import Speaker


@dataclass(frozen=True)
class Progress:
    """How far a command is; what a function given as ``progress`` is called with, besides notes, which are texts."""

    what: str
    """The network, or the part of an experiment."""
    index: int
    """Its number among all, from 0."""
    count: int
    step: int
    """Steps done."""
    steps: int
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    """Mean training loss of the epoch so far."""
    accuracy: float | None = None
    """Accuracy on the validation split after the last epoch."""
    density: float | None = None

    def __str__(self) -> str:
        state = f"[{self.index + 1}/{self.count}] {self.what}: {self.step}/{self.steps}"
        if self.loss is not None:
            accuracy = "" if self.accuracy is None else f", validation {self.accuracy:.2%}"
            state += f", loss {self.loss:.4f}{accuracy}, density {self.density:.4g}"
        return state


_described: dict[str, dict[str, Any]] = {}


def described() -> dict[str, dict[str, Any]]:
    """Every command with its arguments by their names."""
    if _described:
        return _described
    from keyword import iskeyword

    commands = {}
    for c in json.loads(_nnz.described()):
        for a in c["arguments"]:
            a["flag"] = "--" + a["name"].replace("_", "-")
            # `from` is a word of the language.
            a["name"] += "_" if iskeyword(a["name"]) else ""
        c["arguments"] = {a["name"]: a for a in c["arguments"]}
        commands[c["name"]] = c
    _described.update(commands)
    return _described


def options(command: str) -> list[dict[str, Any]]:
    """What a command takes: a dictionary for each argument, with its name, its default and a line about it.

    >>> import nnz
    >>> [o["default"] for o in nnz.options("train") if o["name"] == "epochs"]
    ['20']
    """
    if command not in described():
        raise Error(f"no command {command!r}{near(command, described())}")
    return [dict(a) for a in described()[command]["arguments"].values()]


def near(name: str, known: Any) -> str:
    """A hint at names alike."""
    from difflib import get_close_matches

    found = get_close_matches(name, list(known), 3, 0.6)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def brief(value: Any) -> str:
    """A value in few characters."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:40]}... ({len(shown)} characters)"


def text(name: str, value: Any, kind: str = "text") -> str:
    """One value as the command line takes it, if it is of the kind that the program says."""
    given = plain(name, value)
    if kind == "int" and not given.strip().isdigit():
        raise Error(f"{name}: expected a whole number from 0 on, got {brief(value)}")
    if kind == "float":
        try:
            float(given)
        except ValueError:
            raise Error(f"{name}: expected a number, got {brief(value)}") from None
    if kind == "path" and ("\n" in given or any(len(os.fsencode(part)) > 255 for part in given.split("/"))):
        raise Error(f"{name}: {brief(value)} is no path; write what it holds into a file, and give its path")
    return given


def plain(name: str, value: Any) -> str:
    """The text of a value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected a value, got {value}")
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return plain(name, value.item())
    if hasattr(value, "named_parameters"):
        raise TypeError(f"{name}: {type(value).__name__} is a module of PyTorch; nnz.torch.prune(module, ...) prunes it")
    raise TypeError(f"{name}: expected a text or a number, got {type(value).__name__}")


def setting(value: Any) -> str:
    """The value of a method's option, in TOML."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(setting, value))}]"
    return text("set", value)


def pairs(name: str, value: dict[Any, Any], place: Callable[..., str]) -> list[str]:
    """``KEY=VALUE`` for each item."""
    out = []
    for key, v in value.items():
        if not isinstance(key, str) or not key or "=" in key:
            raise TypeError(f"{name}: expected texts as keys, got {key!r}")
        if name == "sweep":
            values = v if isinstance(v, (list, tuple)) else [v]
            out.append(f"{key}={','.join(setting(x) if isinstance(x, bool) else text(name, x) for x in values)}")
        elif name == "set":
            out.append(f"{key}={setting(v)}")
        else:
            out.append(f"{key}={place(v, f'{name}[{key!r}]')}")
    return out


def words(command: str, given: dict[str, Any], place: Callable[..., str]) -> list[str]:
    """The command line of a call."""
    known = described()[command]["arguments"]
    for name in given:
        if name not in known:
            raise TypeError(f"{command.replace(' ', '.')}() takes no {name!r}{near(name, known)}")
    named, lone = [], []
    for name, a in known.items():
        value = given.get(name)
        if value is None or (value is False and not a["value"]):
            # A method may stand in a recipe instead.
            named_elsewhere = name != "method" or "recipe" not in known or given.get("recipe") is not None
            if a["required"] or not named_elsewhere:
                raise TypeError(f"{command.replace(' ', '.')}() lacks {name!r}: {a['about']}")
            continue
        flag = a["flag"]
        if not a["value"]:
            if value is not True:
                raise TypeError(f"{name}: expected True or False, got {type(value).__name__}")
            named.append(flag)
        elif isinstance(value, dict) and a["repeated"] and name in ("set", "input", "sweep"):
            named += [f"{flag}={p}" for p in pairs(name, value, place)]
        elif isinstance(value, (list, tuple)) and a["option"] and (a["delimiter"] or a["repeated"] or a["kind"] == "text"):
            parts = [text(name, v, a["kind"]) for v in value]
            if a["delimiter"] or not a["repeated"]:
                parts = [(a["delimiter"] or ",").join(parts)] if parts else []
            named += [f"{flag}={p}" for p in parts]
        elif a["option"]:
            named.append(f"{flag}={text(name, value, a['kind'])}")
        else:
            lone.append(text(name, value, a["kind"]))
    return [*command.split(), *named, *(["--", *lone] if lone else [])]


def listener(quiet: bool, progress: Callable[[Any], Any] | None) -> Callable[..., None] | None:
    """What takes notes and progress: the caller's function, a line that is written again, or none, where the program draws its bar."""
    if progress is not None:
        if not callable(progress):
            raise TypeError(f"progress: expected a function, got {type(progress).__name__}")

        def tell(first: str, *rest: Any) -> None:
            progress(Progress(first, *rest[:4], *(rest[4] or ())) if rest else first)

        return tell
    if quiet:
        return lambda *_: None
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and hasattr(shell, "kernel"):
        from IPython.display import display

        line: list[Any] = []

        def show(first: str, *rest: Any) -> None:
            if not rest:
                print(first, file=sys.stderr)
                return
            state = {"text/plain": str(Progress(first, *rest[:4], *(rest[4] or ())))}
            if line:
                line[0].update(state, raw=True)
            else:
                line.append(display(state, raw=True, display_id=True))

        return show
    if sys.stderr is sys.__stderr__ and sys.stderr is not None and sys.stderr.isatty():
        return None

    def write(first: str, *rest: Any) -> None:
        if sys.stderr is not None and (not rest or rest[2] == rest[3]):
            print(Progress(first, *rest[:4], *(rest[4] or ())) if rest else first, file=sys.stderr)

    return write


DATA = {"data", "test", "what"}
"""Arguments that may be arrays."""
TOKENIZED = {"prune", "perplexity"}
"""Commands that take a model of transformers with its tokenizer."""


def call(
    command: str,
    given: dict[str, Any],
    progress: Callable[[Any], Any] | None = None,
    lent: Any = None,
    tokenizer: Any = None,
) -> _results.Answer:
    """Carries out a command and returns its answer."""
    from ._model import Model

    quiet = given.get("quiet")
    foreign = given.get("model") if hasattr(given.get("model"), "save_pretrained") else None
    if tokenizer is not None and foreign is None:
        raise TypeError("tokenizer: is for a model of transformers; a folder has its own")
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise TypeError(f"tokenizer: expected a tokenizer of transformers, got {type(tokenizer).__name__}")
    # Paths in answers are those of now, wherever the process goes later.
    base = os.getcwd()
    files: dict[str, str] = {}
    with _data.places(files) as place, ExitStack() as stack:
        folder: list[str] = []

        def temporary(name: str, what: str) -> str:
            if not folder:
                from tempfile import TemporaryDirectory

                folder.append(stack.enter_context(TemporaryDirectory(prefix="nnz-")))
            path = os.path.join(folder[0], f"{len(files)}", name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            files[path] = what
            return path

        def put(value: Any, what: str = "data") -> str:
            if isinstance(value, Model):
                # Never the file that it was read from: that may hold another network by now.
                return value.save(temporary("model.safetensors", what))
            if hasattr(value, "save_pretrained"):
                path = temporary("given", what)
                value.save_pretrained(path, safe_serialization=True)
                if tokenizer is not None:
                    tokenizer.save_pretrained(path)
                return path
            if command == "predict" and what.startswith("input[") and not _data.is_place(value):
                import numpy as np

                path = temporary("array.npy", what)
                np.save(path, np.ascontiguousarray(_data.array(value, what)))
                return path
            return place(value, what)

        ready = {}
        for name, value in given.items():
            if isinstance(value, Model) or value is foreign is not None or (name in DATA and value is not None and not isinstance(value, (int, float))):
                value = put(value, name)
            elif isinstance(value, (list, tuple)) and any(isinstance(v, Model) for v in value):
                value = [put(v, f"{name}[{i}]") if isinstance(v, Model) else v for i, v in enumerate(value)]
            ready[name] = value
        if lent is not None:
            place(lent)
        extra: dict[str, Any] = {}
        kept = command != "prune" or ready.get("output") is not None
        if not kept:
            ready["output"] = temporary("pruned" if foreign is not None else "pruned.safetensors", "output")
            if foreign is not None:
                # What `from_pretrained` reads: every entry, in the numbers the model has.
                ready.setdefault("layout", "dense")
                ready.setdefault("numbers", {"torch.float16": "f16", "torch.bfloat16": "bf16"}.get(str(foreign.dtype), "f32"))
        line = words(command, ready, put)
        say = Speaker(described(), command, files, held=any(p.startswith("memory:") for p in files))
        told = listener(bool(quiet), progress)
        kind, answer, run = _nnz.call(line, told and (lambda first, *rest: told(first if rest else say(first), *rest)))
        if kind in ("answer", "no"):
            document = json.loads(answer)
            if command == "prune":
                extra["network"] = None if kept else pruned(ready["output"], foreign)
                extra["reader"] = foreign and type(foreign)
                extra["packed"] = foreign is not None and ready.get("layout") != "dense"
                if not kept:
                    document["output"] = None
            if command == "inspect":
                of = given.get("model")
                extra["network"] = of if isinstance(of, Model) else None
                extra["path"] = of.path if isinstance(of, Model) else ready.get("model")
            return _results.of(command, document, kind == "answer", base=base, **extra)
    answer = say(answer)
    if kind == "interrupted":
        memory = ", data=...) with the same data" if lent is not None or answer_of_memory(given) else ")"
        raise KeyboardInterrupt(f"interrupted; go on with nnz.run({run!r}{memory}" if run else answer)
    if foreign is not None and tokenizer is None and "tokenizer" in answer:
        raise Error("model: its tokenizer reads the text; give it, too (`tokenizer=...`)")
    if not kept and foreign is None and answer.startswith("output: "):
        raise Error("output: this model becomes a file or a folder of its own kind; name it (`output=PATH`)")
    raise (MissingFile if kind == "missing" else Error)(answer)


def pruned(path: str, foreign: Any) -> Any:
    """The network that a command wrote for this call alone."""
    from ._model import load

    if foreign is not None:
        return type(foreign).from_pretrained(path)
    try:
        found = load(path)
    except Error:
        raise Error("output: this model becomes a file or a folder of its own kind; name it (`output=PATH`)") from None
    found.path = None
    return found


def answer_of_memory(given: dict[str, Any]) -> bool:
    """Whether a run learned from data in memory."""
    return any(n in given and given[n] is not None and not _data.is_place(given[n]) and not isinstance(given[n], (int, float)) for n in ("data", "test"))


def command(name: str, positional: tuple[str, ...], notes: str = "") -> Callable[..., Any]:
    """The function of a command."""
    import inspect

    about = described()[name]
    arguments = about["arguments"]

    def function(*args: Any, progress: Callable[[Any], Any] | None = None, **given: Any) -> Any:
        if len(args) > len(positional):
            raise TypeError(f"{name.replace(' ', '.')}() takes {len(positional)} positional arguments, got {len(args)}")
        for what, value in zip(positional, args):
            if what in given:
                raise TypeError(f"{name.replace(' ', '.')}() got {what!r} twice")
            given[what] = value
        lent = given.pop("data", None) if name == "run" else None
        tokenizer = given.pop("tokenizer", None) if name in TOKENIZED else None
        return call(name, given, progress, lent, tokenizer)

    parameters = [
        inspect.Parameter(p, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=inspect.Parameter.empty if arguments[p]["required"] else None)
        for p in positional
    ]
    rest = {n: a for n, a in arguments.items() if n not in positional}
    required = [n for n, a in rest.items() if a["required"] and not (name == "prune" and n == "output")]
    order = required + [n for n in rest if n not in required]
    if name == "run":
        order.append("data")
    if name in TOKENIZED:
        order.append("tokenizer")
    order.append("progress")
    parameters += [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=inspect.Parameter.empty if n in required else (False if n in rest and not rest[n]["value"] else None))
        for n in order
    ]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__name__ = function.__qualname__ = name.split()[-1]
    function.__module__ = "nnz"
    lines = [f"{about['about']}.", ""]
    if notes:
        lines += [notes, ""]
    lines += [f"{n}: {arguments[n]['about']}" + (f" [default: {arguments[n]['default']}]" if arguments[n]["default"] else "") for n in [*positional, *order] if n in arguments]
    lines.append("progress: a function that is called with notes and with Progress, instead of a bar")
    function.__doc__ = "\n".join(lines)
    return function


class Group:
    """Commands of one subject. Called itself, it is the command that stands for them."""

    def __init__(self, name: str, verbs: dict[str, tuple[str, ...]], own: tuple[str, tuple[str, ...]] | None) -> None:
        self.__name__ = name
        self.__doc__ = f"The program's `nnz {name}`: {', '.join(verbs)}."
        self._own, self._verbs = own and command(*own), tuple(verbs)
        self._needs = own[1][0] if own and own[1] else None
        for verb, positional in verbs.items():
            setattr(self, verb, command(f"{name} {verb}", positional))

    def __call__(self, *args: Any, **given: Any) -> Any:
        if self._own is None:
            raise TypeError(f"nnz.{self.__name__} is called by its functions: {', '.join(self._verbs)}")
        if self._needs is not None and not args and given.get(self._needs) is None:
            raise TypeError(f"{self.__name__}() lacks {self._needs!r}; or call one of its functions: {', '.join(self._verbs)}")
        return self._own(*args, **given)

    def __repr__(self) -> str:
        return f"<nnz.{self.__name__}: {self.__doc__}>"


ARRAYS = "Data are a name, a path, `(X, y)` of arrays, tensors or sparse matrices, or a DataFrame with `target`."

COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "train": (("data",), ARRAYS),
    "compare": (("data",), ARRAYS),
    "run": (("recipe",), "A run of data in memory goes on with `data`, the same as before."),
    "prune": (
        ("model",),
        "Without `output`, the answer's `model` is in memory alone. A model of transformers may be given as it is, with its `tokenizer` if "
        "there is text to calibrate on, and comes back as one. " + ARRAYS,
    ),
    "sensitivity": (("model", "data"), ARRAYS),
    "perplexity": (("model", "text"), ""),
    "generate": (("model", "prompt"), ""),
    "convert": (("model",), ""),
    "eval": (("model", "data"), ARRAYS),
    "inspect": (("model",), ""),
    "methods": ((), ""),
    "show": (("method",), ""),
    "cite": (("recipe",), ""),
    "reproduce": (("method",), ""),
    "report": (("run",), ""),
    "top": (("run",), ""),
    "doctor": ((), ""),
}

GROUPS: dict[str, tuple[dict[str, tuple[str, ...]], tuple[str, tuple[str, ...]] | None]] = {
    "data": ({"list": (), "get": ("name",), "check": ("data",)}, ("data list", ())),
    "bench": ({"kernels": (), "cycles": ("model",), "scale": ()}, ("bench", ("model",))),
    "adapter": (
        {"take": ("base", "tuned"), "fuse": ("base", "adapter"), "unfuse": ("fused", "adapter"), "switch": ("fused", "from_", "to")},
        None,
    ),
}
"""Those of several commands: their commands, and the one that stands for them."""


def make(name: str) -> Any:
    """The function or group of this name; None if there is none."""
    if name in COMMANDS:
        positional, notes = COMMANDS[name]
        return command(name, positional, notes)
    if name in GROUPS:
        return Group(name, *GROUPS[name])
    if name == "predict":
        return predict()
    return None


def predict() -> Callable[..., Any]:
    """`nnz predict`, which answers arrays with arrays."""
    of_program = command("predict", ("model", "what"), "For arrays, tensors and sparse matrices, the answer is an array: see Model.predict.")

    def function(*args: Any, **given: Any) -> Any:
        from ._model import Model, load

        what = args[1] if len(args) > 1 else given.get("what")
        model = args[0] if args else given.get("model")
        if what is None or _data.is_place(what) or _data.is_frame(what):
            return of_program(*args, **given)
        others = set(given) - {"model", "what", "quiet"}
        if len(args) > 2 or others:
            raise TypeError(f"predict() of arrays takes a model and rows, and no {', '.join(sorted(others)) or 'third argument'}")
        if model is None:
            raise TypeError("predict() lacks 'model'")
        return (model if isinstance(model, Model) else load(model)).predict(what)

    for a in ("__signature__", "__name__", "__qualname__", "__module__", "__doc__"):
        setattr(function, a, getattr(of_program, a))
    return function
