"""Losses, class weights and honest comparisons for imbalanced classes in PyTorch."""

from steelyard import losses
from steelyard.classes import ClassCounts, class_weights, count_classes
from steelyard.distributed import ExactMean, step_denominator
from steelyard.explain import explain, explain_engine
from steelyard.heads import CosineLinear
from steelyard.losses import *  # noqa: F403
from steelyard.schedule import DeferredReweighting

__version__ = "0.1.0"

__all__ = [
    "ClassCounts",
    "CosineLinear",
    "DeferredReweighting",
    "ExactMean",
    "class_weights",
    "count_classes",
    "explain",
    "explain_engine",
    "step_denominator",
    *losses.__all__,
]
