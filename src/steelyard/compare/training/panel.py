"""A few test images with their masks and what candidates made of them, small enough for a page."""

from __future__ import annotations

import base64
import colorsys
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steelyard.compare.training.batches import call, logits_of, moved, parted
from steelyard.compare.training.loading import Loader

IMAGES = 3
_SIDE = 128  # pixels, at most
_UNKNOWN = 255  # in maps: nobody labelled it, or it is the last class that a byte can hold
_GREY = (150, 150, 150)


@torch.no_grad()
def class_maps(
    network: nn.Module, loader: Loader, rows: np.ndarray, classes: int, device: str
) -> np.ndarray:
    """The predicted class of each pixel of some rows: (n, h, w) uint8, thinned to fit a page."""
    network.eval()
    (batch,) = loader([rows], -1)
    inputs, target = parted(moved(batch, device))
    said = logits_of(call(network, inputs), target, classes).argmax(1)
    kept: np.ndarray = _thinned(said).to(torch.uint8).cpu().numpy()
    return kept


def panel(
    dataset: Any,
    rows: np.ndarray,
    maps: Mapping[str, np.ndarray],
    names: Sequence[str],
    ignore_index: int,
) -> dict[str, Any] | None:
    """The images as PNG files in text; None where inputs are no images.

    Args:
        dataset: the test data.
        rows: which.
        maps: per candidate the predicted classes (n, h, w).
        names: of the classes.
        ignore_index: the class of pixels that count nowhere.
    """
    if len(names) >= _UNKNOWN or not maps:
        return None
    colors = [_color(c, len(names)) for c in range(len(names))]
    shown = []
    for place, row in enumerate(rows):
        inputs, target = parted(dataset[int(row)])
        image = inputs[0] if isinstance(inputs, tuple) else inputs
        if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] not in (1, 3):
            return None
        mask = _thinned(torch.as_tensor(target))
        known = torch.where(mask == ignore_index, _UNKNOWN, mask).to(torch.uint8).numpy()
        shown.append(
            {
                "row": int(row),
                "image": _png(_pixels(image)),
                "target": _png(_painted(known, colors)),
                "predictions": {
                    name: _png(_painted(each[place], colors)) for name, each in maps.items()
                },
            }
        )
    return {"colors": [f"#{bytes(color).hex()}" for color in colors], "images": shown}


def _thinned(maps: Tensor) -> Tensor:
    step = -(-max(maps.shape[-2:]) // _SIDE)
    return maps[..., ::step, ::step]


def _pixels(image: Tensor) -> np.ndarray:
    """(h, w, 3) uint8: its own range becomes 0 to 255, for nobody knows how it was normalised."""
    thin = _thinned(image.double())
    low, high = thin.min(), thin.max()
    scaled = (thin - low) / (high - low).clamp_min(1e-12) * 255
    found: np.ndarray = scaled.round().to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).numpy()
    return found


def _painted(classes: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    table = np.array([*colors, *[_GREY] * (_UNKNOWN + 1 - len(colors))], dtype=np.uint8)
    painted: np.ndarray = table[classes]
    return painted


def _color(c: int, classes: int) -> tuple[int, int, int]:
    """The first class, mostly background, is dark; the others share the hues."""
    if c == 0:
        return (40, 40, 48)
    red, green, blue = colorsys.hls_to_rgb((c - 1) / max(1, classes - 1), 0.6, 0.7)
    return round(255 * red), round(255 * green), round(255 * blue)


def _png(pixels: np.ndarray) -> str:
    """(h, w, 3) as a PNG file in a data URI."""
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in np.ascontiguousarray(pixels))

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    file = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines, 9))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(file).decode()
