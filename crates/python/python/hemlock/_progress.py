"""Progress, as bars of tqdm's where that is installed, and as lines otherwise."""

from __future__ import annotations

import sys
from typing import Any, Callable

Show = Callable[[list, list], None]


def shown(progress: Any) -> Show | None:
    """What shows progress: nothing for None and False, bars for True, and otherwise what was given, which is called
    with the bars (number, label, done, total, unit, message) and with notes."""
    if not progress:
        return None
    if callable(progress):
        return progress
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return _lines
    return _Bars(tqdm)


def _lines(bars: list, notes: list) -> None:
    for note in notes:
        print(note, file=sys.stderr)


class _Bars:
    """Bars of tqdm's."""

    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm
        self._bars: dict[int, Any] = {}

    def __call__(self, bars: list, notes: list) -> None:
        for note in notes:
            self._tqdm.write(note, file=sys.stderr)
        there = {number for number, *_ in bars}
        for number in [number for number in self._bars if number not in there]:
            self._bars.pop(number).close()
        for number, label, done, total, unit, message in bars:
            if number not in self._bars:
                self._bars[number] = self._tqdm(desc=label, total=total or None, unit=f" {unit}", leave=False)
            bar = self._bars[number]
            bar.set_postfix_str(message, refresh=False)
            bar.update(done - bar.n)
