"""The networks of the works, as in torchvision and the CIFAR ResNets. Batch norms have statistics of their own for each
view; heads are those of docs/pretraining.md.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F

TEMPERATURE, HIDDEN, OUT = 0.2, 256, 64


def conv(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: option A in the CIFAR networks, a projection in the others."""

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


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; four times as many channels come out."""

    def __init__(self, inputs, width, stride, _):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = None
        if inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, arch):
        super().__init__()
        sizes = {"resnet20": (16, [3, 3, 3]), "resnet18": (64, [2, 2, 2, 2]), "resnet50": (64, [3, 4, 6, 3])}
        width, groups = sizes[arch]
        block, factor = (Bottleneck, 4) if arch == "resnet50" else (Block, 1)
        self.conv1, self.bn1 = conv(3, width, 3), nn.BatchNorm2d(width)
        blocks, inputs = [], width
        for group, count in enumerate(groups):
            for i in range(count):
                blocks.append(block(inputs, width << group, 2 if group and not i else 1, arch == "resnet18"))
                inputs = factor * (width << group)
        self.blocks, self.dim = nn.Sequential(*blocks), inputs

    def forward(self, x):
        return self.blocks(F.relu(self.bn1(self.conv1(x)))).mean((2, 3))


class Attention(nn.Module):
    """A block of a transformer: attention and a perceptron, each after a layer norm and beside a shortcut."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        n, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.out(attended)
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """ViT-S of 4x4 patches on images of 32x32 pixels, read at its class token."""

    def __init__(self, width=384, depth=12, heads=6, patch=4, side=32):
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 1 + (side // patch) ** 2, width))
        self.blocks = nn.Sequential(*[Attention(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.norm(self.blocks(x)[:, 0])


class Decoder(nn.Module):
    """Features to images of 32x32 pixels: a linear map, then three transposed convolutions, each of twice the size."""

    def __init__(self, dim, width=64):
        super().__init__()
        self.width, self.start = width, nn.Linear(dim, width * 16)
        up = lambda inputs, outputs: nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
        self.layers = nn.Sequential(
            up(width, width), nn.ReLU(), up(width, width // 2), nn.ReLU(), up(width // 2, 3), nn.Sigmoid()
        )

    def forward(self, z):
        return self.layers(F.relu(self.start(z)).view(len(z), self.width, 4, 4))


def mlp(inputs, outputs, bias):
    first, last = nn.Linear(inputs, HIDDEN, bias=False), nn.Linear(HIDDEN, outputs, bias=bias)
    return nn.Sequential(first, nn.BatchNorm1d(HIDDEN), nn.ReLU(), last)


def nt_xent(a, b):
    z = F.normalize(torch.cat([a, b]))
    similarity = (z @ z.T / TEMPERATURE).fill_diagonal_(-1e9)
    n = len(a)
    others = torch.arange(2 * n, device=a.device).roll(n)
    return F.cross_entropy(similarity, others)


class Simclr(nn.Module):
    def __init__(self, arch):
        super().__init__()
        net = ResNet(arch)
        self.net = nn.Sequential(net, mlp(net.dim, OUT, True))

    def loss(self, a, b):
        return nt_xent(self.net(a), self.net(b))

    def after_step(self):
        """Nothing is left to do."""


class Moco(nn.Module):
    """MoCo v3: queries by the network and a predictor, keys by a network that follows it."""

    def __init__(self, arch, momentum=0.99):
        super().__init__()
        net = ResNet(arch)
        self.net = nn.Sequential(net, mlp(net.dim, OUT, False), nn.BatchNorm1d(OUT, affine=False))
        self.predictor = mlp(OUT, OUT, True)
        self.keys = copy.deepcopy(self.net).requires_grad_(False)
        self.momentum = momentum

    def loss(self, a, b):
        queries = [F.normalize(self.predictor(self.net(x))) for x in (a, b)]
        with torch.no_grad():
            keys = [F.normalize(self.keys(x)) for x in (b, a)]
        own = torch.arange(len(a), device=a.device)
        return sum(F.cross_entropy(q @ k.T / TEMPERATURE, own) for q, k in zip(queries, keys)) * 2 * TEMPERATURE

    @torch.no_grad()
    def after_step(self):
        for slow, fast in zip(self.keys.parameters(), self.net.parameters()):
            slow.lerp_(fast, 1 - self.momentum)
