"""The examples run as scripts, and what they print bears out what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NUMBER = r"-?\d+\.\d+"


def printed_by(script: str) -> str:
    """What a script prints; it must end well and warn of nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # the other core is another worker's
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def numbers_of(row: str, text: str) -> list[float]:
    """The numbers with a point in the first line that begins with a name."""
    line = re.search(rf"^ *{re.escape(row)}  +(.*)$", text, re.MULTILINE)
    assert line, f"no row {row!r} in\n{text}"
    return [float(number) for number in re.findall(NUMBER, line.group(1))]


@pytest.fixture(scope="module")
def cats_and_dogs() -> dict[str, dict[str, list[float]]]:
    """Part of the study, then row: accuracy on cats, on dogs, their mean, the area."""
    noise, signal = printed_by("cat_and_dog.py").split("Features that carry signal")
    rows = ("weight [1, 1]", "weight [1, 10]", "weight [1, 1], then shifted")
    return {
        part: {row: numbers_of(row, text) for row in rows}
        for part, text in (("noise", noise), ("signal", signal))
    }


def test_weights_only_move_the_operating_point_of_noise(cats_and_dogs):
    rows = cats_and_dogs["noise"]
    cats, dogs, _, _ = rows["weight [1, 1]"]
    assert cats > 0.99
    assert dogs < 0.01
    cats, dogs, _, _ = rows["weight [1, 10]"]
    assert 0.3 < dogs < 0.7
    assert 0.3 < cats < 0.7
    for _, _, mean, area in rows.values():
        # 0.009 is the standard error of the area between 2000 and 2000 animals.
        assert abs(mean - 0.5) < 0.03
        assert abs(area - 0.5) < 0.03


def test_weights_find_the_dogs_where_there_is_signal(cats_and_dogs):
    rows = cats_and_dogs["signal"]
    plain, weighted = rows["weight [1, 1]"], rows["weight [1, 10]"]
    shifted = rows["weight [1, 1], then shifted"]
    assert weighted[0] < plain[0]
    assert weighted[1] > plain[1] + 0.5
    assert weighted[2] > plain[2] + 0.2
    # No decision is better than the one of the densities: Φ(0.5 · √10 / 2) = 0.785, area 0.868.
    assert 0.74 < weighted[2] < 0.80
    assert 0.83 < weighted[3] < 0.89
    assert abs(weighted[3] - plain[3]) < 0.02
    assert abs(shifted[2] - weighted[2]) < 0.02
    assert shifted[3] == plain[3]


def test_focal_alone_is_no_remedy_on_long_tailed_digits():
    text = printed_by("digits_focal.py")
    assert "[100, 64, 41, 27, 17, 11, 7, 4, 3, 2], ratio 50" in text
    plain, focal, weighted, adjusted = (
        numbers_of(row, text)
        for row in (
            "cross-entropy",
            "focal, gamma 2",
            "focal, gamma 2, weighted",
            "logit-adjusted",
        )
    )
    assert abs(focal[0] - plain[0]) < plain[1]
    assert plain[0] < weighted[0] < adjusted[0]
    assert adjusted[0] > plain[0] + 0.05
    assert plain[2] + 0.2 < adjusted[2]


def test_segmentation_finds_the_specks_and_ignores_the_unknown():
    text = printed_by("segmentation.py")
    plain, weighted, focal = (
        numbers_of(row, text) for row in ("cross-entropy", "weighted", "weighted, focal")
    )
    recall, precision, overlap = 6, 7, 8  # of the specks
    assert plain[recall] < 0.1
    for found in (weighted, focal):
        assert found[recall] > 0.5
        assert found[precision] < 0.9
        assert found[overlap] > plain[overlap] + 0.3
    loss, nans = re.search(rf"is still ({NUMBER}), and (\d+) gradients are NaN", text).groups()
    assert float(loss) > 0
    assert int(nans) == 0


def test_several_labels_of_which_some_are_missing():
    text = printed_by("multilabel.py")
    assert "Labels that are there, of those that are known: 0.8%, 1.7%" in text
    rows = ("BCE, missing as absent", "BCE", "BCE, pos_weight", "asymmetric", "logit-adjusted")
    absent, plain, weighted, asymmetric, adjusted = (numbers_of(row, text) for row in rows)
    precision, recall, area = range(3)
    # Missing labels that are taken for absent cost recall, and the order too.
    assert absent[recall] < plain[recall] - 0.1
    assert absent[area] < plain[area]
    # The others move the decision: more is found, more of it is wrong.
    for moved in (weighted, asymmetric, adjusted):
        assert moved[recall] > plain[recall] + 0.1
        assert moved[precision] < plain[precision] - 0.1
    assert abs(weighted[area] - plain[area]) < 0.02


def test_a_dice_per_image_does_not_see_false_alarms_on_images_without_the_class():
    printed = printed_by("segmentation_dice.py")
    per_image, per_batch, both = (
        numbers_of(row, printed)
        for row in ("Dice per image", "Dice per batch", "Dice and cross-entropy")
    )
    assert min(per_image[0], per_batch[0], both[0]) > 0.9
    assert per_image[1] > 10
    assert per_batch[1] < 5
    assert both[1] < per_image[1] / 2
    assert "left out" in printed
