"""Whether cross-entropy was still learning, by the curve of its training loss."""

import numpy as np
import pytest

from steelyard.compare.learning import said_of_learning

COUNTS = [80, 16, 4]
GUESS = -sum(n / 100 * np.log(n / 100) for n in COUNTS)  # the loss of the class frequencies


def cell(losses, epochs=None, smoothing=None):
    options = {"learning_rate": 0.1} | ({} if smoothing is None else {"label_smoothing": smoothing})
    return {
        "status": "done",
        "chosen": 2,
        "trials": [{"draw": 2, "options": options}],
        "curve": {"epoch": epochs or list(range(1, len(losses) + 1)), "train_loss": losses},
    }


def said(*cells, counts=COUNTS):
    return said_of_learning({"seeds": [{"status": "failed"}, *cells]}, counts)


def late(share, learnt=0.3):
    """A training of six epochs of which the second half has this share of what was learnt."""
    half = GUESS - (1 - share) * learnt
    return cell([0.8, 0.7, half, 0.5, 0.4, GUESS - learnt])


def test_a_training_that_was_cut_short_is_said_to_be():
    assert said(late(0.4), late(0.5)) == [
        "Cross-entropy was still learning when its 6 epochs ended: by its training loss 45 % of "
        "what it learnt came in their second half. Another loss may only learn faster: repeat the "
        "study with twice the epochs before you believe a difference."
    ]


@pytest.mark.parametrize(("share", "told"), [(0.301, True), (0.299, False), (0.0, False)])
def test_three_tenths_in_the_second_half_decide(share, told):
    assert bool(said(late(share), late(share))) == told


def test_seeds_count_by_how_much_they_learnt():
    assert said(late(0.4, learnt=0.03), late(0.1, learnt=0.3)) == []


def test_what_did_not_reach_the_class_frequencies_by_half_time_learnt_all_of_it_late():
    assert "100 % of what it learnt" in said(late(1.6, learnt=0.02))[0]


def test_without_a_loss_below_that_of_the_class_frequencies_nothing_is_known():
    assert said(late(0.5, learnt=-0.1)) == []
    assert said(cell([0.9])) == []  # one epoch has no halves
    assert said() == []


def test_smoothed_targets_have_a_loss_of_their_own():
    """Their entropy is in the loss to the end: without it, this looks like little learnt, late."""
    smooth = [0.9 * n / 100 + 0.1 / 3 for n in COUNTS]
    guess = -sum(n * np.log(n) for n in smooth)
    losses = [guess, GUESS - 0.03, GUESS - 0.06]
    assert said(cell(losses, smoothing=0.0))
    assert said(cell(losses, smoothing=0.1)) == []


def test_a_curve_of_some_epochs_and_a_class_without_training_rows():
    sparse = cell([0.7, 0.5, 0.45, 0.3], epochs=[1, 21, 40, 60])  # half of 60 is passed at 40
    # ln 2 − 0.3 was learnt, and 0.15 of it after epoch 40
    assert "its 60 epochs ended: by its training loss 38 %" in said(sparse, counts=[1, 1, 0])[0]
