"""Writes the folder `convnexts`, in the format of `families.py`: small ConvNeXts with random weights in half precision,
each under the names of its library, with the features and image gradients that the library computes in double
precision, for images of two sizes.

    pip install torch torchvision timm transformers safetensors
    python convnexts.py                             here, small: the tests of hemlock-models read them
    python convnexts.py --full FOLDER [LAYOUT...]   as large as the published tiny ones, at 224 and 256 pixels
"""

import argparse
import json
import math
from pathlib import Path

import timm
import torch
import torchvision
import transformers
from resnets import measured
from safetensors.torch import save_file
from torchvision.models.convnext import CNBlockConfig, ConvNeXt


def randomised(net):
    """Weights of which no part can be swapped or left out unnoticed, rounded to half precision."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            long = [axis for axis in p.shape if axis > 1]
            scale = any(word in name for word in ("gamma", "layer_scale"))
            gain = scale or (len(long) == 1 and name.endswith("weight"))
            if gain and "grn" not in name:
                p.copy_(1 + 0.2 * noise.clamp(-2, 2))
            else:
                p.copy_(noise * (0.2 if len(long) < 2 else 1 / math.sqrt(p[0].numel())))
    return net.half().double().eval()


def by_timm(name, depths, width):
    net = timm.create_model(name, depths=depths, dims=[width << i for i in range(4)], num_classes=0)
    return net, lambda net: net


def by_torchvision(depths, width):
    widths = [width << i for i in range(4)] + [None]
    settings = [CNBlockConfig(widths[i], widths[i + 1], depth) for i, depth in enumerate(depths)]
    net = ConvNeXt(settings, num_classes=5)

    def read(net):
        return lambda x: net.classifier[1](net.classifier[0](net.avgpool(net.features(x))))

    return net, read


def by_transformers(model, config, depths, width):
    config = config(depths=depths, hidden_sizes=[width << i for i in range(4)], num_labels=5)
    net = model(config)
    body = "convnext" if hasattr(net, "convnext") else "convnextv2"
    return net, lambda net: lambda x: getattr(net, body)(x).pooler_output


def original(depths, width):
    """The names of the authors' own ConvNeXt V2, for timm's network."""
    net, read = by_timm("convnextv2_atto", depths, width)

    def name(own):
        own = own.replace("stem.", "downsample_layers.0.").replace("head.norm", "norm").replace(".blocks", "")
        own = own.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv").replace("mlp.grn.weight", "grn.gamma")
        parts = own.replace("mlp.grn.bias", "grn.beta").split(".")
        if parts[2:3] == ["downsample"]:
            parts = ["downsample_layers", parts[1], *parts[3:]]
        return ".".join(parts)

    return net, read, name


T = transformers

# Each: the library, the version, what stands after the name of the preset, and how the network is made.
LAYOUTS = {
    "convnext-timm": ("timm", "convnext", "", lambda *of: by_timm("convnext_tiny", *of)),
    "convnext-timm-conv": ("timm, with convolutions for MLPs", "convnext", "", lambda *of: by_timm(
        "convnext_atto", *of)),
    "convnext-torchvision": ("torchvision", "convnext", "", by_torchvision),
    "convnext-transformers": ("transformers", "convnext", " norm_eps=1e-12", lambda *of: by_transformers(
        T.ConvNextForImageClassification, T.ConvNextConfig, *of)),
    "convnextv2-timm": ("timm", "convnextv2", "", lambda *of: by_timm("convnextv2_atto", *of)),
    "convnextv2": ("the authors' own", "convnextv2", "", original),
    "convnextv2-transformers": ("transformers", "convnextv2", " norm_eps=1e-12", lambda *of: by_transformers(
        T.ConvNextV2ForImageClassification, T.ConvNextV2Config, *of)),
}


def write(folder, name, full):
    """Writes a file, and returns its line of the table."""
    source, version, fields, make = LAYOUTS[name]
    preset, depths, width = ("tiny", [3, 3, 9, 3], 96) if full else ("atto", [2, 2, 6, 2], 4)
    net, read, *rename = make(depths, width)
    net = randomised(net)
    rename = rename[0] if rename else lambda own: own
    tensors = {rename(own): tensor.half().clone() for own, tensor in net.state_dict().items()}
    sizes = [224, 256] if full else [32, 64] if name.endswith("timm") else [32]
    for size in sizes:
        tensors |= {f"probe.{size}.{what}": tensor for what, tensor in measured(read(net), size).items()}
    save_file(tensors, folder / f"{name}.safetensors")
    arch = f"{version}-{preset}{'' if full else f'-w{width}'}{fields}"
    return {"name": name, "families": source, "arch": arch, "sizes": sizes}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", type=Path, metavar="FOLDER")
    parser.add_argument("layouts", nargs="*", metavar="LAYOUT", help=f"of {', '.join(LAYOUTS)}; all, if none is named")
    args = parser.parse_args()
    folder = args.full or Path(__file__).parent / "convnexts"
    folder.mkdir(parents=True, exist_ok=True)
    table = [write(folder, name, bool(args.full)) for name in args.layouts or LAYOUTS]
    (folder / "families.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
