"""Extractors from pixels to features, inversions, and attacks on pixels."""

import importlib.util
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import hemlock
import numpy as np
import pytest
from test_pipeline import SOURCE

LINEAR = Path(__file__).parents[3] / "examples" / "process" / "linear.py"
NATIVE = {"method": "supervised", "arch": "resnet8-w4", "epochs": 1, "batch": 60, "warmup_epochs": 0}
PROCESS = {"method": "process", "command": [sys.executable, "linear.py", "32", "12"]}
INVERT = {"method": "feature-matching", "linf": "16/255", "steps": 4, "refine": 2, "start": "decoder", "restarts": 1}
PIXELS = {"attack": "gradient-canceling", "poison_fraction": 0.1, "linf": "8/255", "steps": 3}
DECODER = {"epochs": 1, "width": 4}


def spec(pretrain):
    return {
        "seeds": [0],
        "dataset": {"downstream": {"source": SOURCE, "train": 60, "validation": 0, "test": 30}},
        "pretrain": pretrain,
        "features": {},
        "target-params": {"radius": 0.5, "weight_decay": 0.01},
        "poison-features": {"attack": "bilevel", "poison_fraction": 0.1, "constraint": "ball", "steps": 5},
        "decoder": DECODER,
        "invert": INVERT,
        "poison-images": PIXELS,
    }


class Made:
    """What the command makes with an extractor: images and features, and poisons of every route."""

    def __init__(self, folder, pretrain):
        place = {"root": folder / "artifacts", "data": folder / "data", "pipelines": folder}
        place["data"].mkdir()
        shutil.copy(LINEAR, place["data"])
        content = spec(pretrain) if pretrain["method"] == "process" else spec({**pretrain, "seed": 0})
        if pretrain["method"] != "process":
            content["dataset"]["pretrain"] = {"source": SOURCE, "train": 120, "validation": 15}
        hemlock.run(content, name="made", progress=False, allow_command=True, **place)

        def artifact(stage):
            (found,) = hemlock.artifacts(content, stage, name="made", **{k: v for k, v in place.items()})
            return found

        self.artifact = artifact
        dataset = hemlock.artifacts(content, "dataset", name="made", **place)
        self.dataset = next(one for one in dataset if one.node == "dataset.downstream").arrays
        self.images, self.labels = self.dataset["train.pixels"], self.dataset["train.labels"]

    def check(self, extractor):
        """Everything has the bytes of the command's, with this extractor."""
        extractor = extractor.standardized(self.images)
        features = hemlock.features(self.images, extractor)
        stored = self.artifact("features").arrays
        assert features.tobytes() == stored["train.features"].tobytes()
        assert extractor(self.dataset["test.pixels"]).tobytes() == stored["test.features"].tobytes()
        fields = {"attack": "bilevel", "poison_fraction": 0.1, "constraint": "ball", "steps": 5}
        target = {"radius": 0.5, "weight_decay": 0.01}
        poisons = hemlock.attack(features, self.labels, target=target, **fields)
        inverted = hemlock.invert(poisons, extractor, self.images, self.labels, decoder=DECODER, **INVERT)
        self.same(self.artifact("invert"), inverted)
        attacked = hemlock.attack_images(self.images, self.labels, extractor, target=target, **PIXELS)
        self.same(self.artifact("poison-images"), attacked)
        return features, poisons, inverted

    @staticmethod
    def same(artifact, made):
        arrays = artifact.arrays
        assert made.images.tobytes() == arrays["images"].tobytes()
        assert (made.labels == arrays["labels"]).all() and (made.source == arrays["base_index"]).all()
        for name in ("start_distance", "distance", "outside", "norm_z", "nearest_z"):
            assert made.measures[name].tobytes() == arrays[name].tobytes(), name
        assert made.measures["passes"].tolist() == arrays["passes"].tolist()


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("native"), NATIVE)


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("process"), PROCESS)


class Linear:
    """What examples/process/linear.py computes."""

    def __init__(self, side=32, features=12):
        module = importlib.util.spec_from_file_location("linear", LINEAR)
        linear = importlib.util.module_from_spec(module)
        module.loader.exec_module(linear)
        self.mean, self.std = linear.MEAN, linear.STD
        self.weights = np.random.default_rng(0).normal(0, 0.1, (features, 3 * side * side)).astype("f4")

    def features(self, images):
        return ((images - self.mean) / self.std).reshape(len(images), -1) @ self.weights.T

    def vjp(self, images, gradient):
        return (gradient @ self.weights).reshape(images.shape) / self.std

    @property
    def pair(self):
        return self.features, self.vjp


def small(samples=40, side=8, seed=0):
    """Random images whose brightness is their class."""
    random = np.random.default_rng(seed)
    labels = np.arange(samples) % 2
    images = random.integers(0, 128, (samples, 3, side, side)) + 100 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


def test_a_network_gives_the_bytes_of_the_command(native):
    extractor = hemlock.extractor(native.artifact("pretrain"))
    features, poisons, inverted = native.check(extractor)
    # The features that come with the images are those that the extractor makes of them.
    own = extractor.standardized(native.images)
    assert (own(inverted.images) == inverted.features).all()
    found = hemlock.evaluate(features, native.labels, inverted, test=(features, native.labels), controls=[])
    by_hand = (inverted.features, inverted.labels)
    options = {"test": (features, native.labels), "controls": [], "weight_decay": 0.01}
    again = hemlock.evaluate(features, native.labels, by_hand, **options)
    assert found.poisoned == again.poisoned and inverted.target is poisons.target


def test_functions_give_the_bytes_of_a_process(process):
    process.check(hemlock.extractor(Linear().pair, name="linear"))


def test_a_checkpoint_is_imported(native, tmp_path):
    artifact = native.artifact("pretrain")
    weights = tmp_path / "net.safetensors"
    folder = Path(artifact.folder)
    # The artifact's file of weights is a header of 128 bytes and a safetensors file.
    length = int.from_bytes((folder / "weights").read_bytes()[128:136], "little")
    assert 0 < length < 1 << 20
    weights.write_bytes((folder / "weights").read_bytes()[128:])
    stored = hemlock.extractor(artifact)
    about = {"arch": "resnet8-w4", "mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.warns(UserWarning, match="unverified import"):
        imported = hemlock.extractor(weights, **about)
    assert imported.image_size == stored.image_size == (32, 32) and imported.name == "resnet8-w4"
    assert imported(native.images).shape == stored(native.images).shape
    with pytest.raises(hemlock.Error, match="archh"):
        hemlock.extractor(weights, archh="resnet8-w4", mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(hemlock.Error, match="nowhere.pth"):
        hemlock.extractor(tmp_path / "nowhere.pth", **about)
    with pytest.raises(hemlock.Error, match="expected one of `pretrain`"):
        hemlock.extractor(native.artifact("features"))


def test_images_may_have_any_layout():
    images, labels = small()
    linear = Linear(8, 5)
    expected = hemlock.features(images, linear.pair)
    np.testing.assert_allclose(expected, linear.features(images / np.float32(255)), rtol=1e-5)
    last = images.transpose(0, 2, 3, 1)
    read_only = np.ascontiguousarray(images)
    read_only.setflags(write=False)
    floats = (images / 255).astype(np.float32)
    for given in (last, np.ascontiguousarray(last), images[::-1][::-1], read_only, floats, images.astype(int)):
        assert hemlock.features(given, linear.pair).tobytes() == expected.tobytes()
    fields = {"attack": "gradient-canceling", "poison_fraction": 0.1, "steps": 2, "linf": "8/255"}
    made = hemlock.attack_images(images, labels, linear.pair, **fields)
    names = np.array(["dark", "light"])[labels]
    turned = hemlock.attack_images(last, names, linear.pair, **fields)
    assert turned.images.shape == (4, 8, 8, 3) and (turned.images.transpose(0, 3, 1, 2) == made.images).all()
    assert set(turned.labels) <= {"dark", "light"}
    assert np.abs(made.images.astype(int) - images[made.source]).max() <= 8
    both, all_labels = made.added_to(floats, labels)
    assert both.dtype == np.float32 and (np.rint(255 * both[40:]) == made.images).all() and len(all_labels) == 44


def test_matching_comes_near_and_unclipped_pixels_are_kept():
    images, labels = small()
    extractor = hemlock.extractor(Linear(8, 5).pair)
    features = extractor(images)
    # Dark images that are to have the features of light ones.
    poisons = hemlock.Poisons(features[1:9:2], labels[0:8:2], np.arange(0, 8, 2))
    made = hemlock.invert(poisons, extractor, images, labels, features=features)
    assert (made.measures["distance"] < 0.5 * made.measures["start_distance"]).all()
    np.testing.assert_allclose(
        np.linalg.norm(made.features - poisons.features, axis=1), made.measures["distance"], rtol=1e-3, atol=1e-5
    )
    free = hemlock.invert(poisons, extractor, images, labels, clip=False)
    assert free.pixels is not None and free.pixels.dtype == np.float32
    np.testing.assert_allclose(Linear(8, 5).features(free.pixels), free.features, atol=1e-4)


def test_features_are_normalised_as_asked():
    images, labels = small()
    extractor = hemlock.extractor(Linear(8, 5).pair)
    plain = extractor(images)
    whole = extractor.standardized(images)
    np.testing.assert_allclose(whole(images), (plain - plain.mean(axis=0)) / plain.std(axis=0), atol=1e-4)
    name, (shift, scale) = whole.normalization
    np.testing.assert_allclose((plain - shift) * scale, whole(images), atol=1e-5)
    unit = extractor.of_length_one()
    np.testing.assert_allclose(unit(images), plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-5)
    assert (name, unit.normalization, extractor.normalization) == ("standardize", ("l2", None), ("none", None))
    # Gradients go through the normalisation.
    made = hemlock.attack_images(images, labels, unit, attack="gradient-canceling", poison_fraction=0.1, steps=10)
    assert made.curve[-1, 1] < made.curve[0, 1]


def raising(images):
    raise LookupError("no weights")


def constant(images):
    return np.ones((len(images), 2))


def changing(images, _count=[0]):
    """Another number of features with every call."""
    _count[0] += 1
    return np.ones((len(images), 3 + _count[0]), np.float32)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (raising, "the extractor `raising` cannot answer `forward`: LookupError: no weights"),
        (lambda x: np.ones((len(x), 3, 2)), "answered `forward` with the shape [2, 3, 2]; expected the shape [2, d]"),
        (lambda x: np.ones((1, 3)), "answered `forward` with the shape [1, 3]; expected the shape [2, d]"),
        (lambda x: np.ones((len(x), 0)), "with the shape [2, 0]"),
        (lambda x: np.full((len(x), 3), np.nan), "answered `forward` with NaN for image 0, value 0"),
        (changing, "expected the shape [40, 4]"),
        (lambda x: "features", "the function of features returns the dtype"),
        (lambda x: None, "the function of features returns the dtype object"),
        (lambda x: hemlock.features(small()[0], Linear(8, 5).pair), "the functions of an extractor call Hemlock"),
    ],
)
def test_a_function_that_fails_is_one_clear_error(features, said):
    images, _ = small()
    with pytest.raises(hemlock.Error) as error:
        hemlock.features(images, features)
    assert said in str(error.value), str(error.value)
    if features is raising:
        assert isinstance(error.value.__cause__, LookupError)


@pytest.mark.parametrize(
    ("vjp", "said"),
    [
        (None, "it has no gradients; expected a pair of functions"),
        (lambda x, g: raising(x), "cannot answer `vjp`: LookupError: no weights"),
        (lambda x, g: g, "answered `vjp` with the shape [2, 5]; expected the shape [2, 3, 8, 8]"),
        (lambda x, g: np.full(x.shape, np.inf), "answered `vjp` with inf for image 0"),
    ],
)
def test_gradients_that_fail_are_one_clear_error(vjp, said):
    images, labels = small()
    with pytest.raises(hemlock.Error) as error:
        hemlock.attack_images(images, labels, (Linear(8, 5).features, vjp), steps=2, poison_fraction=0.1)
    assert said in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((4, 8, 8), np.uint8), "expected images [n, 3, height, width]"),
        (np.zeros((4, 1, 8, 8), np.uint8), "the shape (4, 1, 8, 8)"),
        (np.zeros((0, 3, 8, 8), np.uint8), "at least one image"),
        (np.full((4, 3, 8, 8), np.nan), "not finite"),
        (np.full((4, 3, 8, 8), 2.5), "floats from 0 to 1, before any normalisation"),
        (np.full((4, 3, 8, 8), 0.5013), "between grey levels"),
        (np.full((4, 3, 8, 8), 300), "pixels from 300 to 300; expected 0 to 255"),
        (np.full((4, 3, 8, 8), "x"), "dtype"),
        ([[1, 2], [3]], "no array"),
    ],
)
def test_images_that_are_none_are_one_clear_error(images, said):
    with pytest.raises(hemlock.Error) as error:
        hemlock.features(images, Linear(8, 5).pair)
    assert said in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x, y, e, p: hemlock.invert(p, e, x, y, stepps=3), "stepps"),
        (lambda x, y, e, p: hemlock.invert(p, e, x, y, linf="8"), "`linf`"),
        (lambda x, y, e, p: hemlock.invert(p, e, x, y, method="decoder"), "the inversion needs a decoder"),
        (lambda x, y, e, p: hemlock.invert(p, e, x[:-1], y), "39 samples"),
        (lambda x, y, e, p: hemlock.invert((p.features, p.labels), e, x, y), "which training image"),
        (lambda x, y, e, p: hemlock.invert(3, e, x, y), "expected Poisons"),
        (lambda x, y, e, p: hemlock.invert(p, 3, x, y), "`extractor` is int; expected a module"),
        (lambda x, y, e, p: hemlock.invert(p, e, x, y, features=p.features), "samples"),
        (lambda x, y, e, p: hemlock.attack_images(x, y, e, features=np.ones((40, 3))), "the extractor makes 5"),
        (lambda x, y, e, p: hemlock.attack_images(x, y, e, features=np.ones((40, 5))), "`features` are not those"),
        (lambda x, y, e, p: hemlock.attack_images(x, y, e, attack="bilevle"), "bilevel"),
        (lambda x, y, e, p: hemlock.attack_images(x, y, e, start="hull"), "`start`"),
        (lambda x, y, e, p: hemlock.extractor(e, arch="vit"), "unknown field `arch`"),
        (lambda x, y, e, p: hemlock.extractor(e, mean=[0.5] * 3), "`mean` and `std` are for modules"),
        (lambda x, y, e, p: hemlock.extractor(e, image_size="large"), "`image_size` is 'large'"),
        (lambda x, y, e, p: hemlock.features(x, hemlock.extractor(e, image_size=32)), "takes 32 x 32; resize them"),
        (lambda x, y, e, p: hemlock.extractor(e).standardized(x).standardized(x), "normalised already"),
        (lambda x, y, e, p: hemlock.extractor(constant).standardized(x), "tells the classes apart"),
    ],
)
def test_what_is_wrong_is_one_clear_error(call, said):
    images, labels = small()
    linear = Linear(8, 5)
    poisons = hemlock.attack(linear.features(images / np.float32(255)), labels, poison_fraction=0.1, steps=2)
    with pytest.raises(hemlock.Error) as error:
        call(images, labels, linear.pair, poisons)
    assert said in str(error.value), str(error.value)


def test_ctrl_c_stops_functions():
    images, labels = small()
    linear = Linear(8, 5)

    def slow(pixels):
        time.sleep(0.02)
        return linear.features(pixels)

    begun = time.monotonic()
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        hemlock.attack_images(images, labels, (slow, linear.vjp), poison_fraction=0.1, steps=1_000_000)
    assert time.monotonic() - begun < 20


def test_two_threads_at_once():
    images, labels = small(200)
    linear = Linear(8, 5)
    inside, most = [0], [0]

    def features(pixels):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        made = linear.features(pixels)
        inside[0] -= 1
        return made

    fields = {"attack": "gradient-canceling", "poison_fraction": 0.2, "steps": 3}
    expected = hemlock.attack_images(images, labels, (features, linear.vjp), **fields)
    assert most[0] == 1, "a function is called by one thread at a time"
    made = [None] * 2

    def work(place):
        made[place] = hemlock.attack_images(images, labels, (linear.features, linear.vjp), **fields)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    [thread.start() for thread in threads]
    [thread.join(120) for thread in threads]
    assert all(one is not None and one.images.tobytes() == expected.images.tobytes() for one in made)
