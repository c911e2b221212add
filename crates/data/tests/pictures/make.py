"""Makes the pictures beside it, and what Pillow and torchvision make of them: `python make.py`.

They were made with Pillow 13.0.0 and torchvision 0.29.2. `kinds/NAME.ENDING` is a picture; if it is not `picture.png`
again, Pillow's pixels of it are in `expected/NAME.png`. `resized/FILTER-SIZE.png` is torchvision's `Resize` and
`CenterCrop` of `scaled.png`.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

HERE = Path(__file__).parent
for folder in ("kinds", "expected", "resized"):
    (HERE / folder).mkdir(exist_ok=True)


def photo(width, height, seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)


picture = photo(19, 13, 0)
picture.save(HERE / "picture.png", optimize=True)


def save(name, image=picture, **options):
    path = HERE / "kinds" / name
    image.save(path, **options)
    pixels = Image.open(path).convert("RGB")
    if np.array_equal(np.asarray(pixels), np.asarray(picture)):
        return
    pixels.save(HERE / "expected" / f"{path.stem}.png", optimize=True)


save("png.png", optimize=True)
save("palette.png", picture.convert("P"))
save("alpha.png", Image.merge("RGBA", (*picture.split(), picture.convert("L"))))
# Torchvision's loader does not turn pictures, either.
exif = Image.Exif()
exif[0x0112] = 6
save("jpeg-exif.jpg", subsampling=0, exif=exif)
save("grey-alpha.png", Image.merge("LA", (picture.convert("L"), picture.split()[0])))
save("palette-transparent.png", picture.quantize(16), transparency=3)
save("grey.png", picture.convert("L"))
save("black-and-white.png", picture.convert("1"))
save("ppm.ppm")
save("pgm.pgm", picture.convert("L"))
save("bmp.bmp")
save("gif.gif", picture.quantize(16))
save("ico.ico", picture.resize((16, 16)).convert("RGBA"), sizes=[(16, 16)])
save("tga.tga")
save("tga-rle.tga", picture.quantize(4).convert("RGB"), compression="tga_rle")
save("tiff.tiff")
save("tiff-lzw.tif", compression="tiff_lzw")
save("tiff-deflate.tif", picture.convert("L"), compression="tiff_adobe_deflate")
save("webp.webp", quality=80)
save("webp-lossless.webp", lossless=True)
save("dds.dds", picture.resize((20, 12)), pixel_format="DXT1")
save("qoi.qoi")
save("jpeg-444.jpg", subsampling=0)
save("jpeg-422.jpg", subsampling=1, restart_marker_blocks=1)
save("jpeg-420.jpg", subsampling=2)
# Colour at half the resolution, whose last block is padded.
for name, (width, height), subsampling in (("420", (22, 18), 2), ("422", (34, 9), 1), ("420-tall", (17, 20), 2)):
    half = ((height + 1) // 2, (width + 1) // 2, 3)
    noise = Image.fromarray(np.random.default_rng(9).integers(0, 256, half, np.uint8))
    save(f"jpeg-{name}-padded.jpg", noise.resize((width, height), Image.BILINEAR), subsampling=subsampling, quality=60)
save("jpeg-progressive.jpg", progressive=True)
save("jpeg-progressive-restart.jpg", progressive=True, subsampling=0, restart_marker_rows=1)
save("jpeg-grey.jpeg", picture.convert("L"))
save("jpeg-cmyk.jpg", picture.convert("CMYK"))
# Without Adobe's marker, inks are not inverted.
adobe = (HERE / "kinds" / "jpeg-cmyk.jpg").read_bytes()
at = adobe.index(b"\xff\xee")
plain = HERE / "kinds" / "jpeg-cmyk-plain.jpg"
plain.write_bytes(adobe[:at] + adobe[at + 2 + int.from_bytes(adobe[at + 2 : at + 4]) :])
Image.open(plain).convert("RGB").save(HERE / "expected" / "jpeg-cmyk-plain.png", optimize=True)

scaled = photo(37, 23, 1)
scaled = Image.fromarray(np.asarray(scaled) ^ np.asarray(photo(37, 23, 2)) & 63)
scaled.save(HERE / "scaled.png", optimize=True)
modes = InterpolationMode.NEAREST, InterpolationMode.BILINEAR, InterpolationMode.BICUBIC, InterpolationMode.LANCZOS
for mode in modes:
    for size in (1, 6, 22, 26):
        crop = CenterCrop(size)(Resize(size, interpolation=mode)(scaled))
        crop.save(HERE / "resized" / f"{mode.value}-{size}.png", optimize=True)
    # As timm's `crop_pct`, and with both sides resized.
    for name, resize in [("crop", Resize(int(14 / 0.875), mode)), ("square", Resize((14, 14), mode))]:
        CenterCrop(14)(resize(scaled)).save(HERE / "resized" / f"{mode.value}-{name}-14.png", optimize=True)
CenterCrop(14)(scaled).save(HERE / "resized" / "none-14.png", optimize=True)
