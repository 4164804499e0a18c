"""What a data set's classes are: how often each occurs, and the weights that follow from it."""

from steelyard.classes.counting import count_classes
from steelyard.classes.counts import ClassCounts, ClassGroups
from steelyard.classes.given import ClassCountsLike, as_class_counts
from steelyard.classes.weights import class_weights, pos_weight

__all__ = [
    "ClassCounts",
    "ClassCountsLike",
    "ClassGroups",
    "as_class_counts",
    "class_weights",
    "count_classes",
    "pos_weight",
]
