"""Pipelines: specs, runs, results and artifacts, the same as the command's."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import warnings
from dataclasses import dataclass, field
from typing import Any, Iterator, Mapping

import numpy as np

from . import _hemlock
from ._arrays import plain, table
from ._hemlock import Error
from ._progress import shown

Spec = "str | os.PathLike[str] | Mapping[str, Any]"

# A payload file's header; the format is described in crates/store/src/payload.rs.
_MAGIC, _HEADER, _BODY = b"HEMLOCK\0", struct.Struct("<8s4H4Q"), 128
_TYPES = {1: "<f4", 2: "u1", 3: "<u4", 4: "<f8"}


@dataclass(frozen=True)
class Task:
    """One task of a run."""

    node: str
    """The node of the pipeline, such as ``dataset.downstream``."""
    stage: str
    """The stage that runs there."""
    key: str
    """The key of its artifact."""
    state: str
    """``ran`` or ``cached``."""
    seconds: float | None
    """How long it took, if it ran."""


@dataclass(frozen=True)
class Run:
    """A run of a pipeline that has ended well."""

    pipeline: str
    """The name of the spec."""
    tasks: list[Task] = field(repr=False)
    """Its tasks."""

    @property
    def ran(self) -> list[Task]:
        """The tasks that were not cached."""
        return [task for task in self.tasks if task.state == "ran"]


class _Arrays(Mapping[str, np.ndarray]):
    """The arrays of an artifact, which are mapped when they are asked for."""

    def __init__(self, folder: str, files: list[str]) -> None:
        self._folder, self._shapes = folder, {}
        for name in files:
            with open(os.path.join(folder, name), "rb") as file:
                magic, _, _, encoding, axes, *lengths = _HEADER.unpack(file.read(_HEADER.size))
            if magic == _MAGIC and encoding in _TYPES:
                self._shapes[name] = (_TYPES[encoding], tuple(lengths[:axes]))

    def __getitem__(self, name: str) -> np.ndarray:
        dtype, shape = self._shapes[name]
        if 0 in shape:
            return np.zeros(shape, dtype)
        return np.memmap(os.path.join(self._folder, name), dtype, "r", offset=_BODY, shape=shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name}: {dtype}{list(shape)}" for name, (dtype, shape) in self._shapes.items()) + "}"


@dataclass(frozen=True)
class Artifact:
    """What a stage has made."""

    stage: str
    """The stage."""
    node: str
    """The node of the pipeline at which it ran."""
    key: str
    """The key."""
    params: dict[str, Any]
    """The parameters of the stage."""
    seed: int | None
    """The seed, if the stage draws random numbers."""
    folder: str = field(repr=False)
    """The folder of the artifact."""
    summary: dict[str, Any] | None = field(repr=False)
    """Short facts about the content."""
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    """The arrays, mapped from their files, read only. Their digests were checked."""


def _place(root: Any, data: Any, pipelines: Any, device: Any) -> tuple[str, str, str, str]:
    def of(given: Any, variable: str, otherwise: str) -> str:
        return os.fspath(given) if given is not None else os.environ.get(variable, otherwise)

    return (
        of(root, "HEMLOCK_ARTIFACTS", "artifacts"),
        of(data, "HEMLOCK_DATA", "data"),
        of(pipelines, "HEMLOCK_PIPELINES", "pipelines"),
        of(device, "HEMLOCK_DEVICE", "flex"),
    )


def _named(spec: Any, set: Any, label: Any, name: str) -> tuple[str, str | None, list[str], str | None]:
    if set is None:
        sets = []
    elif isinstance(set, str):
        sets = [set]
    elif isinstance(set, Mapping):
        sets = list(_overrides(set, ""))
    else:
        sets = [str(one) for one in set]
    if isinstance(spec, Mapping):
        if not name.replace("-", "").replace("_", "").isalnum():
            raise Error(f"`name` is {name!r}; expected letters, digits, `-` and `_`")
        return name, _content(spec), sets, label
    if not isinstance(spec, (str, os.PathLike)):
        found = type(spec).__name__
        raise Error(f"`spec` is {found}; expected the name of a pipeline, the path of a .toml file, or a dictionary")
    return os.fspath(spec), None, sets, label


def _overrides(set: Mapping[str, Any], above: str) -> Iterator[str]:
    """Overrides as the command writes them. A dictionary within stands for the fields of a table."""
    for field, value in set.items():
        path = f"{above}{field}"
        if isinstance(value, Mapping):
            yield from _overrides(value, f"{path}.")
        elif value is None:
            raise Error(f"`set`: `{path}` is None; expected a value")
        else:
            said = json.loads(table({"value": value}, "set"))["value"]
            yield f"{path}={json.dumps(said, ensure_ascii=False)}"


def _content(spec: Mapping[str, Any]) -> str:
    """The content of a spec in JSON, where None is kept, so that it is refused by its path."""

    try:
        return json.dumps(dict(spec), default=plain("the spec"), allow_nan=False)
    except ValueError as e:
        if isinstance(e, Error):
            raise
        raise Error("the spec has a number that is not finite; expected finite ones") from e


def run(
    spec: Any,
    *,
    set: Any = None,
    jobs: int = 1,
    label: str | None = None,
    until: str | None = None,
    force: bool = False,
    repair: bool = False,
    allow_command: bool = False,
    name: str = "python",
    root: Any = None,
    data: Any = None,
    pipelines: Any = None,
    device: str | None = None,
    progress: Any = True,
) -> Run:
    """Runs a pipeline: what ``hemlock run`` does, with the same keys and the same cache.

    Parameters
    ----------
    spec : the name of a spec in the pipelines folder, the path of a .toml file, or its content as a dictionary.
    set : overrides, as a dictionary ``{"poison-features.poison_fraction": [0.01, 0.03]}``, or as the command writes
        them.
    jobs : the number of tasks that run side by side.
    label : a name for the run, which later stands for its overrides (``--as``).
    until : the last stage to run; all by default. ``force`` runs it again.
    repair : checks artifacts byte by byte, and rebuilds damaged ones.
    allow_command : whether commands that the spec names may run.
    name : the name of a spec that is a dictionary, under which results are found again.
    root, data, pipelines, device : as the command's options; their defaults are its defaults.
    progress : whether progress is shown.
    """
    request = (until, bool(force), bool(repair), int(jobs), bool(allow_command))
    if jobs < 1:
        raise Error(f"`jobs` is {jobs}; expected at least 1")
    if force and until is None:
        raise Error("`force` is for one stage; expected `until`, the stage that runs again")
    place, named = _place(root, data, pipelines, device), _named(spec, set, label, name)
    said = json.loads(_hemlock.run(place, named, request, shown(progress)))
    return Run(said["pipeline"], [Task(**task) for task in said["tasks"]])


@dataclass(frozen=True)
class Figure:
    """A chart of a report, which a notebook shows as it is."""

    path: str
    """The SVG file."""

    @property
    def svg(self) -> str:
        """The chart as SVG."""
        with open(self.path, encoding="utf-8") as file:
            return file.read()

    def _repr_svg_(self) -> str:
        return self.svg


@dataclass(frozen=True)
class Report:
    """A report on pipelines: a page, and its tables and charts as files of their own."""

    page: str
    """The HTML page."""
    tables: dict[str, str] = field(repr=False)
    """The CSV files of the tables, by their names, such as ``results`` or ``finding-F2``."""
    figures: dict[str, Figure] = field(repr=False)
    """The charts, by their names."""

    def table(self, name: str, frame: str | None = None) -> Any:
        """A table in the form in which :func:`results` returns results."""
        if name not in self.tables:
            raise Error(f"`name` is {name!r}; expected one of {', '.join(self.tables)}")
        make = _made(frame)
        with open(self.tables[name], encoding="utf-8", newline="") as file:
            return make(file.read())


def report(
    spec: Any = None,
    *,
    saved: Any = None,
    output: Any = None,
    paper: Any = None,
    set: Any = None,
    label: str | None = None,
    name: str = "python",
    root: Any = None,
    data: Any = None,
    pipelines: Any = None,
) -> Report:
    """Writes the report that ``hemlock report`` writes, on one pipeline or a list of them.

    Parameters
    ----------
    saved : instead of pipelines, a file ``results.jsonl.zst`` that another report wrote, or a list of them.
    output : the page to write, ``reports/NAME.html`` by default. Tables and charts are in folders beside it.
    paper : a CSV file with the numbers of a paper, which are shown beside the measured ones.
    """
    if (spec is None) == (saved is None):
        raise Error("expected either `spec` or `saved`")
    specs, files = _list(spec), [os.fspath(file) for file in _list(saved)]
    if not specs and not files:
        raise Error("the list is empty; expected names of pipelines, paths of .toml files or saved results")
    if len(specs) > 1 and any(isinstance(one, Mapping) for one in specs):
        raise Error("`spec` is a list with a dictionary; expected names of pipelines or paths of .toml files")
    place, all = _place(root, data, pipelines, None), [_named(one, set, label, name) for one in specs]
    paths = [os.fspath(path) if path is not None else None for path in (paper, output)]
    page, tables, figures, missing = _hemlock.report(place, all, files, *paths)
    for sentence in missing:
        warnings.warn(sentence, stacklevel=2)
    return Report(
        str(page),
        dict(_files(tables, ".csv")),
        {name: Figure(path) for name, path in _files(figures, ".svg")},
    )


def _list(given: Any) -> list[Any]:
    """One thing, or a list of several; none for ``None``."""
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _files(folder: Any, suffix: str) -> Iterator[tuple[str, str]]:
    """The files of a folder that end so, by their names without it."""
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if file.endswith(suffix):
            yield file.removesuffix(suffix), os.path.join(folder, file)


def results(
    spec: Any,
    *,
    set: Any = None,
    label: str | None = None,
    name: str = "python",
    root: Any = None,
    data: Any = None,
    pipelines: Any = None,
    frame: str | None = None,
) -> Any:
    """The results of a pipeline, with the columns of ``hemlock results --csv``: a frame of pandas or polars, whichever
    is installed, and otherwise a list of dictionaries. ``frame`` chooses: ``pandas``, ``polars`` or ``records``."""
    place, named = _place(root, data, pipelines, None), _named(spec, set, label, name)
    make = _made(frame)
    texts, missing, elsewhere = _hemlock.results(place, named, True)
    if missing:
        more = f"; {elsewhere}" if elsewhere else ""
        warnings.warn(f"{missing} results are missing, because their tasks have not run{more}", stacklevel=2)
    return make(texts[0])


def _pandas(text: str) -> Any:
    import pandas

    return pandas.read_csv(io.StringIO(text))


def _polars(text: str) -> Any:
    import polars

    return polars.read_csv(io.StringIO(text), infer_schema_length=None)


def _records(text: str) -> list[dict[str, Any]]:
    def value(cell: str) -> Any:
        if cell == "":
            return None
        if cell in ("true", "false"):
            return cell == "true"
        for number in (int, float):
            try:
                return number(cell)
            except ValueError:
                pass
        return cell

    # A key may look like a number.
    rows = csv.DictReader(io.StringIO(text))
    return [{k: cell if k == "key" else value(cell) for k, cell in row.items()} for row in rows]


_FRAMES = {"pandas": _pandas, "polars": _polars, "records": _records}


def _made(frame: str | None) -> Any:
    """The function that makes a frame of comma-separated values."""
    if frame is not None:
        if frame not in _FRAMES:
            raise Error(f"`frame` is {frame!r}; expected one of {', '.join(_FRAMES)}")
        return _FRAMES[frame]
    for name in ("pandas", "polars"):
        try:
            __import__(name)
        except ImportError:
            continue
        return _FRAMES[name]
    return _records


def artifacts(
    spec: Any,
    stage: str,
    *,
    select: Any = None,
    set: Any = None,
    label: str | None = None,
    name: str = "python",
    root: Any = None,
    data: Any = None,
    pipelines: Any = None,
) -> list[Artifact]:
    """The artifacts that a stage of a pipeline has made. ``select`` chooses branches by what they are made with, as a
    dictionary ``{"seed": 0, "invert.method": "decoder"}`` or as ``hemlock export --select`` has it."""
    place, named = _place(root, data, pipelines, None), _named(spec, set, label, name)
    if isinstance(select, Mapping):
        select = ",".join(f"{field}={v if isinstance(v, str) else json.dumps(v)}" for field, v in select.items())
    made = json.loads(_hemlock.artifacts(place, named, stage, select or ""))
    return [Artifact(**one, arrays=_Arrays(one["folder"], files)) for one in made for files in [one.pop("files")]]
