"""Writes the folder `resnets`, in the format of `families.py`: small residual networks of torchvision's blocks, with
random weights in half precision under the names that people's files have, and with the features and image gradients
that PyTorch computes in double precision, for images of an even and of an odd size.

    pip install torch torchvision safetensors
    python resnets.py
"""

import json
from pathlib import Path

import torch
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
    generator = torch.Generator().manual_seed(1)
    for name, tensor in net.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 4:
            tensor.copy_(noise / tensor[0].numel() ** 0.5)
        elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_(1 + 0.2 * noise.clamp(-2, 2))
        elif tensor.ndim:
            tensor.copy_(0.2 * noise)
    return net.half().double().eval()


def measured(net, size):
    """8-bit images, features of pixels in [0, 1], and the gradient of their product with fixed numbers."""
    images = torch.randint(256, (2, 3, size, size), generator=torch.Generator().manual_seed(size), dtype=torch.uint8)
    x = (images.double() / 255).requires_grad_()
    features = net(x)
    derivative = torch.cos(torch.arange(features.numel()).double()).reshape(features.shape)
    (gradient,) = torch.autograd.grad((features * derivative).sum(), x)
    return {"images": images, "features": features.detach().float(), "gradient": gradient.float().contiguous()}


def main():
    folder, table = Path(__file__).parent / "resnets", []
    folder.mkdir(exist_ok=True)
    for name, source, arch, blocks in [
        ("option-b", "chenyaofo/pytorch-cifar-models", "resnet14-b-w4", [2, 2, 2]),
        ("pool", "huyvnphan/PyTorch_CIFAR10", "resnet18-pool-w4", [2, 2, 2, 2]),
    ]:
        net = randomised(Small(4, blocks))
        tensors = {key: tensor.half() for key, tensor in net.state_dict().items() if tensor.is_floating_point()}
        net.fc = nn.Identity()
        for size in SIZES:
            tensors |= {f"probe.{size}.{what}": tensor for what, tensor in measured(net, size).items()}
        save_file(tensors, folder / f"{name}.safetensors")
        table.append({"name": name, "families": source, "arch": arch, "sizes": SIZES})
    (folder / "families.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
