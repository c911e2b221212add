from os import PathLike
from typing import Callable

import numpy as np
from numpy.typing import NDArray

__version__: str

_Show = Callable[[list, list], None] | None
_Floats = NDArray[np.float32] | NDArray[np.float64]
_Heads = tuple[NDArray[np.float64], NDArray[np.float64], str]
_Poisons = tuple[NDArray[np.float32], NDArray[np.uint32], NDArray[np.uint32], str]
_Split = tuple[NDArray[np.float32], NDArray[np.uint32]]
_Place = tuple[str, str, str, str]
_Named = tuple[str, str | None, list[str], str | None]

class Error(ValueError):
    kind: str

class Data:
    def __new__(
        cls, classes: list[str], train: _Split, validation: _Split | None, test: _Split | None
    ) -> Data: ...

_Images = NDArray[np.uint8]
_MadeImages = tuple[
    _Images,
    NDArray[np.float32] | None,
    NDArray[np.uint32],
    NDArray[np.uint32],
    NDArray[np.float32],
    NDArray[np.uint32],
    NDArray[np.float32],
    str,
]

class Extractor:
    @staticmethod
    def imported(table: str, device: str, show: _Show = None) -> Extractor: ...
    @staticmethod
    def stored(root: str, key: str, device: str) -> Extractor: ...
    @staticmethod
    def functions(object: object, name: str, keep: int, device: str) -> Extractor: ...
    def standardized(self, train: NDArray[np.float32]) -> Extractor: ...
    def of_length_one(self) -> Extractor: ...
    @property
    def normalization(self) -> tuple[str, tuple[NDArray[np.float32], NDArray[np.float32]] | None]: ...
    @property
    def network_of(self) -> tuple[str, int] | None: ...

def features(extractor: Extractor, images: _Images, show: _Show = None) -> NDArray[np.float32]: ...
def invert(
    extractor: Extractor,
    data: Data,
    images: _Images,
    poisons: _Poisons,
    aim: _Heads | None,
    tables: tuple[str, str | None],
    seed: int,
    show: _Show = None,
) -> _MadeImages: ...
def attack_images(
    extractor: Extractor, data: Data, images: _Images, aim: _Heads, table: str, seed: int, show: _Show = None
) -> _MadeImages: ...
_Samples = tuple[_Images | NDArray[np.float32], NDArray[np.uint32]]

def save_dataset(
    folder: str,
    format: str,
    classes: list[str],
    splits: tuple[_Samples, _Samples | None, _Samples | None, _Samples],
    source: list[int] | None,
) -> list[str]: ...
def command(arguments: list[str], program: str | None = None) -> int: ...
def fit(
    features: _Floats,
    given: NDArray[np.uint32],
    classes: int,
    weight_decay: float,
    tolerance: float,
    steps: int,
    start: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], int, float, float, bool]: ...
def scores(head: NDArray[np.float64], features: _Floats, probable: bool) -> NDArray[np.float64]: ...
def target(data: Data, table: str, seed: int, show: _Show = None) -> _Heads: ...
def attack(data: Data, aim: _Heads, table: str, seed: int, show: _Show = None) -> _Poisons: ...
def controls(
    data: Data, aim: _Heads, table: str, size: tuple[int | None, float], seed: int, show: _Show = None
) -> list[tuple[str, NDArray[np.float64], NDArray[np.uint32]]]: ...
def bounds(
    data: Data,
    clean: NDArray[np.float64],
    heads: list[NDArray[np.float64]],
    table: str,
    weight_decay: float,
    poisons: int | None = None,
    show: _Show = None,
) -> str: ...
def evaluate(
    data: Data,
    aim: _Heads,
    poisons: _Poisons,
    tables: tuple[str | None, str | None, str],
    draws: tuple[int, str],
    show: _Show = None,
) -> tuple[list[tuple[str, str, NDArray[np.bool_], NDArray[np.float32], NDArray[np.float64] | None]], str]: ...
def filter(
    features: _Floats,
    given: NDArray[np.uint32],
    classes: int,
    table: str,
    weight_decay: float,
    seed: int,
    show: _Show = None,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]: ...
def certify(
    data: Data, table: str, weight_decay: float, seed: int, show: _Show = None
) -> tuple[str, NDArray[np.bool_], NDArray[np.float32], NDArray[np.float64] | None]: ...
def run(place: _Place, named: _Named, request: tuple[str | None, bool, bool, int, bool], show: _Show = None) -> str: ...
def results(
    place: _Place, named: _Named, csv: bool, show: _Show = None
) -> tuple[list[str], int, str | None]: ...
def artifacts(place: _Place, named: _Named, stage: str, select: str, show: _Show = None) -> str: ...
def report(
    place: _Place,
    all: list[_Named],
    saved: list[str],
    paper: str | None = None,
    output: str | None = None,
    show: _Show = None,
) -> tuple[PathLike[str], PathLike[str], PathLike[str], list[str]]: ...
