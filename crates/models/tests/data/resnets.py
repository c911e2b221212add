"""Writes the folder `resnets`, in the format of `families.py`: small residual networks of torchvision's blocks and of
CLIP, with random weights in half precision under the names that people's files have, and with the features and image
gradients that PyTorch computes in double precision, for images of two sizes.

    pip install torch torchvision timm open_clip_torch safetensors
    python resnets.py                               here, small: the tests of hemlock-models read them
    python resnets.py --full FOLDER [NETWORK...]    as published, at 224 and 256 pixels
"""

import argparse
import json
from pathlib import Path

import open_clip
import timm
import torch
import torchvision
from open_clip.modified_resnet import ModifiedResNet
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

SIZES = [12, 9]


class Small(ResNet):
    """torchvision's network with a 3x3 stem, and with groups of `blocks` blocks from `width` channels on: three without
    pooling, as in chenyaofo/pytorch-cifar-models, or four with pooling, as in huyvnphan/PyTorch_CIFAR10."""

    def __init__(self, width, blocks):
        super().__init__(BasicBlock, [1, 1, 1, 1])
        self.inplanes = width
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        for i in range(4):
            group = nn.Identity()
            if i < len(blocks):
                group = self._make_layer(BasicBlock, width << i, blocks[i], stride=min(i, 1) + 1)
            setattr(self, f"layer{i + 1}", group)
        if len(blocks) == 3:
            self.maxpool = nn.Identity()
        self.fc = nn.Linear(width << (len(blocks) - 1), 10)


def randomised(net):
    """Weights of which no part can be swapped or left out unnoticed, rounded to half precision."""
    # With the first seed, the few channels of a small network of CLIP are all cut off by ReLUs.
    generator = torch.Generator().manual_seed(5 if hasattr(net, "attnpool") else 1)
    for name, tensor in net.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith(("pos_embed", "positional_embedding")):
            tensor.copy_(0.5 * noise)
        elif tensor.ndim > 1:
            tensor.copy_(noise / tensor[0].numel() ** 0.5)
        elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_(1 + 0.2 * noise.clamp(-2, 2))
        elif tensor.ndim:
            tensor.copy_(0.2 * noise)
    return net.half().double().eval()


def measured(net, size):
    """8-bit images, features of pixels in [0, 1], and the gradient of their product with fixed numbers."""
    count = 2 if size < 32 else 1
    generator = torch.Generator().manual_seed(size)
    images = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    x = (images.double() / 255).requires_grad_()
    features = net(x)
    derivative = torch.cos(torch.arange(features.numel()).double()).reshape(features.shape)
    (gradient,) = torch.autograd.grad((features * derivative).sum(), x)
    assert gradient.abs().max() > 0
    return {"images": images, "features": features.detach().float(), "gradient": gradient.float().contiguous()}


class ClipByTimm(ModifiedResNet):
    """A small network of CLIP under timm's names, with positions that are resampled as in timm; timm's own would round
    its widths."""

    def __init__(self):
        super().__init__([3, 4, 6, 3], 8, 1, image_size=64, width=2)
        assert {self.renamed(name) for name in self.state_dict()} == set(timm.create_model(
            "resnet50_clip", num_classes=8).state_dict())

    @staticmethod
    def renamed(name):
        first, *rest = name.split(".")
        if first == "attnpool":
            own = {"positional_embedding": "pos_embed", "c_proj": "proj"}
            return ".".join(["head", own.get(rest[0], rest[0].removesuffix("_proj")), *rest[1:]])
        kinds = {"conv1": "conv1_1x1.conv", "bn1": "conv1_1x1.bn", "conv2": "conv2_kxk.conv", "bn2": "conv2_kxk.bn",
                 "conv3": "conv3_1x1.conv", "bn3": "conv3_1x1.bn"}
        if not first.startswith("layer"):
            return f"stem.{kinds[first].replace('_1x1', '').replace('_kxk', '')}.{rest[0]}"
        block, kind, *rest = rest
        if kind == "downsample":
            kind, *rest = {"0": "shortcut.conv.conv", "1": "shortcut.conv.bn"}[rest[0]], *rest[1:]
        return ".".join([f"stages.{int(first[5:]) - 1}.{block}", kinds.get(kind, kind), *rest])

    def forward(self, x):
        pool, grid = self.attnpool, [x.shape[-1] // 32] * 2
        own = pool.positional_embedding
        pool.positional_embedding = nn.Parameter(timm.layers.resample_abs_pos_embed(
            own[None], grid, num_prefix_tokens=1)[0])
        features = super().forward(x)
        pool.positional_embedding = own
        return features


def by_open_clip(name):
    return open_clip.create_model(name).visual


# Each: the libraries, `arch`, sizes of images, what is before the names, and how the network is made.
SMALL = {
    "option-b": ("chenyaofo/pytorch-cifar-models", "resnet14-b-w4", SIZES, "", lambda: Small(4, [2, 2, 2])),
    "pool": ("huyvnphan/PyTorch_CIFAR10", "resnet18-pool-w4", SIZES, "", lambda: Small(4, [2, 2, 2, 2])),
    "clip-openai": ("OpenAI, OpenCLIP", "clip-resnet50-w2 projection=8", [64], "visual.", lambda: ModifiedResNet(
        [3, 4, 6, 3], 8, 1, image_size=64, width=2)),
    "clip-timm": ("timm", "clip-resnet50-w2 projection=8", [64, 32], "", ClipByTimm),
}
FULL = {
    "resnet152": ("torchvision", "resnet152-imagenet", [224, 256], "", torchvision.models.resnet152),
    "wide_resnet50_2": ("torchvision", "resnet50-imagenet-wide", [224, 256], "", torchvision.models.wide_resnet50_2),
    "wide_resnet101_2": ("torchvision", "resnet101-imagenet-wide", [224, 256], "",
                         torchvision.models.wide_resnet101_2),
    "RN50": ("OpenAI, OpenCLIP", "clip-resnet50", [224], "visual.", lambda: by_open_clip("RN50")),
    "RN101": ("OpenAI, OpenCLIP", "clip-resnet101", [224], "visual.", lambda: by_open_clip("RN101")),
    "RN50x4": ("OpenAI, OpenCLIP", "clip-resnet50x4", [288], "visual.", lambda: by_open_clip("RN50x4")),
    "resnet50_clip": ("timm", "clip-resnet50", [224, 256], "", lambda: timm.create_model(
        "resnet50_clip", num_classes=1024)),
}


def write(folder, name, network):
    """Writes a file, and returns its line of the table."""
    source, arch, sizes, prefix, make = network
    net = randomised(make())
    floats = {key: tensor for key, tensor in net.state_dict().items() if tensor.is_floating_point()}
    renamed = getattr(net, "renamed", lambda key: key)
    tensors = {f"{prefix}{renamed(key)}": tensor.half() for key, tensor in floats.items()}
    if hasattr(net, "fc"):
        net.fc = nn.Identity()
    for size in sizes:
        tensors |= {f"probe.{size}.{what}": tensor for what, tensor in measured(net, size).items()}
    save_file(tensors, folder / f"{name}.safetensors")
    return {"name": name, "families": source, "arch": arch, "sizes": sizes}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", type=Path, metavar="FOLDER")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="all, if none is named")
    args = parser.parse_args()
    folder, networks = args.full or Path(__file__).parent / "resnets", FULL if args.full else SMALL
    folder.mkdir(parents=True, exist_ok=True)
    # Rounding decides some ReLUs of a large network.
    large = {"rectified": True} if args.full else {}
    table = [write(folder, name, networks[name]) | large for name in args.networks or networks]
    (folder / "families.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
