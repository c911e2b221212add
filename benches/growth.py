"""Measures time and peak memory of the stages for problems of different sizes: images, samples n, features d,
classes K, poisons m.

    pip install numpy
    python benches/growth.py --hemlock target/release/hemlock            # all
    python benches/growth.py --only images d

One number is varied at a time, and `--only imagenet` has features of ImageNet's size. Images are noise in CIFAR-10's
layout, and their extractor is a ResNet-20 that is hardly trained. For the other sizes, features are imported from a
file; they are Gaussian clouds around class means.

Every stage is a process of its own. Its seconds are those of its manifest. Its memory is the largest that the process
had for itself (`RssAnon`, read every 5 ms). The number in brackets includes pages of mapped files (`VmHWM`), which the
system takes back when it needs them.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

BASE = {"n": 10_000, "d": 64, "K": 10, "m": 300}
SIZES = {
    "n": [10_000, 100_000, 1_000_000],
    "d": [64, 256, 1024, 2048],
    "K": [10, 100, 1000],
    "m": [100, 1000, 10_000],
}
# Features of ImageNet's size, and a tenth of it.
IMAGENET = [{"n": n, "d": 768, "K": 1000, "m": n // 100} for n in (128_000, 1_280_000)]
IMAGES = [1000, 10_000, 100_000]
# The standard deviation around the mean of a class, with which heads are right about as often as on ImageNet.
SPREAD = 8
# Rows of features that are made at a time.
ROWS = 100_000
STAGES = ["features", "target-params", "poison-features", "evaluate"]
EXTRACTION = """
[dataset.pretrain]
source = "cifar10"
train = 256
test = 0

[dataset.downstream]
source = "cifar10"
train = {images}
validation = 100
test = 100

[pretrain]
method = "simclr"
arch = "resnet20"
epochs = 2
batch = 128

[features]

[target-params]
radius = 0.3
weight_decay = 1e-2
"""
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
poison_fraction = {poison_fraction}
constraint = "ball"
steps = {steps}
patience = {steps}

[evaluate]
controls = ["duplicates"]
"""
ATTACKS = {"gradient-canceling": 50, "bilevel": 5}


def clouds(folder, n, d, classes, spread=3):
    """Writes training, validation and test features, and labels, as .npy files."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((classes, d), dtype=np.float32)
    folder.mkdir()
    for split, count in [("train", n), ("validation", max(2000, 2 * classes)), ("test", max(2000, 2 * classes))]:
        labels = (np.arange(count) % classes).astype(np.int64)
        z = np.lib.format.open_memmap(folder / f"{split}.npy", "w+", np.float32, (count, d))
        for first in range(0, count, ROWS):
            some = labels[first : first + ROWS]
            z[first : first + ROWS] = rng.standard_normal((len(some), d), dtype=np.float32) * spread + means[some]
        z.flush()
        np.save(folder / f"{split}_labels.npy", labels)


def memory(pid):
    """Returns the MiB that a process has for itself, and the most that it had, pages of mapped files included."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return tuple(int(fields.get(name, "0 kB").split()[0]) / 1024 for name in ["RssAnon", "VmHWM"])


def run(hemlock, stage, spec, root, *options):
    """Runs a stage. Returns the seconds of its manifest, and both peaks of the process in MiB."""
    child = subprocess.Popen([hemlock, "--quiet", "--root", root, *options, stage, spec])
    own, touched = 0, 0
    while child.poll() is None:
        own, touched = map(max, zip((own, touched), memory(child.pid)))
        time.sleep(0.005)
    if child.returncode:
        raise SystemExit(f"{stage} ended with status {child.returncode}")
    manifests = [json.loads(path.read_text()) for path in Path(root, stage).glob("*/manifest.json")]
    return sum(manifest["seconds"] for manifest in manifests), own, touched


def shown(seconds, own, touched):
    return f"{seconds:.1f} / {own:.0f} ({touched:.0f})"


def noise(folder, images):
    """Writes images in CIFAR-10's binary layout: five files for training, one for tests, the names of ten classes."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for file, count in [*((f"data_batch_{i}.bin", images // 5) for i in range(1, 6)), ("test_batch.bin", 1000)]:
        records = rng.integers(0, 256, (count, 1 + 3 * 32 * 32), dtype=np.uint8)
        records[:, 0] = np.arange(count) % 10
        records.tofile(folder / file)
    (folder / "batches.meta.txt").write_text("".join(f"class {i}\n" for i in range(10)))


def extraction(hemlock):
    """Prints the table of stages that read images."""
    stages = ["dataset", "pretrain", "features", "target-params"]
    print("| images | " + " | ".join(stages) + " |\n" + "| --- " * (1 + len(stages)) + "|")
    for images in IMAGES:
        with tempfile.TemporaryDirectory() as folder:
            spec = Path(folder, "extraction.toml")
            spec.write_text(EXTRACTION.format(images=images))
            noise(Path(folder, "cifar-10-batches-bin"), images + 1000)
            root = Path(folder, "artifacts")
            cells = [shown(*run(hemlock, stage, spec, root, "--data", folder)) for stage in stages]
            print(f"| {images:,} | " + " | ".join(cells) + " |", flush=True)
    print()


def measured(hemlock, folder, size, attack):
    spec = folder / f"{attack}.toml"
    poison_fraction = size["m"] / size["n"]
    values = {"path": folder / "features", "attack": attack, "steps": ATTACKS[attack]}
    spec.write_text(SPEC.format(poison_fraction=poison_fraction, **values))
    with tempfile.TemporaryDirectory(dir=folder) as root:
        return [run(hemlock, stage, spec, root) for stage in STAGES]


def imagenet(hemlock):
    """Prints the table of problems of ImageNet's size, with the attack by Gradient Canceling alone."""
    print("| n | d | K | m | " + " | ".join(STAGES) + " |\n" + "| --- " * (4 + len(STAGES)) + "|")
    for size in IMAGENET:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            clouds(folder / "features", size["n"], size["d"], size["K"], SPREAD)
            cells = [f"{value:,}" for value in size.values()]
            cells += [shown(*row) for row in measured(hemlock, folder, size, "gradient-canceling")]
            print("| " + " | ".join(cells) + " |", flush=True)
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hemlock", default="target/release/hemlock", help="the binary")
    sizes = ["images", *SIZES]
    parser.add_argument("--only", nargs="+", choices=[*sizes, "imagenet"], default=sizes, help="which sizes to vary")
    args = parser.parse_args()
    hemlock = str(Path(args.hemlock).resolve())
    head = ["features", "target-params", *(f"{attack}, {steps} steps" for attack, steps in ATTACKS.items()), "evaluate"]
    print("seconds / MiB of its own (with mapped files)\n")
    if "images" in args.only:
        extraction(hemlock)
    if "imagenet" in args.only:
        imagenet(hemlock)
    varying = [varied for varied in args.only if varied in SIZES]
    if varying:
        print("| n | d | K | m | " + " | ".join(head) + " |\n" + "| --- " * (4 + len(head)) + "|")
    for varied in varying:
        for value in SIZES[varied]:
            size = BASE | {varied: value}
            with tempfile.TemporaryDirectory() as folder:
                folder = Path(folder)
                clouds(folder / "features", size["n"], size["d"], size["K"])
                canceling, bilevel = (measured(hemlock, folder, size, attack) for attack in ATTACKS)
            rows = [*canceling[:3], bilevel[2], canceling[3]]
            cells = [*(f"{size[name]:,}" for name in BASE), *(shown(*row) for row in rows)]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
