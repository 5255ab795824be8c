"""Writes pictures.npz: tiny pictures resized by Pillow, and the same as JPEG and PNG files with the
pixels that Pillow decodes from them.

    python make.py        (Pillow 13.0, numpy)
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

rng = np.random.default_rng(0)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SIZES = [(16, 11), (40, 27), (31, 64), (5, 3)]  # width, height: smaller, larger, mixed, much smaller


def scene(width, height):
    """Gradients, an edge and noise, so that rounding and overshoot both show."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [255 * x / width, 255 * y / height, 255 * ((x // 5 + y // 7) % 2)]
    noise = rng.integers(-40, 40, (height, width, 3))
    return np.clip(np.stack(planes, -1) + noise, 0, 255).astype(np.uint8)


def smooth(width, height):
    """What photographs are like: JPEG keeps it well."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 120 * np.sin(x / 9 + c) * np.cos(y / 7 - c) for c in range(3)]
    return np.stack(planes, -1).astype(np.uint8)


arrays = {}
rgb = Image.fromarray(scene(33, 21))
for mode in ["RGB", "L"]:
    source = rgb.convert(mode)
    arrays[f"resize/{mode}/source"] = np.asarray(source)
    for width, height in SIZES:
        for name, kind in FILTERS.items():
            resized = source.resize((width, height), kind)
            arrays[f"resize/{mode}/{name}/{width}x{height}"] = np.asarray(resized)

picture = Image.fromarray(smooth(45, 30))
files = {
    "jpeg-420": (picture, dict(format="JPEG", quality=90, subsampling=2)),
    "jpeg-422": (picture, dict(format="JPEG", quality=90, subsampling=1)),
    "jpeg-444": (picture, dict(format="JPEG", quality=90, subsampling=0)),
    "jpeg-progressive": (picture, dict(format="JPEG", quality=90, progressive=True)),
    "jpeg-gray": (picture.convert("L"), dict(format="JPEG", quality=90)),
    "jpeg-cmyk": (picture.convert("CMYK"), dict(format="JPEG", quality=90)),
    "png-rgb": (picture, dict(format="PNG")),
    "png-gray": (picture.convert("L"), dict(format="PNG")),
    "png-palette": (picture.quantize(16), dict(format="PNG")),
    "png-bilevel": (picture.convert("1"), dict(format="PNG")),
    "png-alpha": (Image.merge("RGBA", [*picture.split(), picture.convert("L")]), dict(format="PNG")),
}
for name, (image, options) in files.items():
    buffer = io.BytesIO()
    image.save(buffer, **options)
    arrays[f"file/{name}"] = np.frombuffer(buffer.getvalue(), np.uint8)
    arrays[f"pixels/{name}"] = np.asarray(Image.open(buffer).convert("RGB"))

np.savez_compressed(Path(__file__).parent / "pictures.npz", **arrays)
