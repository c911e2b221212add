"""Time and peak memory of the stages behind the extractor, against the size of the problem: samples n, features d, classes K, poisons m.

    pip install numpy
    python benches/growth.py --hemlock target/release/hemlock            # all, some minutes
    python benches/growth.py --only d

Features are Gaussian clouds around class means, imported from a file; one number is varied at a time. Every stage is a process of its own: seconds are
those of its manifest, memory is the largest resident set of the process, which counts mapped files as far as they were touched.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

BASE = {"n": 10_000, "d": 64, "K": 10, "m": 300}
SIZES = {
    "n": [10_000, 100_000, 1_000_000],
    "d": [64, 256, 1024, 2048],
    "K": [10, 100, 1000],
    "m": [100, 1000, 10_000],
}
STAGES = ["features", "target-params", "poison-features", "evaluate"]
# A fixed number of steps, so that sizes and not searches are compared.
SPEC = """
[features]
method = "import"
path = "{path}"

[target-params]
radius = 0.3
weight_decay = 1e-2

[poison-features]
attack = "{attack}"
eps_d = {eps_d}
constraint = "ball"
steps = {steps}
stall = {steps}

[evaluate]
controls = ["duplicates"]
"""
ATTACKS = {"gradient-canceling": 50, "bilevel": 5}


def clouds(folder, n, d, classes):
    """Training, validation and test features, and labels, as .npy files."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((classes, d), dtype=np.float32)
    folder.mkdir()
    for split, count in [("train", n), ("validation", 2000), ("test", 2000)]:
        labels = (np.arange(count) % classes).astype(np.int64)
        z = rng.standard_normal((count, d), dtype=np.float32) * 3
        z += means[labels]
        np.save(folder / f"{split}.npy", z)
        np.save(folder / f"{split}_labels.npy", labels)


def run(hemlock, stage, spec, root):
    """Seconds of the manifest, and the peak of the process in MiB."""
    child = subprocess.Popen([hemlock, "--quiet", "--root", root, stage, spec])
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{stage} ended with status {status}")
    [manifest] = Path(root, stage).glob("*/manifest.json")
    return json.loads(manifest.read_text())["seconds"], usage.ru_maxrss / 1024


def measured(hemlock, folder, size, attack):
    spec = folder / f"{attack}.toml"
    eps_d = size["m"] / size["n"]
    spec.write_text(SPEC.format(path=folder / "features", attack=attack, eps_d=eps_d, steps=ATTACKS[attack]))
    with tempfile.TemporaryDirectory(dir=folder) as root:
        return [run(hemlock, stage, spec, root) for stage in STAGES]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hemlock", default="target/release/hemlock", help="the binary")
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES), help="which sizes to vary")
    args = parser.parse_args()
    hemlock = str(Path(args.hemlock).resolve())
    head = ["features", "target-params", *(f"{attack}, {steps} steps" for attack, steps in ATTACKS.items()), "evaluate"]
    print("seconds / peak MiB\n\n| n | d | K | m | " + " | ".join(head) + " |\n" + "| --- " * (4 + len(head)) + "|")
    for varied in args.only:
        for value in SIZES[varied]:
            size = BASE | {varied: value}
            with tempfile.TemporaryDirectory() as folder:
                folder = Path(folder)
                clouds(folder / "features", size["n"], size["d"], size["K"])
                canceling, bilevel = (measured(hemlock, folder, size, attack) for attack in ATTACKS)
            rows = [*canceling[:3], bilevel[2], canceling[3]]
            cells = [*(f"{size[name]:,}" for name in BASE), *(f"{seconds:.1f} / {peak:.0f}" for seconds, peak in rows)]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
