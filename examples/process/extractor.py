"""An extractor for `[pretrain] method = "process"`: any torch.nn.Module, on any device (docs/process-extractor.md).

Change `model()`; the rest is the protocol. Needs numpy and torch.
"""

import json
import os
import struct

import numpy as np
import torch

SIDE = 224  # height and width of the images
KEEP = 8  # forward passes that are kept at once, with all that their gradients need
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def model():
    """The network without its classifier: normalised images [n, 3, SIDE, SIDE] to features [n, d]."""
    import timm
    torch.manual_seed(0)  # random weights have to be the same in every child
    return timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0)


MEAN, STD = (torch.tensor(v, device=DEVICE).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
HEADER = struct.Struct("<4sHHQQIQ")  # magic, version, kind, request, pass, images, length of the payload
DESCRIBE, FORWARD, BACKWARD, VJP, RELEASE, SHUTDOWN, ANSWER, FAILED = 1, 2, 3, 4, 5, 6, 0x8000, 0xFFFF


def tensor(payload, *shape):
    return torch.from_numpy(np.frombuffer(payload, "<f4").reshape(shape)).to(DEVICE)


def serve(net, requests, answers):
    passes = {}

    def forward(pixels, n, grad):
        with torch.set_grad_enabled(grad):
            images = tensor(pixels, n, 3, SIDE, SIDE).requires_grad_(grad)
            return images, net((images - MEAN) / STD).flatten(1).float()

    def backward(images, features, grad_features):
        return torch.autograd.grad(features, images, tensor(grad_features, *features.shape))[0]

    def answer(kind, number, n, payload):
        if kind == DESCRIBE:
            d = forward(bytearray(4 * 3 * SIDE * SIDE), 1, False)[1].shape[1]
            about = {"name": type(net).__name__, "features": d, "image_size": [SIDE, SIDE], "keep": KEEP}
            return json.dumps(about).encode()
        if kind == FORWARD:
            passes[number] = forward(payload, n, number > 0)
            return passes[number][1]
        if kind == BACKWARD:
            return backward(*passes.pop(number), payload)
        pixels = 4 * 3 * SIDE * SIDE * n
        return backward(*forward(payload[:pixels], n, True), payload[pixels:])

    while len(header := requests.read(HEADER.size)) == HEADER.size:
        magic, version, kind, request, number, n, length = HEADER.unpack(header)
        assert (magic, version) == (b"HMLK", 1), f"this script speaks version 1 of the protocol, not {version}"
        payload = bytearray(length)
        requests.readinto(payload)
        if kind == SHUTDOWN:
            return
        if kind == RELEASE:
            passes.pop(number, None)
            continue
        try:
            kind, made = kind | ANSWER, answer(kind, number, n, payload)
        except Exception as e:
            kind, made = FAILED, f"{type(e).__name__}: {e}".encode()
        made = made if isinstance(made, bytes) else made.detach().cpu().numpy().astype("<f4").tobytes()
        answers.write(HEADER.pack(b"HMLK", 1, kind, request, number, n, len(made)) + made)
        answers.flush()


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "wb")  # stdout belongs to the protocol:
    os.dup2(2, 1)  # what is printed goes to stderr
    serve(model().eval().requires_grad_(False).to(DEVICE), os.fdopen(0, "rb"), out)
