"""Lightning: accumulation, DDP, clipping, and the scores of an epoch."""

from types import SimpleNamespace

import pytest
import torch
import trainer_cases
from ranks import run_ranks
from torch import nn
from torch.utils.data import DataLoader
from trainer_cases import C, Stream, lightning_module, lightning_trainer, micro_batches

import steelyard as sy
from steelyard.integrations.lightning import ClassScores, ExactMeanCallback

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


def test_one_step_is_that_of_the_big_batch():
    trainer_cases.lightning_world()


def test_one_step_over_two_ranks_is_that_of_the_big_batch():
    run_ranks(trainer_cases.lightning_world, 2)


def fit(module):
    loader = DataLoader(Stream(micro_batches(2, 0)), batch_size=None)
    lightning_trainer(callbacks=[ExactMeanCallback()]).fit(module, loader)


def test_modules_that_it_cannot_serve_are_refused():
    with pytest.raises(ValueError, match="Classifier has 0 ExactMean among its submodules"):
        fit(lightning_module(exact=False))
    module = lightning_module(exact=True)
    module.another = sy.ExactMean(sy.FocalLoss())
    with pytest.raises(ValueError, match="Classifier has 2 ExactMean among its submodules"):
        fit(module)
    module = lightning_module(exact=True)
    module.automatic_optimization = False
    with pytest.raises(ValueError, match="Classifier optimises by hand: call divide_grads_"):
        fit(module)


def test_a_strategy_that_keeps_its_gradients_is_refused():
    trainer = SimpleNamespace(strategy=SimpleNamespace(handles_gradient_accumulation=True))
    with pytest.raises(ValueError, match="SimpleNamespace keeps gradients to itself"):
        ExactMeanCallback().on_fit_start(trainer, lightning_module(exact=True))


def test_scores_leave_out_ignored_targets_and_what_is_undefined():
    scores = ClassScores(C)
    logits = torch.eye(3)[[0, 0, 1]]
    scores._count(None, None, {"logits": logits, "target": torch.tensor([0, 1, -100])})
    assert scores.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    logged = {}
    module = nn.Linear(1, 1)
    module.device = torch.device("cpu")
    module.log_dict = lambda numbers, **_: logged.update(numbers)
    scores.on_test_epoch_end(None, module)
    assert logged == {
        "test_balanced_accuracy": 0.5,
        "test_macro_f1": pytest.approx((2 / 3 + 0) / 2),
        "test_worst_class_recall": 0.0,
        "test_recall/0": 1.0,
        "test_recall/1": 0.0,
        "test_precision/0": 0.5,
    }
    scores.on_test_epoch_start(None, module)
    assert scores.confusion.sum() == 0


def test_scores_of_pixels():
    scores = ClassScores(2)
    logits, target = torch.randn(2, 2, 4, 4), torch.randint(2, (2, 4, 4))
    scores._count(None, None, {"logits": logits, "target": target})
    right = (logits.argmax(1) == target).sum()
    assert scores.confusion.trace() == right
    assert scores.confusion.sum() == 32


def test_errors_say_what_to_return():
    with pytest.raises(ValueError, match="2 names for 3 classes: one for each"):
        ClassScores(3, names=["a", "b"])
    with pytest.raises(TypeError, match="Linear: the evaluation step returned Tensor, ClassScores"):
        ClassScores(3)._count(None, nn.Linear(1, 1), torch.zeros(1))
