"""Independent reference values for the transformations of images (Pillow, torchvision, numpy). Writes images.json."""
import io, json, pathlib, numpy as np, torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

SIDE = 16
rng = np.random.default_rng(3)
y, x = np.mgrid[:SIDE, :SIDE]
smooth = np.stack([120 + 90 * np.sin(x / 5 + y / 9), 40 + 7 * y, 255 - 9 * x + 0 * y])
image = np.clip(smooth + rng.normal(size=(3, SIDE, SIDE)) * 12, 0, 255).round().astype(np.uint8)
picture = Image.fromarray(image.transpose(1, 2, 0))
chw = lambda p: np.asarray(p).transpose(2, 0, 1)

def jpeg(quality):
    to = io.BytesIO(); picture.save(to, "JPEG", quality=quality, subsampling=0)
    return chw(Image.open(to).convert("RGB"))
def blur(sigma):
    side = 2 * int(np.ceil(3 * sigma)) + 1
    blurred = F.gaussian_blur(torch.from_numpy(image).double(), [side, side], [sigma, sigma])
    return blurred.round().numpy().astype(np.uint8)
def depth(bits):
    most = 2 ** bits - 1; return np.floor(np.floor(image / 255 * most + 0.5) / most * 255 + 0.5).astype(np.uint8)
def resize(factor):
    small = max(1, int(np.floor(factor * SIDE + 0.5))); how = Image.Resampling.BILINEAR
    return chw(picture.resize((small, small), how).resize((SIDE, SIDE), how))

found = {"side": SIDE, "image": image, "grey": chw(picture.convert("L").convert("RGB"))}
found |= {f"jpeg {q}": jpeg(q) for q in (1, 10, 75)} | {f"blur {s}": blur(s) for s in (0.5, 2.0)}
found |= {f"bit-depth {b}": depth(b) for b in (1, 5)} | {f"resize {f}": resize(f) for f in (0.1, 0.5, 0.8)}
plain = {k: v if k == "side" else v.ravel().tolist() for k, v in found.items()}
pathlib.Path(__file__).with_name("images.json").write_text(json.dumps(plain, separators=(",", ":")) + "\n")
