"""What commands answer, as plain frozen data: the program's JSON document with types, tables and pictures."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

if TYPE_CHECKING:
    from ._model import Model


class Record:
    """A JSON object whose keys are attributes. Frozen."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, Any]) -> None:
        object.__setattr__(self, "_values", values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return wrap(self._values[name])
        except KeyError:
            raise AttributeError(f"no {name!r}; there are {', '.join(self._values)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("an answer does not change")

    def __getitem__(self, name: str) -> Any:
        return wrap(self._values[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return Record, (self._values,)

    def to_dict(self) -> dict[str, Any]:
        """The document as the program prints it with ``--json``."""
        return self._values

    def __repr__(self) -> str:
        return f"Record({', '.join(f'{k}={short(v)}' for k, v in self._values.items())})"


def wrap(value: Any) -> Any:
    """A JSON value with records for its objects."""
    if isinstance(value, dict):
        return Record(value)
    if isinstance(value, list):
        return tuple(wrap(v) for v in value)
    return value


def short(value: Any) -> str:
    """One value in few characters."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return f"<{len(value)} keys>"
    if isinstance(value, list) and len(value) > 4:
        return f"<{len(value)} values>"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass(frozen=True, repr=False)
class Answer:
    """What a command answers. Its document's keys are attributes where a class has none of its own for them."""

    document: Any
    """The program's JSON document."""
    yes: bool = True
    """Whether the answer is not no: the program's exit code is 0, not 1."""
    base: str = field(default_factory=os.getcwd, compare=False)
    """The directory that paths in the document are relative to."""

    def to_dict(self) -> Any:
        """The document as the program prints it with ``--json``."""
        return self.document

    def rows(self) -> list[dict[str, Any]]:
        """A table: one dictionary a row, as ``pandas.DataFrame`` takes it."""
        document = self.document
        if isinstance(document, dict):
            tables = [v for v in document.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
            document = tables[0] if len(tables) == 1 else [document]
        return [row if isinstance(row, dict) else {"value": row} for row in document or []]

    def __getattr__(self, name: str) -> Any:
        document = self.__dict__.get("document")
        if isinstance(document, dict) and name in document:
            return wrap(document[name])
        known = f"; there are {', '.join(document)}" if isinstance(document, dict) else ""
        raise AttributeError(f"{type(self).__name__} has no {name!r}{known}")

    def __iter__(self) -> Iterator[Any]:
        return iter(wrap(self.rows()))

    def __len__(self) -> int:
        return len(self.rows())

    def __bool__(self) -> bool:
        return self.yes

    def __repr__(self) -> str:
        name = type(self).__name__
        if isinstance(self.document, dict):
            return f"{name}({', '.join(f'{k}={short(v)}' for k, v in self.document.items())})"
        return f"{name}({short(self.document)})"

    def _repr_html_(self) -> str:
        from ._html import sections, table

        return sections(self.document) if isinstance(self.document, dict) and self.rows() == [self.document] else table(self.rows())


@dataclass(frozen=True)
class Arm:
    """One network of a comparison, over its seeds."""

    name: str
    score: float
    """Mean accuracy on the test split, or the share of variance explained."""
    interval: float | None
    """Half of its 95% interval over seeds."""
    nonzeros: int
    density: float
    weight_bytes: int
    optimizer_bytes: int
    peak_training_bytes: int
    seconds_per_epoch: float
    metrics: dict[str, float] = field(default_factory=dict)
    """Other measures by name."""
    seeds: tuple[Record, ...] = ()
    """What each seed scored."""


def arm(document: dict[str, Any], measure: str) -> Arm:
    """An arm of the document."""
    known = {f.name for f in fields(Arm)}
    given = {k: v for k, v in document.items() if k in known and k != "seeds"}
    others = {k: v for k, v in document.items() if k not in known and k != measure and isinstance(v, (int, float))}
    return Arm(score=document[measure], metrics=others, seeds=wrap(document["seeds"]), **given)


@dataclass(frozen=True, repr=False)
class TrainResult(Answer):
    """A finished training: a method and its controls."""

    @property
    def run_dir(self) -> Path:
        """The directory of the run: its models, its report, its record."""
        return Path(self.base, self.document["run"]["directory"])

    @property
    def report(self) -> Path:
        """The report, a web page."""
        return Path(self.base, self.document["run"]["report"])

    @property
    def measure(self) -> str:
        """Name of the score: ``test_accuracy`` or ``test_variance_explained``."""
        first = self.document["arms"][0]
        return next(k for k in ("test_accuracy", "test_variance_explained") if k in first)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The networks: the method first."""
        return tuple(arm(a, self.measure) for a in self.document["arms"])

    @property
    def score(self) -> float:
        """The method's score."""
        return self.arms[0].score

    def model(self, arm: str | None = None) -> Model:
        """The trained network of an arm, by default the method's, with its first seed."""
        from ._model import load

        return load(self.run_dir / "models" / f"{arm or self.arms[0].name}.safetensors")

    def curves(self) -> list[dict[str, Any]]:
        """The training: a row for each arm, seed and epoch, with loss, validation accuracy and density."""
        record = json.loads((self.run_dir / "record.json").read_text())
        return [
            {"arm": a["name"], "seed": s["seed"], **{k: e.get(k) for k in ("epoch", "step", "loss", "accuracy", "density")}}
            for a in record["arms"]
            for s in a["seeds"]
            for e in s["epochs"]
        ]

    def rows(self) -> list[dict[str, Any]]:
        """The table of arms."""
        return [{k: v for k, v in a.items() if not isinstance(v, (list, dict))} for a in self.document["arms"]]

    def __repr__(self) -> str:
        arms = ", ".join(f"{a.name} {a.score:.4f}" for a in self.arms)
        return f"TrainResult({self.document['run']['title']!r}: {arms}; {str(self.run_dir)!r})"

    def _repr_html_(self) -> str:
        from ._html import curves, table

        shown = [a["name"] for a in self.document["arms"]]
        order = ["name", self.measure, "interval", "nonzeros", "density", "weight_bytes", "seconds_per_epoch"]
        html = table([{k: r.get(k) for k in order} for r in self.rows()])
        try:
            html += curves([c for c in self.curves() if c["seed"] == 0 or len(shown) == 1], "loss")
        except OSError:
            pass
        return html


@dataclass(frozen=True, repr=False)
class RunResult(Answer):
    """A finished experiment: its arms and their metrics."""

    @property
    def run_dir(self) -> Path:
        """The directory of the run."""
        return Path(self.base, self.document["directory"])

    @property
    def report(self) -> Path:
        """The report, a web page."""
        return Path(self.base, self.document["report"])

    def rows(self) -> list[dict[str, Any]]:
        """The metrics: a row for each arm and seed."""
        return [
            {"arm": a["name"], "seed": s["seed"], **s["findings"]["metrics"]}
            for a in self.document["run"]["arms"]
            for s in a["seeds"]
        ]

    def __repr__(self) -> str:
        return f"RunResult({self.document['run']['title']!r}, {len(self.rows())} runs; {str(self.run_dir)!r})"


@dataclass(frozen=True, repr=False)
class CompareResult(Answer):
    """Methods compared at equal steps, tuning and densities."""

    @property
    def run_dir(self) -> Path:
        """The directory of the comparison; its report is ``compare.html`` there."""
        return Path(self.base, self.document["dir"])

    def rows(self) -> list[dict[str, Any]]:
        """A row for each method and density: the mean over seeds, half of its 95% interval, differences to the controls."""

        def row(cell: dict[str, Any]) -> dict[str, Any]:
            mean = cell["mean"] or {}
            over = {k: (cell[k] or {}).get("mean") for k in ("over_random", "over_dense")}
            known = {k: cell[k] for k in ("arm", "density", "rate", "nonzeros", "bytes", "refused")}
            return {**known, "score": mean.get("mean"), "interval": mean.get("half_width"), **over}

        return [row(c) for c in self.document["comparison"]["cells"]]

    def __repr__(self) -> str:
        return f"CompareResult({len(self.rows())} arms; {str(self.run_dir)!r})"


@dataclass(frozen=True, repr=False)
class PruneResult(Answer):
    """A pruned model."""

    network: Any = None
    """The pruned network, if it was written for this answer alone."""
    reader: Any = None
    """The class of the model of transformers that was given."""
    packed: bool = False
    """Whether the file leaves zeros out, which transformers does not read."""

    @property
    def model(self) -> Any:
        """The pruned network: a Model, or of what transformers loads a model of its kind."""
        from ._errors import Error
        from ._model import load

        if self.network is not None:
            return self.network
        path = Path(self.base, self.document["output"])
        if self.reader is not None and not self.packed:
            return self.reader.from_pretrained(path)
        if self.reader is not None:
            raise Error(f"{path} leaves zeros out, which transformers does not read; prune with layout='dense'")
        if path.is_dir():
            raise Error(f"{path} is a folder for the program that it came from, such as transformers; load it with from_pretrained")
        return load(path)

    @property
    def density(self) -> float:
        """Connections / entries that are left."""
        document = self.document if "density" in self.document else self.document["after"]
        return float(document["density"])

    def rows(self) -> list[dict[str, Any]]:
        """Before and after; of a model of another program a row for each matrix."""
        if "after" not in self.document and isinstance(self.document.get("layers"), list):
            return [{**row, "density": row["nonzeros"] / max(row["entries"], 1)} for row in self.document["layers"]]
        known = [(k, self.document[k]) for k in ("before", "after") if isinstance(self.document.get(k), dict)]
        return [{"": k, **v} for k, v in known] or super().rows()

    def __repr__(self) -> str:
        rows = [r for r in self.rows() if "" in r]
        if not rows:
            return super().__repr__()
        said = "; ".join(f"{r['']}: {', '.join(f'{k}={short(v)}' for k, v in r.items() if k and v is not None)}" for r in rows)
        return f"PruneResult({said})"


@dataclass(frozen=True, repr=False)
class EvalResult(Answer):
    """How well a network does."""

    @property
    def score(self) -> float:
        """Accuracy, or the share of variance explained."""
        return next(self.document[k] for k in ("accuracy", "variance_explained") if k in self.document)

    def rows(self) -> list[dict[str, Any]]:
        """The measures, in one row."""
        return [{k: v for k, v in self.document.items() if not isinstance(v, (list, dict))}]


@dataclass(frozen=True, repr=False)
class InspectResult(Answer):
    """What a model consists of."""

    path: str | None = None
    """The model's file, if it was read from one."""
    network: Model | None = None
    """The model, if it was in memory."""

    def rows(self) -> list[dict[str, Any]]:
        """A row for each weight; of a history, what became of its connections."""
        layers = self.document.get("layers") if isinstance(self.document, dict) else None
        if not layers:
            return super().rows()
        if "moves" in layers[0]:
            return [moved(layer) for layer in layers]

        def flat(layer: dict[str, Any]) -> dict[str, Any]:
            out: dict[str, Any] = {}
            for k, v in layer.items():
                if isinstance(v, dict):
                    out.update({f"{k}_{n}": x for n, x in v.items() if not isinstance(x, (list, dict))})
                elif not isinstance(v, list):
                    out[k] = v
            return out

        return [flat(layer) for layer in layers]

    def _repr_html_(self) -> str:
        from ._html import table, topology
        from ._model import load

        rows = self.rows()
        columns = ["name", "rows", "cols", "nonzeros", "density", "packed_bytes"]
        if rows and "born" not in rows[0]:
            rows = [{k: r.get(k) for k in columns if k in r} for r in rows]
        html = table(rows)
        layers = self.network.layers if self.network else ()
        try:
            layers = layers or (load(Path(self.base, self.path)).layers if self.path else ())
        except (ValueError, OSError):
            pass
        return html + "".join(topology(layer) for layer in layers[:4])


def moved(layer: dict[str, Any]) -> dict[str, Any]:
    """How the connections of a layer changed, in a row."""
    moves = layer["moves"]
    last = moves[-1] if moves else {"nonzeros": layer["start"], "overlap": 1.0, "age": None}
    return {
        "name": layer["name"],
        "connections": last["nonzeros"],
        "born": sum(m["born"] for m in moves),
        "died": sum(m["died"] for m in moves),
        "rewirings": len(moves),
        "of_the_start": last["overlap"],
        "mean_age": last["age"],
    }


@dataclass(frozen=True, repr=False)
class ReproduceResult(Answer):
    """Claims and their verdicts; true if all of them hold."""

    def __bool__(self) -> bool:
        return self.yes and all(c["judgement"]["verdict"] == "holds" for c in self.document)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each claim."""
        return [
            {"recipe": c["recipe"], "statement": c["claim"]["statement"], **{k: v for k, v in c["judgement"].items() if not isinstance(v, (list, dict))}}
            for c in self.document
        ]


def of(command: str, document: Any, yes: bool, **more: Any) -> Answer:
    """The answer of a command."""
    if command in ("train", "run") and isinstance(document, dict) and "arms" in document:
        return TrainResult(document, yes)
    if command in ("run", "compare") and isinstance(document, dict) and "directory" in document and "run" in document:
        return RunResult(document, yes)
    if command == "compare":
        return CompareResult(document, yes)
    kinds: dict[str, type[Answer]] = {"prune": PruneResult, "eval": EvalResult, "inspect": InspectResult, "reproduce": ReproduceResult}
    return kinds.get(command, Answer)(document, yes, **more)
