"""An extractor that does one thing wrong: python faulty.py FAULT. Its features are the means of the channels.

Every start is noted in the file `starts`, so that `FAULT-once` is wrong in the second process alone.
"""

import json
import os
import struct
import subprocess
import sys
import time

import numpy as np

SIDE = 32
HEADER = struct.Struct("<4sHHQQIQ")
fault = sys.argv[1]
with open("starts", "a") as starts:
    starts.write(f"{os.getpid()}\n")
if fault.endswith("-once"):
    fault = fault.removesuffix("-once") if len(open("starts").readlines()) == 2 else "none"
print("the child says hello", file=sys.stderr, flush=True)
requests, answers = os.fdopen(0, "rb"), os.fdopen(1, "wb")
images = 0
while len(header := requests.read(HEADER.size)) == HEADER.size:
    _, _, kind, request, number, n, length = HEADER.unpack(header)
    payload = requests.read(length)
    images += n if kind == 2 else 0
    if kind == 6 and fault != "stays":
        break
    if kind in (5, 6):
        continue
    # The child is described and tried out before it fails.
    bad, version, answer = kind == 2 and images > 2, 1, kind | 0x8000
    if kind == 1:
        d = 4 if fault == "changes" and len(open("starts").readlines()) > 1 else 3
        about = {"name": "means", "features": d, "image_size": [SIDE, SIDE], "keep": 0 if fault == "forgets" else 2}
        made = b"{}" if fault == "undescribed" else json.dumps(about).encode()
        version = 7 if fault == "version" else 1
    elif kind == 2:
        features = np.frombuffer(payload, "<f4").reshape(n, 3, -1).mean(2)
        if bad and fault == "nan":
            features[1, 2] = np.nan
        made = features.astype("<f4").tobytes()
        made = made[:-4] if bad and fault == "short" else made + made if bad and fault == "long" else made
    else:
        grad = np.frombuffer(payload, "<f4")[-3 * n :].reshape(n, 3, 1)
        made = (np.ones((n, 3, SIDE * SIDE)) * grad / SIDE**2).astype("<f4").tobytes()
        if fault == "dies-backward":
            sys.exit("the child cannot go back")
    if bad and fault == "dies":
        raise SystemExit("the child gives up")
    if bad and fault in ("hangs", "stays"):
        child = subprocess.Popen(["sleep", "1000"])
        with open("started", "w") as started:
            started.write(f"{os.getpid()} {child.pid}")
        time.sleep(1000 if fault == "hangs" else 0)
    if bad and fault == "prints":
        answers.write(b"42 % done\n")
    if bad and fault == "refuses":
        answer, made = 0xFFFF, b"RuntimeError: out of memory"
    if bad and fault == "number":
        request += 1
    answers.write(HEADER.pack(b"HMLK", version, answer, request, number, n, len(made)) + made)
    answers.flush()
