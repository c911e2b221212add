"""Writes the folder `checkpoints`, in the format of `families.py`: checkpoints as trainers of other repositories save
them, with small networks of random weights in half precision. What stands beside the network is there under its name;
a second encoder is all zeros.

    pip install torch torchvision timm safetensors
    python checkpoints.py
"""

import json
from argparse import Namespace
from pathlib import Path

import timm
import torch
from resnets import SIZES, Small, measured, randomised
from safetensors.torch import save_file
from torch import nn

# Shared by all tensors that no network has, so that they take no room.
ZERO = torch.zeros(()).half()


def backbone():
    """torchvision's network for small images, of three groups with projections."""
    net = Small(4, [1, 1, 1])
    net.fc = nn.Identity()
    return randomised(net)


def solo_backbone():
    """ResNet-18 with solo-learn's stem for CIFAR."""
    net = Small(4, [2, 2, 2, 2])
    net.conv1.padding, net.maxpool, net.fc = (2, 2), nn.Identity(), nn.Identity()
    return randomised(net)


def dino_backbone(size):
    sizes = dict(embed_dim=16, depth=2, num_heads=2, patch_size=4, mlp_ratio=2.0, num_classes=0)
    net = timm.create_model("vit_small_patch16_224", **sizes, img_size=size)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.2 * noise if "norm" in name and name.endswith("weight") else 0.3 * noise)
    return net.half().double().eval()


def under(prefix, tensors):
    half = lambda tensor: tensor.half() if tensor.is_floating_point() else tensor
    return {f"{prefix}{name}": half(tensor) for name, tensor in tensors.items()}


def zeros(tensors):
    return {name: ZERO.expand(tensor.shape) for name, tensor in tensors.items()}


def head(*names):
    return {name: ZERO.expand(2, 3) for name in names}


def lightning(state, **more):
    """As PyTorch Lightning saves a module."""
    loops = {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 2}}}}
    return {"epoch": 1, "global_step": 9, "pytorch-lightning_version": "2.1.0", "state_dict": state, "loops": loops,
            "callbacks": {}, "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(3)}}}],
            "lr_schedulers": []} | more


def solo_learn():
    net = solo_backbone()
    own = net.state_dict()
    state = under("backbone.", own) | under("momentum_backbone.", zeros(own))
    state |= head("classifier.weight", "projector.0.weight", "predictor.3.weight", "momentum_projector.0.weight")
    settings = {"dataset": "cifar10", "method": "byol", "backbone_args": {"cifar": True, "zero_init_residual": False}}
    return net, lightning(state, hyper_parameters=settings), "resnet18-pad2-w4", None


def solo_learn_old():
    """Before its version 1.0.4, the networks were called encoders."""
    net = backbone()
    own = net.state_dict()
    state = under("encoder.", own) | under("momentum_encoder.", zeros(own)) | head("classifier.weight")
    return net, lightning(state | head("projector.0.weight", "queue")), "resnet8-b-w4", None


def lightly_examples():
    """All children of torchvision's network but the classifier, in a sequence."""
    net = backbone()
    own = nn.Sequential(*list(net.children())[:-1]).state_dict()
    state = under("backbone.", own) | under("backbone_momentum.", zeros(own))
    state |= head("projection_head.layers.0.weight", "projection_head_momentum.layers.0.weight")
    return net, lightning(state | head("criterion.memory_bank.bank")), "resnet8-b-w4", None


def lightly_cifar():
    """lightly's `ResNetGenerator`, whose ReLUs are no modules, in a sequence; its shortcuts have another name."""
    net = backbone()
    children = [child for name, child in net.named_children() if name not in ("relu", "maxpool", "avgpool", "fc")]
    own = nn.Sequential(*children, nn.AdaptiveAvgPool2d(1)).state_dict()
    own = {name.replace("downsample", "shortcut"): tensor for name, tensor in own.items()}
    state = under("backbone.", own) | head("dummy_param", "projection_head.layers.0.weight")
    return net, lightning(state, hyper_parameters={"num_classes": 10}), "resnet8-b-w4", None


def lightly_imagenet():
    """The benchmarks of lightly: the network itself, and that of queries or the student beside it."""
    net = backbone()
    own = net.state_dict()
    state = under("backbone.", own) | under("query_backbone.", zeros(own)) | under("student_backbone.", zeros(own))
    state |= head("projection_head.layers.0.weight", "query_projection_head.layers.0.weight")
    return net, lightning(state | head("online_classifier.classification_head.weight")), "resnet8-b-w4", None


def moco(v3):
    net = backbone()
    own = net.state_dict()
    first, second = ("base_encoder", "momentum_encoder") if v3 else ("encoder_q", "encoder_k")
    state = under(f"module.{first}.", own) | under(f"module.{second}.", zeros(own))
    state |= head(*(f"module.{name}.fc.{i}.weight" for name in (first, second) for i in (0, 2)))
    state |= head("module.predictor.0.weight") if v3 else head("module.queue", "module.queue_ptr")
    saved = {"epoch": 100, "arch": "resnet8", "state_dict": state}
    return net, saved | {"optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]}}, "resnet8-b-w4", None


def dino(net, arch):
    own = net.state_dict()
    heads = ("head.mlp.0.weight", "head.last_layer.weight_g", "head.last_layer.weight_v")
    student = under("module.backbone.", zeros(own)) | head(*(f"module.{name}" for name in heads))
    teacher = under("backbone.", own) | head(*heads)
    saved = {"student": student, "teacher": teacher, "optimizer": {"state": {}, "param_groups": []}, "epoch": 100,
             "args": Namespace(arch="vit_small", patch_size=16), "dino_loss": {"center": torch.zeros(1, 5)}}
    return net, saved, arch, "teacher"


VIT = "vit-nano-p4 width=16 depth=2 heads=2 hidden=32"

CHECKPOINTS = {
    "solo-learn": (solo_learn, "ckpt"),
    "solo-learn-old": (solo_learn_old, "ckpt"),
    "lightly-examples": (lightly_examples, "ckpt"),
    "lightly-cifar": (lightly_cifar, "ckpt"),
    "lightly-imagenet": (lightly_imagenet, "ckpt"),
    "moco": (lambda: moco(False), "pth.tar"),
    "mocov3": (lambda: moco(True), "pth.tar"),
    "dino": (lambda: dino(dino_backbone(12), VIT), "pth"),
    "dino-resnet": (lambda: dino(backbone(), "resnet8-b-w4"), "pth"),
}


def main():
    folder, table = Path(__file__).parent / "checkpoints", []
    folder.mkdir(exist_ok=True)
    for name, (make, ending) in CHECKPOINTS.items():
        net, saved, arch, branch = make()
        torch.save(saved, folder / f"{name}.{ending}")
        sizes = [12] if arch.startswith("vit") else SIZES
        probe = {f"probe.{size}.{k}": v for size in sizes for k, v in measured(net, size).items()}
        save_file(probe, folder / f"{name}.safetensors")
        table.append({"name": name, "families": "", "arch": arch, "sizes": sizes, "file": f"{name}.{ending}"})
        if branch:
            table[-1]["branch"] = branch
    (folder / "families.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
