"""Compares extractors with PyTorch: what Hemlock imports computes the same there, and what it exports loads strictly.

    pip install torch torchvision timm
    python benches/peer/checkpoints.py round-trip --hemlock target/release/hemlock
    python benches/peer/checkpoints.py exported out out/KEY/test-images.safetensors
    python benches/peer/checkpoints.py families [LAYOUT...]
    python benches/peer/checkpoints.py logits resnet20-12fca82f.th cifar-10-binary.tar.gz logits.json

- round-trip: For every architecture, there are three kinds of weights: those that Hemlock initialised, those that it
  trained for an epoch, and those that it imported from a checkpoint with random numbers in every tensor, including the
  tensors of batch norms. All are exported and compared.
- exported: The same comparison is made for a folder with what `hemlock export` wrote of `pretrain` and `features`, and
  for the images that it wrote of `dataset`.
- families: Every family of networks is made by its own library (torchvision, timm, transformers, OpenCLIP) with random
  weights, saved as its files are published, and imported: transformers as large as ViT-S, ConvNeXts as the tiny ones,
  and residual networks as published. Features and image gradients are compared, at 224 pixels and at another size.
  Needs `pip install transformers open_clip_torch`, and cargo.
- logits: A checkpoint of akamaster/pytorch_resnet_cifar10 gives the logits of the first test images of CIFAR-10, and
  its accuracy on all of them. This wrote crates/models/tests/data/cifar10_supervised_resnet20_logits.json, which the
  tests of `hemlock-models` compare with.

A comparison loads the tensors by `load_state_dict(strict=True)` into the module of torchvision or timm. For the CIFAR
ResNets, which neither has, it uses the definition below. It then takes the largest difference between the features of
the test images there, in double precision, and Hemlock's, as a share of the largest feature. If a share is above 1e-4,
or if imported tensors have changed in the export, the script ends with 1.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from networks import Block, conv
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

TOLERANCE = 1e-4
ARCHS = ["resnet20", "resnet56", "resnet110", "resnet20-b", "resnet18", "resnet34", "resnet50", "resnet18-pool"]
ARCHS += ["resnet18-imagenet", "resnet50-imagenet", "resnet101-imagenet", "resnet152", "resnet50-imagenet-wide"]
ARCHS += ["vit-tiny-p4"]
METHODS = ["random", "supervised", "import"]
# What the checkpoints of akamaster/pytorch_resnet_cifar10 were trained with.
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class CifarResNet(nn.Module):
    """The networks of He et al. (2016), section 4.2, with the names of akamaster/pytorch_resnet_cifar10, or, with
    option B (`project`), of chenyaofo/pytorch-cifar-models."""

    def __init__(self, depth, width=16, project=False):
        super().__init__()
        self.conv1, self.bn1 = conv(3, width, 3), nn.BatchNorm2d(width)
        blocks = (depth - 2) // 6

        def layer(inputs, outputs, stride):
            rest = (Block(outputs, outputs, 1, False) for _ in range(blocks - 1))
            return nn.Sequential(Block(inputs, outputs, stride, project), *rest)

        self.layer1, self.layer2 = layer(width, width, 1), layer(width, 2 * width, 2)
        self.layer3 = layer(2 * width, 4 * width, 2)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))


def torchvision_resnet(name, stem):
    net = getattr(torchvision.models, name)()
    net.fc = nn.Identity()
    if stem != "imagenet":
        net.conv1 = conv(3, 64, 3)
    if not stem:
        net.maxpool = nn.Identity()
    return net


def timm_vit(size, image_size, patch, depth):
    width = {"nano": 64, "tiny": 192, "small": 384}[size]
    shape = {"embed_dim": width, "depth": depth, "num_heads": width // 64}
    return timm.models.VisionTransformer(image_size, patch, num_classes=0, **shape)


def network(arch, image_size):
    """The network of that name without its classifier."""
    if match := re.fullmatch(r"resnet(18|34|50|101|152)(?:-(imagenet|pool))?(-wide)?", arch):
        return torchvision_resnet(f"wide_resnet{match[1]}_2" if match[3] else f"resnet{match[1]}", match[2])
    if match := re.fullmatch(r"resnet(\d+)(-b)?(?:-w(\d+))?", arch):
        return CifarResNet(int(match[1]), int(match[3] or 16), project=bool(match[2]))
    if match := re.fullmatch(r"vit-(nano|tiny|small)-p(\d+)(?:-d(\d+))?", arch):
        return timm_vit(match[1], image_size, int(match[2]), int(match[3] or 12))
    sys.exit(f"{arch}: neither torchvision nor timm has such a network")


@torch.no_grad()
def features(net, images, mean, std):
    """Returns the features of 8-bit images, in double precision."""
    net = net.eval().double()
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
    return torch.cat([net((x / 255.0 - mean) / std) for x in images.double().split(50)])


def normalized(z, folder):
    """Normalises features by the exported shift and scale or, if there are none, each by its L2 norm."""
    path = folder / "normalization.safetensors"
    affine = load_file(path) if path.exists() else None
    return (z - affine["shift"]) * affine["scale"] if affine else F.normalize(z)


def compare(folder, images):
    """Returns the architecture, the exported tensors, and how far their features are from Hemlock's."""
    info = json.loads((folder / "extractor.json").read_text())
    state = load_file(folder / "extractor.safetensors")
    net = network(info["arch"], info["image_size"])
    net.load_state_dict(state, strict=True)
    theirs = normalized(features(net, load_file(images)["images"], info["mean"], info["std"]), folder)
    ours = load_file(folder / "test.safetensors")["features"]
    return info["arch"], state, ((ours - theirs).abs().max() / theirs.abs().max()).item()


def report(arch, method, state, difference):
    """Prints a line of the table, and returns whether the difference is within the tolerance."""
    print(f"| {arch} | {method} | {len(state)} | {difference:.1e} |", flush=True)
    # A difference that is not a number compares as false.
    return difference <= TOLERANCE


def header():
    versions = f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
    print(f"{versions}\n| network | weights | tensors, loaded strictly | largest difference of features |")
    print("| --- | --- | --- | --- |")


def spec(arch, method):
    dataset = 'source = { kind = "synthetic", domain = "a", train_pool = 200, test_pool = 100 }\n'
    training = "epochs = 1\nwarmup_epochs = 0\nbatch = 100\nallow_collapse = true\n"
    imported = f'weights = "made.pth"\nmean = {MEAN}\nstd = {STD}\nimage_size = 32\n'
    return (
        f"[dataset.pretrain]\n{dataset}[dataset.downstream]\n{dataset}"
        f'[pretrain]\nmethod = "{method}"\narch = "{arch}"\n{imported if method == "import" else training}'
        '[features]\nnormalization = "none"\n'
    )


def checkpoint(arch):
    """Returns random numbers for every tensor, so that tensors that are exchanged change the features."""
    state = network(arch, 32).state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.mul_(torch.empty_like(tensor).uniform_(0.5, 1.5)).add_(0.02 * torch.randn_like(tensor))
    return state


def round_trip(hemlock, arch, method):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        made, out = checkpoint(arch), folder / "out"
        torch.save(made, folder / "made.pth")
        (folder / "peer.toml").write_text(spec(arch, method))
        command = [hemlock, "--quiet", "--root", folder / "root", "--data", folder]
        run = lambda *words: subprocess.run([*command, *words], check=True, stdout=subprocess.PIPE, text=True).stdout
        for stage in ["features", "dataset"]:
            run(stage, folder / "peer.toml")
        for stage in ["pretrain", "features", "dataset"]:
            run("export", folder / "peer.toml", stage, "-o", out)
        # There may be a dataset for pre-training beside it.
        key = re.search(r"dataset\.downstream (\w+)", run("status", folder / "peer.toml"))[1]
        [images] = out.rglob(f"{key}*/test-images.safetensors")
        _, state, difference = compare(out, images)
        kept = method != "import" or all(torch.equal(tensor, made[name]) for name, tensor in state.items())
        return report(arch, method if kept else f"{method}, CHANGED", state, difference) and kept


def all_round_trips(args):
    hemlock = str(Path(args.hemlock).resolve())
    header()
    return all([round_trip(hemlock, arch, method) for arch in args.arch for method in args.method])


def exported(args):
    arch, state, difference = compare(args.folder, args.images)
    header()
    return report(arch, "exported", state, difference)


def families(args):
    """Makes one family after the other, as a file has some 90 MB, and lets a test of `hemlock-models` compare it."""
    root = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(root / "crates/models/tests/data"))
    from convnexts import LAYOUTS
    from families import FAMILIES
    from resnets import FULL

    scripts = {"families.py": FAMILIES, "resnets.py": FULL, "convnexts.py": LAYOUTS}
    script_of = {name: script for script, names in scripts.items() for name in names}
    test = "cargo test --release --package hemlock-models --lib family_tests".split()
    print("| layout | families | architecture | side | features, image gradient |\n| --- | --- | --- | --- | --- |")
    passed = True
    for name in args.layouts or script_of:
        with tempfile.TemporaryDirectory() as folder:
            script = [sys.executable, root / "crates/models/tests/data" / script_of[name], "--full", folder, name]
            subprocess.run(script, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            environment = os.environ | {"HEMLOCK_FAMILIES": folder}
            done = subprocess.run([*test, *args.cargo], cwd=root, env=environment, text=True, capture_output=True)
            table = Path(folder) / "differences.md"
            print(table.read_text() if table.exists() else "", end="", flush=True)
            if done.returncode:
                print(done.stderr[-2000:], file=sys.stderr)
            passed &= done.returncode == 0
    return passed


def records(archive, batch):
    """Returns images and labels of a file in CIFAR-10's binary layout."""
    with tarfile.open(archive) as files:
        [member] = [m for m in files if Path(m.name).name == batch]
        rows = np.frombuffer(files.extractfile(member).read(), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return torch.tensor(rows[:, 1:]).view(-1, 3, 32, 32), torch.tensor(rows[:, 0])


def logits(args):
    state = torch.load(args.weights, map_location="cpu", weights_only=True)["state_dict"]
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    weight, bias = (state.pop(f"linear.{name}").double() for name in ("weight", "bias"))
    net = CifarResNet(20)
    net.load_state_dict(state, strict=True)
    images, labels = records(args.archive, "test_batch.bin")
    values = features(net, images, MEAN, STD) @ weight.T + bias
    accuracy = (values.argmax(1) == labels).double().mean().item()
    rows = ",\n".join(json.dumps([round(v, 6) for v in row]) for row in values[: args.images].tolist())
    args.out.write_text(f'{{"images": {len(images)}, "accuracy": {accuracy}, "logits": [\n{rows}\n]}}\n')
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("round-trip")
    command.add_argument("--hemlock", default="target/release/hemlock", help="the binary")
    command.add_argument("--arch", nargs="+", default=ARCHS)
    command.add_argument("--method", nargs="+", default=METHODS, choices=METHODS)
    command.set_defaults(run=all_round_trips)

    command = commands.add_parser("exported")
    command.add_argument("folder", type=Path, help="with extractor.safetensors, extractor.json, test.safetensors")
    command.add_argument("images", type=Path, help="test-images.safetensors of the downstream dataset")
    command.set_defaults(run=exported)

    command = commands.add_parser("families")
    command.add_argument("layouts", nargs="*", metavar="LAYOUT", help="all, if none is named")
    command.add_argument("--cargo", nargs="*", default=[], help="more arguments of `cargo test`")
    command.set_defaults(run=families)

    command = commands.add_parser("logits")
    command.add_argument("weights", type=Path)
    command.add_argument("archive", type=Path, help="CIFAR-10 in the binary layout")
    command.add_argument("out", type=Path)
    command.add_argument("--images", type=int, default=64, help="so many rows of logits")
    command.set_defaults(run=logits)

    args = parser.parse_args()
    sys.exit(0 if args.run(args) else 1)


if __name__ == "__main__":
    main()
