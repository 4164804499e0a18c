"""skorch: the losses as criteria of a scikit-learn classifier."""

from typing import Any

from torch import Tensor

from steelyard.classes import class_weights, count_classes
from steelyard.integrations import needs
from steelyard.losses import CrossEntropyLoss

with needs("skorch", "skorch>=1.1"):
    import skorch

__all__ = ["NeuralNetClassifier"]


def softmax(logits: Tensor) -> Tensor:
    """A function with a name, which can be pickled."""
    return logits.softmax(1)


class NeuralNetClassifier(skorch.NeuralNetClassifier):  # type: ignore[misc]
    """``skorch.NeuralNetClassifier`` for modules that give logits and losses of this library.

    Two things differ. ``predict_proba`` gives the softmax of the logits: skorch applies it for
    PyTorch's own ``CrossEntropyLoss`` alone, and hands out the logits themselves for any other
    criterion. And what a loss derives from the training data is taken from the rows of the
    ``fit``, so that inside a cross-validation it is that of the fold:

    - ``criterion__weight="balanced"``, or another scheme of :func:`steelyard.class_weights`
    - ``criterion__class_counts="train"``, for the losses that need counts

    With class weights the softmax is that of the re-weighted classes, which is what the decision
    follows; ``steelyard.unweight_logits(logits, net.criterion_.weight).softmax(1)`` are the
    probabilities in the data.

    Args:
        module: a module, or its class, that gives logits (N, C).
        *args: as for skorch.
        criterion: a loss of this library, or its class with its keywords as ``criterion__…``.
        predict_nonlinearity: what makes probabilities of logits.
        **kwargs: as for skorch; ``classes`` says how many classes there are where the training
            data may lack one.

    Example:
        >>> from steelyard.integrations.skorch import NeuralNetClassifier
        >>> x, y = torch.randn(100, 4).numpy(), torch.arange(100).numpy() // 90
        >>> net = NeuralNetClassifier(
        ...     torch.nn.Linear(4, 2), criterion__weight="balanced", max_epochs=1, verbose=0)
        >>> net.fit(x, y).criterion_.weight
        tensor([0.5556, 5.0000])
    """

    def __init__(
        self,
        module: Any,
        *args: Any,
        criterion: Any = CrossEntropyLoss,
        predict_nonlinearity: Any = softmax,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            module,
            *args,
            criterion=criterion,
            predict_nonlinearity=predict_nonlinearity,
            **kwargs,
        )

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> "NeuralNetClassifier":  # noqa: N803
        """Count the classes, then initialise and train; see skorch."""
        self._count(X, y)
        super().fit(X, y, **fit_params)
        return self

    def partial_fit(
        self,
        X: Any,  # noqa: N803
        y: Any = None,
        classes: Any = None,
        **fit_params: Any,
    ) -> "NeuralNetClassifier":
        """Train on; what the loss derives from the data stays that of the first call."""
        if not self.initialized_:
            self._count(X, y)
        super().partial_fit(X, y, classes=classes, **fit_params)
        return self

    def get_params_for(self, prefix: str) -> dict[str, Any]:
        """The keywords of a component, those of the criterion read from the training data."""
        keywords: dict[str, Any] = super().get_params_for(prefix)
        if prefix != "criterion":
            return keywords
        if keywords.get("class_counts") == "train":
            keywords["class_counts"] = self.class_counts_
        if isinstance(keywords.get("weight"), str):
            keywords["weight"] = class_weights(self.class_counts_, keywords["weight"])
        return keywords

    def _count(self, X: Any, y: Any) -> None:  # noqa: N803
        wanted = super().get_params_for("criterion")
        if wanted.get("class_counts") == "train" or isinstance(wanted.get("weight"), str):
            num_classes = None if self.classes is None else len(self.classes)
            self.class_counts_ = count_classes(X if y is None else y, num_classes)
