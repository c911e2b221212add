"""Models and interfaces of other libraries. What is not installed is skipped. `tests/run` installs them if it is asked
to."""

import hemlock
import numpy as np
import pytest
from test_images import small


def network(torch, features=6):
    """A small convolutional network, in evaluation mode."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.GELU(),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(32, features),
    ).eval()


def test_a_module_gives_its_own_features_and_gradients():
    torch = pytest.importorskip("torch")
    net, (images, labels) = network(torch), small()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    extractor = hemlock.extractor(net, mean=mean, std=std)
    channel = lambda values: torch.tensor(values).view(1, 3, 1, 1)
    normal = (torch.tensor(images) / 255 - channel(mean)) / channel(std)
    with torch.no_grad():
        expected = net(normal).numpy()
    np.testing.assert_allclose(hemlock.features(images, extractor), expected, atol=1e-6)

    # The same network as a pair of functions, with a gradient of its own.
    def features(pixels):
        with torch.no_grad():
            return net((torch.tensor(pixels) - channel(mean)) / channel(std))

    def vjp(pixels, gradient):
        pixels = torch.tensor(pixels, requires_grad=True)
        net((pixels - channel(mean)) / channel(std)).backward(torch.tensor(gradient))
        return pixels.grad

    fields = {"attack": "gradient-canceling", "poison_fraction": 0.2, "steps": 5, "linf": "8/255"}
    one = hemlock.attack_images(images, labels, extractor, **fields)
    other = hemlock.attack_images(images, labels, (features, vjp), **fields)
    kept = hemlock.attack_images(images, labels, hemlock.extractor(net, mean=mean, std=std, keep=4), **fields)
    net.zero_grad()
    assert (one.images == other.images).mean() > 0.999 and (kept.images == one.images).all()
    assert all(parameter.grad is None for parameter in net.parameters())
    # A gradient descends: poisons reach a lower objective than their base images have.
    assert one.curve[-1, 1] < one.curve[0, 1]
    poisons = hemlock.attack(extractor(images), labels, poison_fraction=0.1, steps=20, constraint="ball")
    made = hemlock.invert(poisons, extractor, images, labels, steps=100)
    assert np.median(made.measures["distance"] / made.measures["start_distance"]) < 0.5


def test_a_module_that_cannot_be_used_is_one_clear_error():
    torch = pytest.importorskip("torch")
    images, labels = small()
    net = network(torch)

    def said(model, words, **options):
        with pytest.raises(hemlock.Error) as error:
            hemlock.attack_images(images, labels, hemlock.extractor(model, **options), steps=2, poison_fraction=0.1)
        assert words in str(error.value), str(error.value)

    said(network(torch).train(), "it is in training mode; call `.eval()`")
    half = network(torch)
    half[1].train()
    said(half, "its part `1` is in training mode")
    said(net[:4].eval(), "the module returns the shape [2, 8, 2, 2]; expected features [2, d]")
    said(net, "the module returns dict", output=lambda made: {"features": made})
    said(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(7, 3)).eval(), "mat1 and mat2 shapes cannot be multiplied")
    said(net, "answered `forward` with NaN", output=lambda made: made / 0 * 0)
    said(net, "the features do not depend on the pixels", output=lambda made: made.detach())
    said(net, "`std` is (0, 1, 1); expected three numbers above 0", std=(0, 1, 1))


def test_a_model_of_timms_says_its_normalisation():
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    model = timm.create_model("resnet18.a1_in1k", pretrained=False).eval()
    extractor = hemlock.extractor(model)
    assert extractor.image_size == (224, 224) and extractor.name == "resnet18"
    images, _ = small(3, side=32)
    with pytest.raises(hemlock.Error, match="32 x 32 pixels, and `resnet18` takes 224 x 224"):
        hemlock.features(images, extractor)
    made = hemlock.features(images, hemlock.extractor(model, image_size="any"))
    data = timm.data.resolve_model_data_config(model)
    channel = lambda values: torch.tensor(values).view(1, 3, 1, 1)
    with torch.no_grad():
        normal = (torch.tensor(images) / 255 - channel(data["mean"])) / channel(data["std"])
        expected = model.forward_head(model.forward_features(normal), pre_logits=True).numpy()
    assert made.shape == (3, 512)
    np.testing.assert_allclose(made, expected, atol=1e-5)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, num_classes=0).eval()
    assert hemlock.extractor(vit).image_size == (32, 32)
    assert hemlock.features(images, vit).shape == (3, 192)


def test_a_model_of_transformers_says_its_size():
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(image_size=32, patch_size=16, **sizes)
    model = transformers.ViTModel(config).eval()
    images, _ = small(3, side=32)
    with pytest.raises(hemlock.Error, match="`ViTModel` does not say its normalisation; give its `processor=`"):
        hemlock.extractor(model)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    extractor = hemlock.extractor(model, processor=processor)
    assert extractor.image_size == (32, 32)
    with torch.no_grad():
        normal = (torch.tensor(images) / 255 - 0.5) / 0.5
        expected = model(pixel_values=normal).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(hemlock.features(images, extractor), expected, atol=1e-5)
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    pooled = transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    assert hemlock.features(images, hemlock.extractor(pooled.eval(), **half)).shape == (3, 16)
    classifier = transformers.ViTForImageClassification(config).eval()
    with pytest.raises(hemlock.Error, match="returns logits alone"):
        hemlock.features(images, hemlock.extractor(classifier, **half))


def test_the_attack_of_arts(train, test):
    pytest.importorskip("art")
    from art.attacks.attack import PoisoningAttackWhiteBox
    from hemlock.adapters.art import HemlockPoisoningAttack

    features, labels = train
    attack = HemlockPoisoningAttack(poison_fraction=0.1, fields={"steps": 50})
    assert isinstance(attack, PoisoningAttackWhiteBox)
    poisons, wrong = attack.poison(features, np.eye(3, dtype=np.float32)[labels])
    expected = hemlock.attack(features, labels, poison_fraction=0.1, steps=50)
    assert (poisons == expected.features).all() and (wrong.argmax(axis=1) == expected.labels).all()
    assert wrong.shape == (30, 3) and wrong.dtype == np.float32
    attack.set_params(poison_fraction=0.05)
    assert len(attack.poison(features, labels)[0]) == 15 and "poison_fraction=0.05" in repr(attack)
    with pytest.raises(hemlock.Error, match="expected a dictionary"):
        attack.set_params(fields=3)
    with pytest.raises(hemlock.Error, match="`y` is None"):
        HemlockPoisoningAttack().poison(features)
    images, classes = small()
    with pytest.raises(hemlock.Error, match="expected an `extractor`"):
        HemlockPoisoningAttack().poison(images, classes)
    functions = (lambda x: x.mean(axis=(2, 3)), lambda x, g: np.broadcast_to(g[:, :, None, None] / 64, x.shape))
    floats = (images / 255).astype(np.float32)
    poisoned, own = HemlockPoisoningAttack(extractor=functions, poison_fraction=0.1).poison(floats, classes, steps=3)
    assert poisoned.shape == (4, 3, 8, 8) and poisoned.dtype == np.float32
    assert 0 <= poisoned.min() <= poisoned.max() <= 1
    assert set(own) <= {0, 1}
