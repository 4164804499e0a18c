"""Losses as criteria inside scikit-learn: probabilities, cross-validation, pipelines, clones."""

import pickle
from functools import partial

import numpy as np
import pytest
import skorch
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.helper import predefined_split
from table import TABLE, C

import steelyard as sy
from steelyard.integrations.skorch import NeuralNetClassifier


def data(counts=(160, 30, 10), seed=0):
    """Overlapping clouds of three classes, in float32."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    x = rng.normal(size=(len(y), 2)) + 1.5 * np.eye(len(counts), 2)[y]
    order = rng.permutation(len(y))
    return x[order].astype(np.float32), y[order]


def net(criterion=sy.FocalLoss, base=NeuralNetClassifier, **keywords):
    torch.manual_seed(0)
    settings = {"max_epochs": 2, "lr": 0.1, "verbose": 0, "train_split": None}
    settings |= {"module__in_features": 2, "module__out_features": 3}
    return base(torch.nn.Linear, criterion=criterion, **settings | keywords)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
def test_every_loss_gives_probabilities(row):
    x, y = data((20, 8, 4, 3, 3))
    arguments = {f"criterion__{name}": value for name, value in row.arguments.items()}
    fitted = net(row.module, module__out_features=C, **arguments).fit(x, y)
    found = fitted.predict_proba(x)
    logits = fitted.module_(torch.from_numpy(x)).detach().numpy().astype(np.float64)
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_array_equal(fitted.predict(x), logits.argmax(1))


def test_skorch_alone_gives_logits():
    x, y = data()
    found = net(base=skorch.NeuralNetClassifier).fit(x, y).predict_proba(x)
    assert (found < 0).any()
    assert abs(found.sum(1) - 1).max() > 0.1


def test_cross_validation_of_a_pipeline_scores_probabilities():
    x, y = data()
    model = make_pipeline(StandardScaler(), net(criterion__weight="balanced", max_epochs=20))
    losses = -cross_val_score(model, x, y, scoring="neg_log_loss", cv=3, error_score="raise")
    assert (losses < np.log(3)).all()  # better than no idea
    plain = make_pipeline(StandardScaler(), net(max_epochs=20))
    scores = [
        cross_val_score(m, x, y, scoring="balanced_accuracy", cv=3).mean() for m in (plain, model)
    ]
    assert scores[1] > scores[0]


def test_a_grid_search_reaches_the_loss():
    x, y = data()
    search = GridSearchCV(net(), {"criterion__gamma": [0.0, 2.0]}, scoring="neg_log_loss", cv=2)
    assert search.fit(x, y).best_params_["criterion__gamma"] in (0.0, 2.0)
    assert search.best_estimator_.criterion_.form.parameter in (0.0, 2.0)


def test_weights_and_counts_are_those_of_the_fold():
    x, y = data()
    model = net(sy.CrossEntropyLoss, criterion__weight="balanced")
    wanted = len(y) / (3 * np.bincount(y))
    np.testing.assert_allclose(model.fit(x, y).criterion_.weight.numpy(), wanted, rtol=1e-6)
    keep = (y != 0) | (np.arange(len(y)) % 2 == 0)
    wanted = keep.sum() / (3 * np.bincount(y[keep]))
    refitted = clone(model).fit(x[keep], y[keep])
    np.testing.assert_allclose(refitted.criterion_.weight.numpy(), wanted, rtol=1e-6)
    adjusted = net(sy.LogitAdjustedLoss, criterion__class_counts="train").fit(x, y)
    np.testing.assert_allclose(
        adjusted.criterion_.form.bias.numpy(), np.log(np.bincount(y) / len(y)), rtol=1e-12
    )


def test_a_class_that_a_fold_lacks_is_counted_with_classes():
    x, y = data((30, 10))
    model = net(sy.LDAMLoss, criterion__class_counts="train", classes=[0, 1, 2])
    assert model.fit(x, y).class_counts_.counts.tolist() == [30, 10, 0]


def test_unweighted_logits_are_the_probabilities_in_the_data():
    x, y = data((400, 150, 60))
    full_batch = {"max_epochs": 200, "lr": 1.0, "batch_size": -1}
    fitted = net(sy.CrossEntropyLoss, criterion__weight="balanced", **full_batch).fit(x, y)
    logits = torch.as_tensor(fitted.forward(x))
    undone = sy.unweight_logits(logits, fitted.criterion_.weight).softmax(1).numpy()
    true = LogisticRegression(C=1e6).fit(x, y).predict_proba(x)
    assert log_loss(y, undone) < log_loss(y, true) + 0.01
    assert log_loss(y, fitted.predict_proba(x)) > log_loss(y, true) + 0.1


def test_partial_fit_counts_once_and_datasets_are_counted():
    x, y = data()
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    model = net(sy.CrossEntropyLoss, criterion__weight="balanced")
    model.partial_fit(x, y).partial_fit(x[:50], y[:50])
    assert model.class_counts_.counts.tolist() == [160, 30, 10]
    model.set_params(train_split=predefined_split(dataset)).fit(dataset, None)
    assert model.class_counts_.counts.tolist() == [160, 30, 10]


def test_it_is_pickled_and_takes_another_nonlinearity():
    x, y = data()
    fitted = net(criterion__gamma=1.0).fit(x, y)
    copied = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copied.predict_proba(x), fitted.predict_proba(x))
    log_p = net(predict_nonlinearity=partial(torch.log_softmax, dim=1)).fit(x, y).predict_proba(x)
    assert (log_p < 0).all()
