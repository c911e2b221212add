"""Writes look_alikes.pth, a resnet8 of first width 4, and look_alikes.safetensors: two images, and the features that
PyTorch gives for them by that network (`features`) and by others with the same names and shapes. It needs torch and
safetensors.
"""

import io
import zipfile

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.25, 0.2, 0.3]).view(3, 1, 1)
random = torch.Generator().manual_seed(0)


def values(*shape, around=0.0, spread=1.0):
    """Multiples of 1/64, which half precision holds and archives compress."""
    return ((around + spread * torch.randn(*shape, generator=random)) * 64).round().clamp(-127, 127) / 64


weights = {"conv1.weight": values(4, 3, 3, 3, spread=0.3)}
norms = {"bn1": 4}
for layer, (before, width) in enumerate([(4, 4), (4, 8), (8, 16)], 1):
    for conv, inputs in enumerate([before, width], 1):
        weights[f"layer{layer}.0.conv{conv}.weight"] = values(width, inputs, 3, 3, spread=0.5 / inputs**0.5)
        norms[f"layer{layer}.0.bn{conv}"] = width
for norm, width in norms.items():
    weights[f"{norm}.weight"] = values(width, around=1.0, spread=0.2)
    weights[f"{norm}.bias"] = values(width, spread=0.2)
    weights[f"{norm}.running_mean"] = values(width, spread=0.2)
    weights[f"{norm}.running_var"] = values(width, spread=0.2).abs() + 0.5


def features(images, eps=1e-5, padding=1, pool=False, shortcut="both", relu=F.relu, mean=MEAN):
    def norm(x, name):
        get = lambda part: weights[f"{name}.{part}"]
        return F.batch_norm(x, get("running_mean"), get("running_var"), get("weight"), get("bias"), eps=eps)

    x = F.conv2d((images / 255 - mean) / STD, weights["conv1.weight"], padding=padding)
    x = relu(norm(x, "bn1"))
    if pool:
        x = F.max_pool2d(x, 3, 2, 1)
    for layer in (1, 2, 3):
        name, stride = f"layer{layer}.0", 1 if layer == 1 else 2
        y = relu(norm(F.conv2d(x, weights[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
        y = norm(F.conv2d(y, weights[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
        more = y.shape[1] - x.shape[1]
        x = F.avg_pool2d(x, 2) if shortcut == "average" and stride == 2 else x[:, :, ::stride, ::stride]
        before = 0 if shortcut == "end" else more // 2
        x = relu(y + F.pad(x, (0, 0, 0, 0, before, more - before)))
    return x.mean((2, 3)).contiguous()


images = torch.randint(0, 256, (2, 3, 8, 8), generator=random, dtype=torch.uint8)
pixels = images.float()
save_file(
    {
        "images": images,
        "features": features(pixels),
        "pool": features(pixels, pool=True),
        "padding": features(pixels, padding=2),
        "end": features(pixels, shortcut="end"),
        "average": features(pixels, shortcut="average"),
        "eps": features(pixels, eps=1e-3),
        "leaky": features(pixels, relu=lambda x: F.leaky_relu(x, 0.1)),
        "mean": features(pixels, mean=0.5),
    },
    "look_alikes.safetensors",
)
content = io.BytesIO()
torch.save({"state_dict": {name: weight.half() for name, weight in weights.items()}}, content)
with zipfile.ZipFile(content) as stored, zipfile.ZipFile("look_alikes.pth", "w", zipfile.ZIP_DEFLATED) as archive:
    for name in stored.namelist():
        archive.writestr(zipfile.ZipInfo(name), stored.read(name), zipfile.ZIP_DEFLATED)
