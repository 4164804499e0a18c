"""Candidates and their draws: equal budgets, defaults first, options that can be pasted."""

import numpy as np
import pytest
import torch

import steelyard as sy
from steelyard.compare.candidates import (
    ALWAYS,
    CANDIDATES,
    DEFAULT,
    build_loss,
    candidate,
    choose,
)
from steelyard.compare.code import Told, python_lines
from steelyard.compare.repairs import undo
from steelyard.compare.study import Range, StudyError
from steelyard.compare.tables.draws import SHARED, draw_trials
from steelyard.compare.tables.study import Study

NOT_STACKED = {"SymmetricCrossEntropyLoss"}  # its tail branches on its two parameters


def test_every_public_loss_is_a_candidate():
    public = {name for name in sy.losses.__all__ if name.endswith("Loss")}
    softmax = {name for name in public if issubclass(getattr(sy, name), sy.SoftmaxLoss)}
    assert {item.loss for item in CANDIDATES} == softmax - {"SoftmaxLoss"} - NOT_STACKED, (
        "a Candidate in compare/candidates.py, or a name in NOT_STACKED and in docs/compare.md"
    )


def test_every_candidate_gets_the_same_budget():
    trials = draw_trials(DEFAULT, 3, 8)
    names = [trial.candidate for trial in trials]
    assert {names.count(name) for name in DEFAULT} == {8}


def test_draws_share_learning_rate_decay_and_smoothing_across_candidates():
    trials = draw_trials(DEFAULT, 0, 8)
    for k in range(8):
        shared = {
            tuple(trial.options[r.name] for r in SHARED) for trial in trials if trial.draw == k
        }
        assert len(shared) == 1


def test_draw_0_is_the_published_recipe():
    (trial,) = draw_trials(["ldam-drw"], 9, 1)
    assert trial.options == {
        "learning_rate": 0.005,
        "weight_decay": 0.01,
        "label_smoothing": 0.0,
        "max_margin": 0.5,
        "scale": 30.0,
    }


def test_draws_differ_between_seeds_and_repeat_for_one():
    assert draw_trials(DEFAULT, 0, 4) == draw_trials(DEFAULT, 0, 4)
    assert draw_trials(DEFAULT, 0, 4)[1].options != draw_trials(DEFAULT, 1, 4)[1].options


def test_draws_fill_the_space_more_evenly_than_chance():
    rates = [t.options["learning_rate"] for t in draw_trials(["cross-entropy"], 0, 17)[1:]]
    low, high = np.log(1e-3), np.log(3e-2)
    cells = np.floor(8 * (np.log(rates) - low) / (high - low)).astype(int)
    assert set(cells) == set(range(8))


@pytest.mark.parametrize("item", CANDIDATES, ids=lambda item: item.name)
def test_ranges_hold_their_default_and_their_ends_build_a_loss(item):
    counts = np.array([50, 10, 2])
    for r in (*SHARED, *item.space):
        assert r.low <= r.default <= r.high
    for u in (0.0, 0.5, 0.999):
        options = {r.name: r.at(u) for r in (*SHARED, *item.space)}
        loss = build_loss(item, options, counts, start=1)
        assert torch.isfinite(loss(torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 0])))


@pytest.mark.parametrize("item", CANDIDATES, ids=lambda item: item.name)
def test_the_lines_to_paste_run_and_are_the_loss_that_was_trained(item):
    options = {r.name: r.at(0.7) for r in (*SHARED, *item.space)}
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 2)
    scope = {"train_labels": labels, "epochs": 10, "features": 4, "classes": 3}
    logits, target = torch.randn(62, 3, dtype=torch.float64), labels
    scope |= {"logits": logits, "validation_logits": logits, "validation_labels": labels}
    costs = [[0, 1, 1], [5, 0, 5], [20, 20, 0]]
    lines = python_lines(item, options, Told("# trained", "macro_f1", costs))
    exec(lines, scope)
    pasted, trained = scope["loss"], build_loss(item, options, np.array([50, 10, 2]), start=8)
    for epoch in (0, 9):
        if item.reweighted:
            pasted.set_epoch(epoch)
            trained.set_epoch(epoch)
        torch.testing.assert_close(
            pasted(logits, target), trained(logits, target), atol=1e-6, rtol=1e-6
        )
    moved = logits
    if item.tuned:
        moved = logits + sy.tune_biases(logits, labels, "macro_f1")
    elif item.by_costs:
        moved = -scope["probabilities"] @ torch.tensor(costs).double()
    elif item.post_hoc:
        moved = logits - options["tau"] * torch.tensor([50, 10, 2]).double().div(62).log()
    assert torch.equal(scope["decision"], moved.argmax(1))
    back = undo(item, trained, [50, 10, 2])
    data_mix = logits if back is None else back(logits)
    expected = (data_mix / scope["temperature"]).softmax(1)
    torch.testing.assert_close(scope["probabilities"], expected, atol=1e-6, rtol=1e-5)
    assert ("CosineLinear" in lines) == (item.head == "cosine")


def lines_of(name, *told):
    item = candidate(name)
    return python_lines(item, {r.name: r.at(0.7) for r in (*SHARED, *item.space)}, Told(*told))


def test_the_lines_name_the_classes():
    def comment(*classes):
        first = lines_of("balanced-softmax", "#", "macro_f1", None, classes).splitlines()[1]
        return first if first.startswith("# classes") else None

    assert comment("honest", "fraud") == "# classes: 0 'honest', 1 'fraud'"
    assert comment("0", "1", "2") is None  # positions have no other name
    assert comment("1", "2") == "# classes: 0 '1', 1 '2'"
    assert comment(*"abcdefghijk").endswith("8 'i', 9 'j', …")
    assert comment(*"abcdefghij").endswith("8 'i', 9 'j'")
    assert comment("a\nimport os", "b" * 31) == f"# classes: 0 'a\\nimport os', 1 '{'b' * 29}…'"


def test_the_lines_of_a_decision_for_f1_name_the_class():
    tuned = "biases = sy.tune_biases(validation_logits, validation_labels, "
    lines = lines_of("tuned-decision", "#", "f1", None, ("fraud", "honest"), 0)
    score = "lambda confusion: sy.metrics.f1(confusion, positive=0)"
    assert f"{tuned}{score})  # F1 of 'fraud'\n" in lines
    assert f"{tuned}\"f1\")  # F1 of '1'\n" in lines_of("tuned-decision", "#", "f1")
    assert f'{tuned}"macro_f1")\n' in lines_of("tuned-decision", "#", "macro_f1")


def test_the_lines_of_costs_say_where_two_classes_part():
    def threshold(costs, positive):
        lines = lines_of("expected-cost", "#", "mean_cost", costs, (), positive)
        return lines.rpartition("decision = sy.decide(probabilities, costs)")[2]

    assert threshold([[0, 1], [100, 0]], 1) == "  # '1' above the threshold 1/(1 + 100) = 0.0099"
    assert threshold([[0, 1], [100, 0]], 0) == "  # '0' above the threshold 100/(100 + 1) = 0.99"
    # What is right may cost or earn: a false alarm costs 3 more here, and a miss 8.
    assert threshold([[-1, 2], [10, 2]], 1) == "  # '1' above the threshold 3/(3 + 8) = 0.27"
    assert threshold([[0, 1, 1], [5, 0, 5], [20, 20, 0]], 1) == ""


def test_scales_of_ranges():
    assert Range("x", 1, 100, 1, "log").at(0.5) == 10
    assert Range("x", 0, 0.2, 0, "half").at(0.4) == 0
    assert Range("x", 0, 0.2, 0, "half").at(0.75) == 0.1
    assert Range("x", 0.9, 0.999, 0.9, "complement").at(0.5) == 0.99
    assert Range("x", -1, 4, 1).at(0.2) == 0


def test_the_baselines_are_always_there_and_simplest_first():
    assert choose(["focal"]) == (*ALWAYS, "focal")
    assert choose(["vs", "focal"])[-2:] == ("focal", "vs")
    assert choose(None) == DEFAULT


def test_an_unknown_loss_is_refused_with_the_nearest_name():
    with pytest.raises(StudyError, match=r"no loss called 'fokal'\. Did you mean focal\? Choose"):
        candidate("fokal")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": 0}, "epochs is 0; it must be a whole number, at least 1"),
        ({"seeds": [1, 2]}, r"seeds is \[1, 2\]; it must be a whole number"),
        ({"hidden": 3.5}, r"hidden is 3\.5; it must be a whole number"),
        ({"first_seed": "x"}, "first_seed is 'x'; it must be a whole number, at least 0"),
        ({"validation": None}, "validation is None; it is a share of the rows"),
        ({"at": "x"}, "at is 'x'; it is a precision or a recall"),
        ({"network": ["small"]}, r"network is \['small'\]; choose from: small, standard, large"),
        ({"draws": -1}, "draws is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"test": 1.5}, "test is 1.5; it is a share of the rows"),
        ({"test": 0.5, "validation": 0.5}, "leave no rows to train on"),
        ({"select": "auc"}, "select is 'auc'; choose from: balanced_accuracy"),
        ({"dtype": "bf16"}, "dtype is 'bf16'; choose 'float32'"),
    ],
)
def test_impossible_options_are_refused(options, text):
    with pytest.raises(StudyError, match=text):
        Study(("cross-entropy",), **options)


def test_the_list_has_every_candidate_with_what_it_tunes(capsys):
    from steelyard.cli import main

    assert main(["compare", "--list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if "  " in line}
    for item in CANDIDATES:
        assert item.loss in rows[item.name]
        assert all(tuned.name in rows[item.name] for tuned in item.space)
