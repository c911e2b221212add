"""The command ``hemlock``, whose code is in the native module."""

from __future__ import annotations

import os
import shutil
import sys

from . import _hemlock


def main() -> None:
    """Runs the command with this process's arguments, and exits with its code."""
    started = sys.argv[0]
    script = started if os.access(started, os.X_OK) and not started.endswith(".py") else None
    beside = os.path.join(os.path.dirname(sys.executable), "hemlock")
    program = script or (beside if os.access(beside, os.X_OK) else shutil.which("hemlock"))
    program = os.path.abspath(program) if program else None
    sys.exit(_hemlock.command(["hemlock", *sys.argv[1:]], program))
