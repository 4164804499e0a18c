"""The lines of Python that do what a candidate did: before the training, and at prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steelyard.compare.repairs import undo_line
from steelyard.compare.study import Candidate


@dataclass(frozen=True)
class Told:
    """What the lines need to know of a study.

    Attributes:
        recipe: a comment on the training.
        tuned_for: the score that a tuned decision is for, as an expression.
        costs: (C, C) of each decision, row by true class.
        ignore_index: the class of pixels or tokens that count nowhere; None if every row has one.
    """

    recipe: str
    tuned_for: str = '"balanced_accuracy"'
    costs: Sequence[Sequence[float]] | None = None
    ignore_index: int | None = None

    def ignoring(self, default: int | None = -100) -> dict[str, str]:
        """The argument for what is ignored, where it is not a function's default."""
        if self.ignore_index in (None, default):
            return {}
        return {"ignore_index": str(self.ignore_index)}


def python_lines(item: Candidate, options: Mapping[str, float], told: Told) -> str:
    """The lines that train with these options and then predict.

    They take `train_labels`, and of the trained network `validation_logits` (m, C),
    `validation_labels` (m,) and `logits` (n, C); they leave `probabilities` and `decision`.
    """
    return "\n".join([*_before(item, options, told), told.recipe, *_after(item, options, told)])


def _before(item: Candidate, options: Mapping[str, float], told: Told) -> list[str]:
    own = {} if item.post_hoc else {r.name: options[r.name] for r in item.space}
    power = own.pop("power", None)
    if options.get("label_smoothing"):
        own["label_smoothing"] = options["label_smoothing"]
    lines = ["import steelyard as sy"]
    even = item.sampling == "balanced" and not item.deferred
    if item.counts or item.weighted or item.reweighted or even or (item.post_hoc and item.space):
        counted = _call("count_classes", {}, "train_labels", **told.ignoring(default=None))
        lines.append(f"class_counts = {counted}")
    if item.weighted:
        lines.append(f'weight = sy.class_weights(class_counts, "power", power={power:.12g})')
    given = {"weight": "weight"} if item.weighted else {}
    if item.counts:
        given["class_counts"] = "class_counts"
    lines.append(f"loss = {_call(item.loss, own, **given, **told.ignoring())}")
    if item.head == "cosine":
        lines.append("head = sy.CosineLinear(features, classes)  # in place of the last nn.Linear")
    if item.sampling != "plain":
        when = "from epoch 4 * epochs // 5 on, " if item.deferred else ""
        lines.append(f"# {when}batches in which every class is as frequent as any other")
    if item.sampling == "smote":
        lines.append("# and rows of rare classes are points between two of them: SMOTE")
    if item.reweighted:
        weight = 'sy.class_weights(class_counts, "effective")'
        lines.append(f"loss = sy.DeferredReweighting(loss, {weight}, start=4 * epochs // 5)")
        lines.append("# and loss.set_epoch(epoch) as each epoch begins")
    return lines


def _after(item: Candidate, options: Mapping[str, float], told: Told) -> list[str]:
    """Probabilities of the data's own class shares, and the decision."""
    validation, logits = (
        undo_line(item, options, name) for name in ("validation_logits", "logits")
    )
    lines = []
    if told.costs is not None and (item.by_costs or (item.tuned and "costs" in told.tuned_for)):
        rows = [f"[{', '.join(f'{cost:.12g}' for cost in row)}]" for row in told.costs]
        lines.append(f"costs = [{', '.join(rows)}]  # row: the true class; column: the decision")
    known = told.ignoring()
    fitted = _call("fit_temperature", {}, validation, "validation_labels", **known)
    lines += [
        f"temperature = {fitted}",
        f"probabilities = ({logits} / temperature).softmax(1)",
    ]
    if item.by_costs:
        decision = "sy.decide(probabilities, costs)"
    elif item.tuned:
        labelled = ("validation_logits", "validation_labels")
        lines.append(f"biases = {_call('tune_biases', {}, *labelled, told.tuned_for, **known)}")
        decision = "(logits + biases).argmax(1)"
    elif item.post_hoc:
        tau = f"tau={options['tau']:.12g}"
        decision = f"sy.adjust_logits(logits, class_counts, {tau}).argmax(1)"
    else:
        decision = "logits.argmax(1)"
    return [*lines, f"decision = {decision}"]


def _call(name: str, numbers: Mapping[str, float], *values: str, **expressions: str) -> str:
    arguments = [*values, *(f"{key}={value}" for key, value in expressions.items())]
    arguments += [f"{key}={value:.12g}" for key, value in numbers.items()]
    return f"sy.{name}({', '.join(arguments)})"
