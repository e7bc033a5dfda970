"""Writes `python/nnz/__init__.pyi` from what the program says its commands take. With `--check`, only says whether it is up to date.

    PYTHONPATH=python python python/stubs.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import nnz
from nnz import _program

HEAD = '''# Written by python/stubs.py from what the program says its commands take.
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

'''

ANSWERS = {
    "train": "TrainResult",
    "run": "TrainResult | RunResult",
    "compare": "CompareResult | RunResult",
    "prune": "PruneResult",
    "eval": "EvalResult",
    "inspect": "InspectResult",
    "reproduce": "ReproduceResult",
    "predict": "Any",
}


def annotation(name: str, a: dict) -> str:
    """The type of an argument."""
    if not a["value"]:
        return "bool"
    if name in _program.DATA:
        return "Any"
    one = {"int": "int", "float": "float", "path": "_Path", "text": "str"}[a["kind"]]
    if a["values"]:
        one = f"Literal[{', '.join(map(repr, a['values']))}]"
    if name == "model" and not a["option"]:
        one = "_Path | Model"
    if a["repeated"] and name in ("set", "input", "sweep"):
        return "Mapping[str, Any] | Sequence[str]"
    if a["delimiter"] or a["repeated"]:
        return f"{one} | str | Sequence[{one}]"
    # Numbers are texts to the program, so that their text will do.
    return one if a["kind"] != "text" or a["values"] else "str | int | float"


def signature(function: object, command: str) -> str:
    """Parameters with their types."""
    import inspect

    arguments = _program.described()[command]["arguments"]
    parts, star = [], False
    for p in inspect.signature(function).parameters.values():  # type: ignore[arg-type]
        if p.kind is p.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        kind = "_Progress" if p.name == "progress" else "Any" if p.name not in arguments else annotation(p.name, arguments[p.name])
        required = p.default is inspect.Parameter.empty
        if not required and p.default is None and kind != "Any":
            kind += " | None"
        parts.append(f"{p.name}: {kind}" + ("" if required else f" = {p.default!r}"))
    return ", ".join(parts)


def text() -> str:
    """The stub."""
    out = [HEAD]
    for name in (*_program.COMMANDS, "predict"):
        function = getattr(nnz, name)
        parts = signature(function, name)
        doc = function.__doc__.replace("\\", "\\\\").replace('"""', "'''")
        body = "\n".join("    " + line if line else "" for line in doc.splitlines())
        out.append(f'def {name}({parts}) -> {ANSWERS.get(name, "Answer")}:\n    """{body.strip()}"""\n\n')
    for group, (verbs, own) in _program.GROUPS.items():
        out.append(f"class _{group.capitalize()}:\n")
        for verb in verbs:
            out.append(f"    @staticmethod\n    def {verb}({signature(getattr(getattr(nnz, group), verb), f'{group} {verb}')}) -> Answer: ...\n")
        if own:
            out.append(f"    def __call__(self, {signature(_program.command(*own), own[0])}) -> Answer: ...\n")
        out.append(f"\n{group}: _{group.capitalize()}\n\n")
    listed = "\n".join(f"    {n!r}," for n in nnz.__all__)
    out.append(f"__all__ = [\n{listed}\n]\n")
    return "".join(out)


if __name__ == "__main__":
    path = Path(__file__).parent / "nnz" / "__init__.pyi"
    if "--check" in sys.argv:
        if path.read_text() != text():
            sys.exit(f"{path} is not what the program says; run python python/stubs.py")
    else:
        path.write_text(text())
