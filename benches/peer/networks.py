"""The networks of the works, as in torchvision and the CIFAR ResNets: batch norms with statistics of their own for each view,
heads as in docs/pretraining.md."""

import torch
from torch import nn
from torch.nn import functional as F

TEMPERATURE, HIDDEN, OUT = 0.2, 256, 64


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


class Simclr(nn.Module):
    def __init__(self, arch):
        super().__init__()
        net = ResNet(arch)
        self.net = nn.Sequential(net, mlp(net.dim, OUT, True))

    def loss(self, a, b):
        return nt_xent(self.net(a), self.net(b))
