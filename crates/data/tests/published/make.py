"""Makes the small datasets beside it, in the layouts in which they are published: `python make.py`.

They were made with NumPy 2.4.6, SciPy 1.17.1, PyArrow 26.0.1 and Pillow 13.0.0. Image `i` of a dataset has the level
`(31 i + 83 c + 7 y + 3 x) mod 251` in channel `c`, row `y` and column `x`; grey images have channel 0 alone. Images are
numbered from 0 over training, validation and test images, in this order.
"""

import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat

HERE = Path(__file__).parent


def images(first, count, size, channels=3):
    """Images `[count, size, size, channels]`."""
    i, y, x, c = np.ogrid[first : first + count, :size, :size, :channels]
    return ((31 * i + 83 * c + 7 * y + 3 * x) % 251).astype(np.uint8)


def encoded(i, kind="png", size=8, **options):
    file = io.BytesIO()
    Image.fromarray(images(i, 1, size)[0]).save(file, kind, **options)
    return file.getvalue()


def folder(name):
    path = HERE / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def idx():
    path = folder("mnist")
    for name, first, labels in (("train", 0, [7, 2, 1, 0]), ("t10k", 4, [7, 2])):
        pixels = images(first, len(labels), 28, 1)[..., 0]
        write(path / f"{name}-images-idx3-ubyte", struct.pack(">4B3I", 0, 0, 8, 3, *pixels.shape) + pixels.tobytes())
        write(path / f"{name}-labels-idx1-ubyte", struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + bytes(labels))
    for file in path.glob("train-*"):
        write(file.with_name(file.name + ".gz"), gzip.compress(file.read_bytes(), mtime=0))
        file.unlink()


def npz():
    column = lambda *labels: np.array(labels, np.uint8)[:, None]
    for name, channels in (("medmnist", 3), ("medmnist-grey", 1)):
        pixels = images(0, 8, 28, channels)
        pixels = pixels[..., 0] if channels == 1 else pixels
        np.savez_compressed(
            HERE / f"{name}.npz",
            train_images=pixels[:4],
            train_labels=column(1, 0, 2, 0),
            val_images=pixels[4:6],
            val_labels=column(2, 1),
            test_images=pixels[6:],
            test_labels=column(0, 0),
        )
    pixels = images(0, 3, 28, 1)[..., 0]
    splits = dict(x_train=pixels[:2], y_train=np.array([3, 8]), x_test=pixels[2:], y_test=np.array([8]))
    np.savez(HERE / "keras.npz", **splits)


def mat():
    path = folder("svhn")
    first = 0
    for name, labels in (("train", [1, 10, 9, 2]), ("test", [10, 1]), ("extra", [9, 9])):
        pixels = images(first, len(labels), 32).transpose(1, 2, 3, 0)
        content = {"X": pixels, "y": np.array(labels, np.uint8)[:, None]}
        savemat(path / f"{name}_32x32.mat", content, do_compression=True)
        first += len(labels)


def stl10():
    path = folder("stl10_binary")
    for name, first, labels in (("train", 0, [10, 1]), ("test", 2, [3])):
        write(path / f"{name}_X.bin", images(first, len(labels), 96).transpose(0, 3, 2, 1).tobytes())
        write(path / f"{name}_y.bin", bytes(labels))
    write(path / "unlabeled_X.bin", images(3, 1, 96).transpose(0, 3, 2, 1).tobytes())
    names = "airplane bird car cat deer dog horse monkey ship truck".split()
    write(path / "class_names.txt", "\n".join(names) + "\n")
    write(path / "fold_indices.txt", "0 1 \n" + "1 \n" * 9)


class Python2(pickle._Pickler):
    """Writes texts and bytes as Python 2 does."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, text):
        content = text.encode() if isinstance(text, str) else text
        short = len(content) < 256
        self.write(b"U" + bytes([len(content)]) if short else b"T" + struct.pack("<I", len(content)))
        self.write(content)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string


def pickled(value):
    file = io.BytesIO()
    Python2(file, protocol=2).dump(value)
    return file.getvalue()


def cifar():
    planes = lambda first, count: images(first, count, 32).transpose(0, 3, 1, 2).reshape(count, 3072)
    path = folder("cifar-10-batches-py")
    for i in range(6):
        name = f"data_batch_{i + 1}" if i < 5 else "test_batch"
        content = {"batch_label": name, "labels": [9 - i], "data": planes(i, 1), "filenames": [f"{i}.png"]}
        write(path / name, pickled(content))
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    write(path / "batches.meta", pickled({"num_cases_per_batch": 1, "label_names": names, "num_vis": 3072}))
    path = folder("cifar-100-python")
    for name, first, fine in (("train", 0, [0, 99, 7]), ("test", 3, [50])):
        labels = {"fine_labels": fine, "coarse_labels": [label // 5 for label in fine]}
        # As Python 3 writes it.
        write(path / name, pickle.dumps({**labels, "data": planes(first, len(fine))}, protocol=4))
    names = {f"{kind}_label_names": [f"{kind}{i}" for i in range(n)] for kind, n in (("fine", 100), ("coarse", 20))}
    write(path / "meta", pickle.dumps(names, protocol=4))


def parquet():
    path = folder("huggingface") / "data"
    path.mkdir()
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    struct_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", struct_type), ("label", pa.int64())], metadata=metadata)
    first = 0
    for name, labels in (
        ("train-00000-of-00002", [0, 2, 1]),
        ("train-00001-of-00002", [1, 0]),
        ("validation-00000-of-00001", [2]),
        ("test-00000-of-00001", [1, 0]),
    ):
        rows = [{"bytes": encoded(first + i), "path": f"{first + i}.png"} for i in range(len(labels))]
        table = pa.Table.from_pydict({"image": rows, "label": labels}, schema=schema)
        pq.write_table(table, path / f"{name}.parquet", row_group_size=2)
        first += len(labels)
    # Other names of columns, one file, labels in words, and another compression.
    table = pa.Table.from_pydict({
        "picture": [encoded(i) for i in range(4)],
        "animal": ["emu", "cat", "emu", "cat"],
        "part": ["train", "train", "val", "train"],
        "place": ["zoo", "home", "zoo", "zoo"],
    })
    pq.write_table(table, HERE / "columns.parquet", compression="zstd")


def tar():
    path = folder("webdataset")
    kinds = {"png": {}, "webp": {"lossless": True}, "ppm": {}}
    shards = (("train-000000", 0, [1, 0]), ("train-000001", 2, [2]), ("test/0", 3, [0]))
    for name, first, labels in shards:
        (path / name).parent.mkdir(exist_ok=True)
        with tarfile.open(path / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for i, label in enumerate(labels, first):
                kind = list(kinds)[i % 3]
                for ending, content in ((kind, encoded(i, kind, **kinds[kind])), ("cls", str(label).encode())):
                    entry = tarfile.TarInfo(f"s{i:07}.{ending}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    write(path / "classnames.txt", "heron\nibis\njay\n")


def tables():
    path = folder("waterbirds")
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    rows = [(0, 0, 0), (1, 0, 1), (1, 0, 0), (0, 1, 1), (1, 2, 0), (0, 2, 1)]
    for i, (label, split, place) in enumerate(rows):
        write(path / f"bird{label}" / f"{i}.jpg", encoded(i))
        lines.append(f'{i},bird{label}/{i}.jpg,{label},{split},{place},"a, b"')
    write(path / "metadata.csv", "\n".join(lines) + "\n")
    path = folder("pets")
    lists = (("trainval", 0, ["Abyssinian_1 1 1 1", "beagle_1 2 2 1"]), ("test", 2, ["beagle_2 2 2 1"]))
    for name, first, lines in lists:
        write(path / "annotations" / f"{name}.txt", "\n".join(lines) + "\n")
        for i, line in enumerate(lines, first):
            write(path / "images" / (line.split()[0] + ".jpg"), encoded(i))


def folders():
    path = folder("tiny-imagenet")
    for i, wnid in enumerate(("n01", "n02")):
        write(path / "train" / wnid / "images" / f"{wnid}_0.JPEG", encoded(i))
        write(path / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t7\t7\n")
    for i, wnid in enumerate(("n02", "n01"), 2):
        write(path / "val" / "images" / f"val_{i}.JPEG", encoded(i))
    write(path / "val" / "val_annotations.txt", "val_2.JPEG\tn02\t0\t0\t7\t7\nval_3.JPEG\tn01\t0\t0\t7\t7\n")
    write(path / "test" / "images" / "test_0.JPEG", encoded(9))
    path = folder("food-101")
    for name, lines in (("train", ["waffles/7", "apple_pie/3"]), ("test", ["apple_pie/9"])):
        write(path / "meta" / f"{name}.txt", "\n".join(lines) + "\n")
    for i, line in enumerate(["waffles/7", "apple_pie/3", "apple_pie/9"]):
        write(path / "images" / f"{line}.jpg", encoded(i))


for make in (idx, npz, mat, stl10, cifar, parquet, tar, tables, folders):
    make()
