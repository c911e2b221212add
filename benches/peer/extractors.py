"""Extraction and pre-training steps beside PyTorch's, in turns in one run.

    pip install torch
    python benches/peer/extractors.py --hemlock target/release/hemlock

Images a second, of random images of 32 x 32 pixels, with as many threads on both sides. An image in two views counts twice.
What is timed:

- extraction: Hemlock's whole stage `features` (reading and checking the images, the network, standardisation, writing); of
  PyTorch the network alone, in batches of 256.
- SimCLR, MoCo v3, supervised: of Hemlock the difference between two epochs and one, augmentation included; of PyTorch the steps
  of one epoch without any: forward, loss, backward, AdamW.

The networks are the same (torchvision's and the CIFAR ResNets' definitions, `BatchNorm2d` with batch statistics of its own for
each view), the heads as in docs/pretraining.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

BATCH, TEMPERATURE, HIDDEN, OUT = 256, 0.2, 256, 64
# Images of the test split, which Hemlock extracts, too.
TEST = 100


def conv(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: of option A in the CIFAR networks, a projection in the others."""

    def __init__(self, inputs, outputs, stride, project):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.missing = (outputs - inputs) // 2
        self.downsample = None
        if project and inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.missing:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.missing, self.missing))
        return F.relu(x + y)


class ResNet(nn.Module):
    def __init__(self, arch):
        super().__init__()
        width, groups = {"resnet20": (16, [3, 3, 3]), "resnet18": (64, [2, 2, 2, 2])}[arch]
        self.conv1, self.bn1 = conv(3, width, 3), nn.BatchNorm2d(width)
        blocks, inputs = [], width
        for group, count in enumerate(groups):
            for i in range(count):
                outputs = width << group
                blocks.append(Block(inputs, outputs, 2 if group and not i else 1, arch == "resnet18"))
                inputs = outputs
        self.blocks, self.dim = nn.Sequential(*blocks), inputs

    def forward(self, x):
        return self.blocks(F.relu(self.bn1(self.conv1(x)))).mean((2, 3))


def mlp(inputs, outputs, bias):
    return nn.Sequential(nn.Linear(inputs, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs, bias=bias))


def nt_xent(a, b):
    z = F.normalize(torch.cat([a, b]))
    similarity = (z @ z.T / TEMPERATURE).fill_diagonal_(-1e9)
    n = len(a)
    return F.cross_entropy(similarity, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]))


def info_nce(q, k):
    logits = F.normalize(q) @ F.normalize(k).T / TEMPERATURE
    return 2 * TEMPERATURE * F.cross_entropy(logits, torch.arange(len(q)))


class Simclr(nn.Module):
    def __init__(self, arch):
        super().__init__()
        net = ResNet(arch)
        self.net = nn.Sequential(net, mlp(net.dim, OUT, True))

    def loss(self, a, b, _):
        return nt_xent(self.net(a), self.net(b))

    def after_step(self):
        pass


class MocoV3(nn.Module):
    def __init__(self, arch):
        super().__init__()
        encoder = lambda net: nn.Sequential(net, mlp(net.dim, OUT, False), nn.BatchNorm1d(OUT, affine=False))
        self.query, self.key = encoder(ResNet(arch)), encoder(ResNet(arch))
        self.predictor = nn.Sequential(mlp(OUT, OUT, False), nn.BatchNorm1d(OUT, affine=False))
        self.key.load_state_dict(self.query.state_dict())
        self.key.requires_grad_(False)

    def loss(self, a, b, _):
        with torch.no_grad():
            ka, kb = self.key(a), self.key(b)
        return info_nce(self.predictor(self.query(a)), kb) + info_nce(self.predictor(self.query(b)), ka)

    @torch.no_grad()
    def after_step(self):
        for key, query in zip(self.key.parameters(), self.query.parameters()):
            key.lerp_(query, 0.01)


class Supervised(nn.Module):
    def __init__(self, arch):
        super().__init__()
        net = ResNet(arch)
        self.net = nn.Sequential(net, nn.Linear(net.dim, 10))

    def loss(self, a, _, labels):
        return F.cross_entropy(self.net(a), labels)

    def after_step(self):
        pass


METHODS = {"simclr": (Simclr, 2), "moco-v3": (MocoV3, 2), "supervised": (Supervised, 1)}


def torch_extraction(arch, images):
    net = ResNet(arch).eval()
    with torch.no_grad():
        net(images[:BATCH])
        start = time.perf_counter()
        for batch in images.split(BATCH):
            net(batch)
    return len(images) / (time.perf_counter() - start)


def torch_training(method, arch, images):
    kind, views = METHODS[method]
    model = kind(arch)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    labels = torch.arange(len(images)) % 10

    def step(rows):
        x = images[rows]
        loss = model.loss(x, x.flip(3), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step()

    step(slice(0, BATCH))
    start = time.perf_counter()
    for i in range(0, len(images) - BATCH + 1, BATCH):
        step(slice(i, i + BATCH))
    return views * (len(images) // BATCH * BATCH) / (time.perf_counter() - start)


def spec(arch, method, images, epochs):
    dataset = 'source = {{ kind = "synthetic", domain = "a", train_pool = {0}, test_pool = {2} }}\ntrain = {0}\ntest = {1}\n'
    return (
        f"[dataset.pretrain]\n{dataset.format(images, 0, TEST)}"
        f"[dataset.downstream]\n{dataset.format(images, TEST, TEST)}"
        f'[pretrain]\nmethod = "{method}"\narch = "{arch}"\nbatch = {BATCH}\nepochs = {epochs}\nwarmup_epochs = 0\n'
        "allow_collapse = true\n[features]\n"
    )


def hemlock_seconds(hemlock, stage, text):
    """Seconds of the last stage, as its manifest says, in a fresh artifact root."""
    with tempfile.TemporaryDirectory() as root:
        path = Path(root, "peer.toml")
        path.write_text(text)
        subprocess.run([hemlock, "--quiet", "--root", root, stage, path], check=True)
        [manifest] = Path(root, stage).glob("*/manifest.json")
        return json.loads(manifest.read_text())["seconds"]


def hemlock_extraction(hemlock, arch, images):
    return (images + TEST) / hemlock_seconds(hemlock, "features", spec(arch, "random", images, 1))


def hemlock_training(hemlock, method, arch, images):
    one, two = (hemlock_seconds(hemlock, "pretrain", spec(arch, method, images, epochs)) for epochs in (1, 2))
    return METHODS[method][1] * (images // BATCH * BATCH) / (two - one)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hemlock", default="target/release/hemlock", help="the binary")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arch", nargs="+", default=["resnet20", "resnet18"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)
    hemlock = str(Path(args.hemlock).resolve())

    print(f"PyTorch {torch.__version__}, {args.threads} threads, {args.rounds} rounds: images a second, median; ratio: median, smallest to largest")
    print("| network | work | Hemlock | PyTorch | ratio |\n| --- | --- | --- | --- | --- |")
    for arch in args.arch:
        count = 4096 if arch == "resnet20" else 768
        images = torch.rand(4 * count, 3, 32, 32)
        works = {"extraction": (lambda: hemlock_extraction(hemlock, arch, len(images)), lambda: torch_extraction(arch, images))}
        for method in METHODS:
            works[method] = (
                lambda method=method: hemlock_training(hemlock, method, arch, count),
                lambda method=method: torch_training(method, arch, images[:count]),
            )
        for work, (ours, peer) in works.items():
            rounds = [(ours(), peer()) for _ in range(args.rounds)]
            ratios = sorted(a / b for a, b in rounds)
            middle = lambda column: statistics.median(r[column] for r in rounds)
            print(
                f"| {arch} | {work} | {middle(0):.0f} | {middle(1):.0f} "
                f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
