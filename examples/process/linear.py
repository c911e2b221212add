"""Linear features of pixels, as an extractor for `[pretrain] method = "process"`: the protocol with numpy alone.

`z = W ((x - mean) / std)`, with W from a file, or drawn from a fixed seed: python linear.py SIDE FEATURES [W.npy].
docs/process-extractor.md describes the protocol; extractor.py beside this file wraps networks of PyTorch.
"""

import json
import os
import struct
import sys

import numpy as np

HEADER = struct.Struct("<4sHHQQIQ")  # magic, version, kind, request, pass, images, length of the payload
DESCRIBE, FORWARD, BACKWARD, VJP, RELEASE, SHUTDOWN, ANSWER = 1, 2, 3, 4, 5, 6, 0x8000
MEAN, STD = (np.array(v, "f4").reshape(3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))


def serve(side, weights, requests, answers):
    size, d = 3 * side * side, len(weights)

    def forward(pixels, n):
        images = np.frombuffer(pixels, "<f4").reshape(n, 3, side, side)
        return ((images - MEAN) / STD).reshape(n, size) @ weights.T

    def backward(grad_features, n):
        grad = np.frombuffer(grad_features, "<f4").reshape(n, d) @ weights
        return grad.reshape(n, 3, side, side) / STD

    while len(header := requests.read(HEADER.size)) == HEADER.size:
        _, _, kind, request, number, n, length = HEADER.unpack(header)
        payload = requests.read(length)
        if kind == SHUTDOWN:
            return
        if kind == RELEASE:
            continue  # a linear map needs nothing of its forward pass, and so nothing is kept
        if kind == DESCRIBE:
            about = {"name": "linear", "features": d, "image_size": [side, side], "keep": 4}
            made = json.dumps(about).encode()
        elif kind == FORWARD:
            made = forward(payload, n).astype("<f4").tobytes()
        elif kind == BACKWARD:
            made = backward(payload, n).astype("<f4").tobytes()
        else:
            made = backward(payload[4 * n * size :], n).astype("<f4").tobytes()
        answers.write(HEADER.pack(b"HMLK", 1, kind | ANSWER, request, number, n, len(made)) + made)
        answers.flush()


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # stdout belongs to the protocol; what is printed goes to stderr
    side, d = int(sys.argv[1]), int(sys.argv[2])
    if len(sys.argv) > 3:
        weights = np.load(sys.argv[3]).astype("f4").reshape(d, -1)
    else:
        weights = np.random.default_rng(0).normal(0, 0.1, (d, 3 * side * side)).astype("f4")
    serve(side, weights, os.fdopen(0, "rb"), out)
