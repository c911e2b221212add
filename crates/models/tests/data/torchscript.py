"""Writes torchscript_clip.pt: the network of `families/clip.safetensors` as OpenAI publishes its CLIP, as a TorchScript
archive in half precision. One of its matrices is
stored as the transpose of a storage. And torchscript_frozen.pt: a program whose weights are constants of its code.

    pip install torch open_clip_torch safetensors
    python torchscript.py
"""

from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file


def main():
    here = Path(__file__).parent
    tensors = {k: v for k, v in load_file(here / "families/clip.safetensors").items() if not k.startswith("probe.")}
    vision = dict(image_size=16, layers=2, width=16, head_width=8, patch_size=4, mlp_ratio=2.0)
    text = dict(context_length=4, vocab_size=8, width=8, heads=1, layers=1)
    model = open_clip.CLIP(8, vision, text, quick_gelu=True).eval()
    model.load_state_dict(tensors, strict=False)
    model = model.half().requires_grad_(False)
    visual = model.visual
    visual.proj = torch.nn.Parameter(visual.proj.t().contiguous().t(), requires_grad=False)
    model.register_buffer("input_resolution", torch.tensor(16))
    images = torch.zeros(1, 3, 16, 16).half()
    program = torch.jit.trace_module(model, {"encode_image": images})
    assert not program.visual.proj.is_contiguous()
    torch.jit.save(program, here / "torchscript_clip.pt")
    frozen = torch.jit.freeze(torch.jit.trace(torch.nn.Linear(2, 2).eval(), torch.zeros(1, 2)))
    torch.jit.save(frozen, here / "torchscript_frozen.pt")


if __name__ == "__main__":
    main()
