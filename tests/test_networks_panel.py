"""Pictures of test images: what is in the files that the report shows."""

import base64
import io

import numpy as np
import pytest
import torch

from steelyard.compare.training.panel import panel


def opened(uri):
    image = pytest.importorskip("PIL.Image")
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(image.open(io.BytesIO(data)))


def test_classes_have_the_colours_of_the_legend():
    mask = torch.tensor([[0, 1, 2], [2, 255, 0]])
    said = np.array([[[0, 1, 1], [2, 0, 0]]], dtype=np.uint8)
    data = [(torch.arange(6.0).view(1, 2, 3), mask)]
    found = panel(data, np.array([0]), {"focal": said}, ["a", "b", "c"], 255)
    colors = [tuple(bytes.fromhex(color[1:])) for color in found["colors"]]
    assert len(set(colors)) == 3
    (shown,) = found["images"]
    target = opened(shown["target"])
    for row in range(2):
        for column in range(3):
            c = int(mask[row, column])
            assert tuple(target[row, column]) == (colors[c] if c < 3 else (150, 150, 150))
            expected = colors[said[0, row, column]]
            assert tuple(opened(shown["predictions"]["focal"])[row, column]) == expected
    assert opened(shown["image"])[..., 0].tolist() == [[0, 51, 102], [153, 204, 255]]


def test_what_is_no_image_has_no_picture():
    mask = torch.zeros(2, 3, dtype=torch.long)
    said = {"focal": np.zeros((1, 2, 3), dtype=np.uint8)}
    assert panel([(torch.zeros(5, 2, 3), mask)], np.array([0]), said, ["a", "b"], 255) is None
    assert panel([({"x": 1}, mask)], np.array([0]), said, ["a", "b"], 255) is None
    assert panel([], np.array([]), {}, ["a", "b"], 255) is None


def test_large_images_are_thinned():
    mask = torch.zeros(300, 200, dtype=torch.long)
    data = [(torch.zeros(1, 300, 200), mask)]
    found = panel(data, np.array([0]), {"f": np.zeros((1, 100, 67), dtype=np.uint8)}, ["a"], 255)
    assert opened(found["images"][0]["target"]).shape == (100, 67, 3)
