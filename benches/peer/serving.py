"""`hemlock-bench` as a process that sets up a work and runs it on demand."""

import json
import subprocess

import numpy as np
import torch


def tensor(array):
    """Returns an array as a tensor. Labels are indices, which have to be signed in PyTorch."""
    return torch.from_numpy(array.astype(np.int64) if array.dtype == np.uint32 else array)


def given(bench, work, folder, options=()):
    """Returns the inputs that a peer needs to do the same work."""
    subprocess.run([bench, "data", work, folder, *options], check=True)
    numbers = json.loads((folder / "numbers.json").read_text())
    return numbers | {path.stem: tensor(np.load(path)) for path in folder.glob("*.npy")} | {"folder": folder}


class Served:
    """A work that is set up, and runs on demand."""

    def __init__(self, bench, work, options=()):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.process = subprocess.Popen([bench, "serve", work, *options], **pipes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def seconds(self):
        self.process.stdin.write("\n")
        if line := self.process.stdout.readline():
            return float(line)
        raise SystemExit(f"hemlock-bench ended with status {self.process.wait()}")
