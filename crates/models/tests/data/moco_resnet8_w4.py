"""Writes moco_resnet8_w4.pth, as `torch.save` would: a MoCo checkpoint of a resnet8 of first width 4.

Needs no PyTorch: the modules that its pickles name are stood in for. Value j of tensor i, in the order
of the names, is ((31 i + 7 j) mod 64 - 32) / 64, which half precision holds exactly. All tensors are
views of one compressed storage, so that the file stays small.
"""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile

torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
sys.modules.update({"torch": torch, "torch._utils": utils})
torch.HalfStorage = type("HalfStorage", (), {"__module__": "torch"})


def _rebuild_tensor_v2(*_):
    raise NotImplementedError


_rebuild_tensor_v2.__module__ = "torch._utils"
utils._rebuild_tensor_v2 = _rebuild_tensor_v2

values, tensors = [], 0


class Storage:
    pass


class Tensor:
    def __init__(self, *shape):
        global tensors
        self.shape, self.offset, size = shape, len(values), 1
        for length in shape:
            size *= length
        values.extend(((31 * tensors + 7 * j) % 64 - 32) / 64 for j in range(size))
        tensors += 1

    def __reduce__(self):
        strides, size = [], 1
        for length in reversed(self.shape):
            strides.insert(0, size)
            size *= length
        hooks = collections.OrderedDict()
        return _rebuild_tensor_v2, (Storage(), self.offset, self.shape, tuple(strides), False, hooks)


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        if isinstance(thing, Storage):
            return ("storage", torch.HalfStorage, "0", "cpu", len(values))


shapes = {"conv1.weight": (4, 3, 3, 3)}
norms = {"bn1": 4}
for layer, (before, width) in enumerate([(4, 4), (4, 8), (8, 16)], 1):
    shapes[f"layer{layer}.0.conv1.weight"] = (width, before, 3, 3)
    shapes[f"layer{layer}.0.conv2.weight"] = (width, width, 3, 3)
    norms |= {f"layer{layer}.0.bn1": width, f"layer{layer}.0.bn2": width}
for norm, width in norms.items():
    shapes |= {f"{norm}.{name}": (width,) for name in ["weight", "bias", "running_mean", "running_var"]}

state = collections.OrderedDict()
for name in sorted(shapes):
    state[f"module.encoder_q.{name}"] = Tensor(*shapes[name])
state["module.encoder_q.bn1.num_batches_tracked"] = Tensor()
state["module.encoder_q.fc.0.weight"] = Tensor(2, 16)
state["module.encoder_k.conv1.weight"] = Tensor(4, 3, 3, 3)
state["module.queue"] = Tensor(2, 8)
checkpoint = {
    "epoch": 7,
    "arch": "resnet8",
    "state_dict": state,
    "optimizer": {"state": {5: {"momentum_buffer": Tensor(4)}}, "param_groups": [{"lr": 0.03}]},
}

pickled = io.BytesIO()
Pickler(pickled, protocol=2).dump(checkpoint)
with zipfile.ZipFile("moco_resnet8_w4.pth", "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in [
        ("data.pkl", pickled.getvalue()),
        ("byteorder", b"little"),
        ("data/0", struct.pack(f"<{len(values)}e", *values)),
        ("version", b"3\n"),
    ]:
        archive.writestr(zipfile.ZipInfo(f"moco_resnet8_w4/{name}"), content, zipfile.ZIP_DEFLATED)
