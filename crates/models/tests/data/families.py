"""Writes `families.json` and `families/*.safetensors`: small vision transformers with random weights, each made by its
own library and saved under the names that people's files have, with the features and image gradients that the library
computes, at the images' own size and at another one, for which the library resamples positions.

    pip install torch timm transformers open_clip_torch safetensors
    python families.py                                  here, small: the tests of hemlock-models read them
    python families.py --full FOLDER [LAYOUT...]        as large as published ones (ViT-S at 224 pixels)
"""

import argparse
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

SMALL = dict(width=16, depth=2, heads=2, hidden=32, patch=4, size=16, projection=8)
FULL = dict(width=384, depth=12, heads=6, hidden=1536, size=224, projection=512)


def randomise(model):
    """Weights of which no part can be swapped or left out unnoticed."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            gain = p.ndim == 1 and any(word in name for word in ("norm", "ln_", "gamma", "lambda", "scale", "ls_"))
            gain = gain and not name.endswith("bias")
            p.copy_(1 + 0.2 * noise if gain else noise * (0.2 if p.ndim < 2 else 1 / math.sqrt(p[0].numel())))
    return model.float().eval()


def published(model):
    """The tensors under the names that `save_pretrained` writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(f"{folder}/model.safetensors")


def by_timm(name, s, own={}, read=lambda model: model, **more):
    """A network of timm, with the sizes of `s`."""
    sizes = dict(embed_dim=s["width"], depth=s["depth"], num_heads=s["heads"], patch_size=s["patch"])
    sizes |= dict(mlp_ratio=s["hidden"] / s["width"], num_classes=0)
    make = lambda size: timm.create_model(name, **(sizes | more), img_size=size)
    model = randomise(make(s["size"]))
    tensors = model.state_dict()

    def at(size):
        other = make(size).eval()
        state = dict(tensors)
        if state.get("pos_embed") is not None:
            prefix = 0 if other.no_embed_class or not other.has_class_token else 1
            grid = [size // s["patch"]] * 2
            state["pos_embed"] = timm.layers.resample_abs_pos_embed(state["pos_embed"], grid, num_prefix_tokens=prefix)
        other.load_state_dict(state)
        return read(other)

    return tensors, at


def by_transformers(model, config, s, read=lambda out: out.last_hidden_state[:, 0], more=None, **fields):
    """A network of transformers, with the sizes of `s`."""
    names = dict(hidden_size="width", num_hidden_layers="depth", num_attention_heads="heads", patch_size="patch")
    names |= dict(image_size="size") | ({} if "mlp_ratio" in fields else dict(intermediate_size="hidden"))
    net = randomise(model(config(**({k: s[v] for k, v in names.items()} | fields), attn_implementation="eager")))
    # Not every network can be asked for another size.
    extra = lambda size: {} if more is None or size == s["size"] else more
    return published(net), lambda size: lambda x: read(net(x, **extra(size)))


def by_open_clip(s, quick_gelu, prefix="visual."):
    """The image tower of OpenCLIP, whose names are OpenAI's."""
    vision = dict(image_size=s["size"], layers=s["depth"], width=s["width"], head_width=s["width"] // s["heads"])
    vision |= dict(patch_size=s["patch"], mlp_ratio=s["hidden"] / s["width"])
    text = dict(context_length=4, vocab_size=8, width=8, heads=1, layers=1)
    make = lambda size: open_clip.CLIP(s["projection"], vision | dict(image_size=size), text, quick_gelu=quick_gelu)
    model = randomise(make(s["size"]))
    tensors = {k: v for k, v in model.state_dict().items() if v is not None}

    def at(size):
        other, state = make(size).eval(), dict(tensors)
        open_clip.model.resize_pos_embed(state, other)
        other.load_state_dict(state)
        return other.visual

    return tensors, at


class DinoV2(torch.nn.Module):
    """timm's DINOv2, with the positions and the names of DINOv2's own code."""

    def __init__(self, net, positions, registers, patch):
        super().__init__()
        self.net, self.positions, self.registers, self.patch = net, positions, registers, patch

    def forward(self, x):
        net, positions = self.net, self.positions
        side, grid = math.isqrt(positions.shape[1] - 1), x.shape[-1] // self.patch
        patches = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        if side != grid and self.registers:
            patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", antialias=True)
        elif side != grid:
            patches = F.interpolate(patches, scale_factor=(grid + 0.1) / side, mode="bicubic")
        positions = torch.cat([positions[:, :1], patches.flatten(2).transpose(1, 2)], 1)
        x = net.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([net.cls_token.expand(len(x), -1, -1), x], 1) + positions
        if self.registers:
            x = torch.cat([x[:, :1], net.reg_token.expand(len(x), -1, -1), x[:, 1:]], 1)
        return net.norm(net.blocks(x))[:, 0]


def dinov2_original(s, registers=0, chunks=False, giant=False):
    name = "vit_giant_patch14_dinov2" if giant else "vit_small_patch14_dinov2"
    more = dict(init_values=1.0, reg_tokens=registers)
    own, _ = by_timm(name, dict(s, hidden=2 * s["hidden"]) if giant else s, **more)
    sizes = dict(embed_dim=s["width"], depth=s["depth"], num_heads=s["heads"], patch_size=s["patch"], img_size=s["size"])
    ratio = (2 if giant else 1) * s["hidden"] / s["width"]
    net = timm.create_model(name, **sizes, mlp_ratio=ratio, num_classes=0, **more).eval()
    net.load_state_dict(own)
    # timm has positions of registers, or none of the class token; DINOv2's are those of class token and patches.
    positions = own["pos_embed"]
    positions = torch.cat([positions[:, :1], positions[:, 1 + registers:]], 1) if registers else positions
    own = dict(own, pos_embed=positions, mask_token=torch.zeros(1, s["width"]))
    if registers:
        own["register_tokens"] = own.pop("reg_token")
    rename = lambda k: k.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3") if giant else k
    chunk = lambda k: k.replace("blocks.", "blocks.0.") if chunks else k
    prefix = "teacher.backbone." if chunks else ""
    tensors = {prefix + chunk(rename(k)): v for k, v in own.items()}
    return tensors, lambda size: DinoV2(net, positions, registers, s["patch"])


def dinov3_original(s):
    """DINOv3's own names: packed queries, keys and values, and a mask that takes the bias of keys away."""
    saved, at = dinov3_transformers(s)
    own = {"rope_embed.periods": torch.ones(4)}
    for name, value in saved.items():
        name = name.replace("embeddings.patch_embeddings", "patch_embed.proj").replace("embeddings.", "")
        name = name.replace("register_tokens", "storage_tokens").replace("layer.", "blocks.")
        name = name.replace("layer_scale", "ls").replace("lambda1", "gamma")
        name = name.replace("attention.o_proj", "attn.proj").replace("up_proj", "fc1").replace("down_proj", "fc2")
        own[name] = value
    for i in range(s["depth"]):
        parts = [[own.pop(f"blocks.{i}.attention.{part}_proj.{kind}", None) for part in "qkv"] for kind in ("weight", "bias")]
        own[f"blocks.{i}.attn.qkv.weight"] = torch.cat(parts[0])
        key = torch.full_like(parts[1][0], 0.7)
        own[f"blocks.{i}.attn.qkv.bias"] = torch.cat([parts[1][0], key, parts[1][2]])
        own[f"blocks.{i}.attn.qkv.bias_mask"] = torch.cat([torch.ones_like(key), 0 * key, torch.ones_like(key)])
    return own, at


def dinov3_transformers(s, gated=False):
    fields = dict(num_register_tokens=4, use_gated_mlp=gated, hidden_act="silu" if gated else "gelu")
    return by_transformers(transformers.DINOv3ViTModel, transformers.DINOv3ViTConfig, s, **fields)


def dinov3_timm(s, name="vit_small_patch16_dinov3_qkvb"):
    tensors, at = by_timm(name, s, global_pool="token", init_values=1.0)
    return tensors, at


def last_blocks(s, last, mean):
    """The read-out of DINO's linear evaluation: class tokens of the last blocks, and the mean of the patches."""
    def read(net):
        def features(x):
            layers = net.forward_intermediates(x, norm=True, indices=last, return_prefix_tokens=True,
                                               output_fmt="NLC", intermediates_only=True)
            classes = [prefix[:, 0] for _, prefix in layers]
            return torch.cat(classes + ([layers[-1][0].mean(1)] if mean else []), 1)
        return features
    return by_timm("vit_small_patch16_224", s, read=read)


def mae(s):
    tensors, at = by_timm("vit_base_patch16_224", s, read=lambda net: lambda x: net.forward_features(x)[:, 1:].mean(1))
    extra = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, s["width"]),
             "decoder_blocks.0.norm1.weight": torch.zeros(8), "decoder_norm.bias": torch.zeros(8)}
    return {f"model.{k}": v for k, v in (tensors | extra).items()}, at


def moco_v3(s):
    tensors, at = by_timm("vit_small_patch16_224", s)
    head = {"head.0.weight": torch.zeros(8, s["width"])}
    encoders = ("base_encoder", "momentum_encoder")
    return {f"module.{e}.{k}": v * (e == "base_encoder") for e in encoders for k, v in (tensors | head).items()}, at


def clip_timm(s):
    name = "vit_base_patch32_clip_quickgelu_224"
    tensors, at = by_timm(name, s, num_classes=s["projection"], read=lambda net: lambda x: net(x) - net.head.bias)
    return tensors, at


def openclip_trunk(s):
    """A network of timm as OpenCLIP's image tower."""
    tensors, at = by_timm("vit_base_patch16_siglip_224", s)
    return {f"visual.trunk.{k}": v for k, v in tensors.items()} | {"logit_scale": torch.zeros(())}, at


T = transformers
pooled = lambda out: out.pooler_output
embeds = lambda out: out.image_embeds
resized = dict(interpolate_pos_encoding=True)

# Each: the families that have this layout, the preset and its fields, and how it is made.
FAMILIES = {
    "vit-timm": ("DeiT, DINO, augreg", "vit", "", lambda s: by_timm("vit_small_patch16_224", s)),
    "vit-transformers": ("ViT, DeiT, DINO", "vit", "norm_eps=1e-12", lambda s: by_transformers(
        T.ViTModel, T.ViTConfig, s, more=resized)),
    "mae": ("MAE", "vit", "readout=mean", mae),
    "mocov3": ("MoCo v3", "mocov3", "", moco_v3),
    "dino-last": ("DINO", "vit", "readout=class-mean last=2", lambda s: last_blocks(s, 2, True)),
    "dinov2": ("DINOv2", "dinov2", "", dinov2_original),
    "dinov2-training": ("DINOv2", "dinov2", "", lambda s: dinov2_original(s, chunks=True)),
    "dinov2-reg": ("DINOv2", "dinov2-reg", "", lambda s: dinov2_original(s, registers=4)),
    "dinov2-giant": ("DINOv2", "dinov2", "activation=swiglu", lambda s: dinov2_original(s, giant=True)),
    "dinov2-timm": ("DINOv2", "dinov2", "", lambda s: by_timm("vit_small_patch14_dinov2", s, init_values=1.0)),
    "dinov2-reg-timm": ("DINOv2", "dinov2-reg", "", lambda s: by_timm("vit_small_patch14_reg4_dinov2", s, init_values=1.0)),
    "dinov2-transformers": ("DINOv2", "dinov2", "", lambda s: by_transformers(
        T.Dinov2Model, T.Dinov2Config, s, mlp_ratio=s["hidden"] // s["width"], more={})),
    "dinov2-reg-transformers": ("DINOv2", "dinov2-reg", "", lambda s: by_transformers(
        T.Dinov2WithRegistersModel, T.Dinov2WithRegistersConfig, s, mlp_ratio=s["hidden"] // s["width"],
        num_register_tokens=4, more={})),
    "dinov3": ("DINOv3", "dinov3", "", dinov3_original),
    "dinov3-timm": ("DINOv3", "dinov3", "", dinov3_timm),
    "dinov3-plus-timm": ("DINOv3", "dinov3", "activation=swiglu qkv_bias=false", lambda s: dinov3_timm(
        s, "vit_small_plus_patch16_dinov3")),
    "dinov3-transformers": ("DINOv3", "dinov3", "", dinov3_transformers),
    "dinov3-plus-transformers": ("DINOv3", "dinov3", "activation=swiglu", lambda s: dinov3_transformers(s, True)),
    "clip": ("CLIP", "clip", "", lambda s: by_open_clip(s, True)),
    "clip-timm": ("CLIP", "clip", "", clip_timm),
    "clip-transformers": ("CLIP", "clip", "", lambda s: by_transformers(
        T.CLIPVisionModelWithProjection, T.CLIPVisionConfig, s, embeds, resized, projection_dim=s["projection"])),
    "openclip": ("OpenCLIP", "openclip", "", lambda s: by_open_clip(s, False)),
    "siglip-timm": ("SigLIP 1, 2", "siglip", "activation=gelu", lambda s: by_timm("vit_base_patch16_siglip_224", s)),
    "siglip-openclip": ("SigLIP 1, 2", "siglip", "activation=gelu", openclip_trunk),
    "siglip-transformers": ("SigLIP 1, 2", "siglip", "", lambda s: by_transformers(
        T.SiglipVisionModel, T.SiglipVisionConfig, s, pooled, resized)),
}


def measure(model, size, count):
    """8-bit images, features of pixels in [0, 1], and the gradient of their product with fixed numbers."""
    images = np.random.default_rng(size).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    x = (torch.tensor(images).float() / 255).requires_grad_()
    features = model(x)
    derivative = torch.cos(torch.arange(features.numel()).float()).reshape(features.shape)
    (gradient,) = torch.autograd.grad((features * derivative).sum(), x)
    return torch.tensor(images), features.detach().contiguous(), gradient.contiguous()


PRESETS = {"vit": "vit-nano", "mocov3": "mocov3-small", "dinov2": "dinov2-small", "dinov2-reg": "dinov2-reg-small",
           "dinov3": "dinov3-small", "clip": "clip-base", "openclip": "openclip-base", "siglip": "siglip-base"}


def write(folder, name, s):
    """Writes a file, and returns its line of the table."""
    families, preset, fields, make = FAMILIES[name]
    tensors, at = make(s)
    floats = lambda v: v is not None and v.dtype.is_floating_point
    tensors = {k: v.detach().contiguous().clone() for k, v in tensors.items() if floats(v)}
    sizes = [s["size"], s["size"] + 2 * s["patch"]]
    for size in sizes:
        images, features, gradient = measure(at(size), size, 2 if size == s["size"] else 1)
        probe = {"images": images, "features": features, "gradient": gradient}
        tensors |= {f"probe.{size}.{what}": value for what, value in probe.items()}
    save_file(tensors, folder / f"{name}.safetensors")
    own = " ".join(f"{field}={s[field]}" for field in ("width", "depth", "heads", "hidden"))
    projection = f" projection={s['projection']}" if preset in ("clip", "openclip") else ""
    arch = f"{PRESETS[preset]}-p{s['patch']} {own}{projection} {fields}".strip()
    return {"name": name, "families": families, "arch": arch, "sizes": sizes}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", type=Path, metavar="FOLDER")
    parser.add_argument("layouts", nargs="*", metavar="LAYOUT", help=f"of {', '.join(FAMILIES)}; all, if none is named")
    args = parser.parse_args()
    here = Path(__file__).parent / "families"
    size = lambda name: FULL | {"patch": 14 if name.startswith("dinov2") else 16} if args.full else SMALL
    folder = args.full or here
    folder.mkdir(parents=True, exist_ok=True)
    table = [write(folder, name, size(name)) for name in args.layouts or FAMILIES]
    (folder / "families.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
