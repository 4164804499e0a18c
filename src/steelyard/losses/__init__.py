"""The losses, each as a function and as an ``nn.Module``, under one contract.

Options that every loss takes:

* ``weight`` (None): class weights: a tensor of any real dtype, an array, a list, or a dict
  {class: weight} with 1 for the others. Used in float32, or float64 for float64 logits.
* ``ignore_index`` (-100): positions with this class index count nowhere: their loss is 0 and their
  gradient exactly 0, even where their logits are NaN or infinite.
* ``label_smoothing`` (0.0): in [0, 1]: the share of the target that is spread over all classes.
* ``reduction`` ("mean"): "mean", "sum", or "none" for one value per position, 0 where ignored.
* ``mean_over`` (None): what a mean divides by. None is PyTorch's rule: for class indices the sum
  of ``sample_weight · weight[target]``, for probabilities the sum of ``sample_weight``. "weight":
  the weight of the target in both forms. "count": the number of positions not ignored.
* ``empty`` ("zero"): a mean over nothing (all ignored, or all of weight 0) is 0.0 with zero
  gradients; "nan" is what PyTorch returns.
* ``engine`` ("auto"): which implementation does the work; see :func:`steelyard.explain_engine`.

Per call:

* ``sample_weight``: one finite number ≥ 0 per position. It multiplies the loss and counts in the
  denominator. A 0 takes a position out of the sums; but unlike ``ignore_index`` it does not keep a
  NaN among its logits out of the gradient.
* ``denominator``: a number or 0-d tensor that divides the sum, instead of what ``mean_over`` says.

Half-precision logits are computed, reduced and returned in float32; their gradient is in the
logits' dtype.

The losses of several labels (:class:`SigmoidLoss`) and of regions (:class:`RegionLoss`) differ in
some of them: a cell, one class of one position, or an item, one class of one image, takes the place
of the position.

If a loss takes ``class_counts``, use its module inside ``torch.compile``. A module reads the counts
when it is built. A function reads them at every call, and a trace cannot look at values.
"""

from steelyard.losses import compound, counted, region, sigmoid, sigmoid_counted, softmax, zlpr
from steelyard.losses.cells import SigmoidLoss
from steelyard.losses.compound import *  # noqa: F403
from steelyard.losses.counted import *  # noqa: F403
from steelyard.losses.positions import SoftmaxLoss
from steelyard.losses.posthoc import *  # noqa: F403
from steelyard.losses.region import *  # noqa: F403
from steelyard.losses.regions import RegionLoss
from steelyard.losses.sigmoid import *  # noqa: F403
from steelyard.losses.sigmoid_counted import *  # noqa: F403
from steelyard.losses.softmax import *  # noqa: F403
from steelyard.losses.zlpr import *  # noqa: F403

# The base class of each family, and the modules in which its losses are.
_FAMILIES = {
    SoftmaxLoss: (softmax, counted),
    SigmoidLoss: (sigmoid, sigmoid_counted, zlpr),
    RegionLoss: (region,),
}

__all__ = [
    "AsymmetricLoss",
    "BCEWithLogitsLoss",
    "BalancedSoftmaxLoss",
    "ClassBalancedLoss",
    "CompoundLoss",
    "CrossEntropyLoss",
    "DiceCELoss",
    "DiceLoss",
    "DistributionBalancedLoss",
    "FocalLoss",
    "GeneralizedCrossEntropyLoss",
    "GeneralizedDiceLoss",
    "HillLoss",
    "JaccardLoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "LovaszLoss",
    "PolyLoss",
    "RegionLoss",
    "SigmoidClassBalancedLoss",
    "SigmoidFocalLoss",
    "SigmoidLogitAdjustedLoss",
    "SigmoidLoss",
    "SigmoidPolyLoss",
    "SoftmaxLoss",
    "SymmetricCrossEntropyLoss",
    "TverskyLoss",
    "VSLoss",
    "ZLPRLoss",
    "adjust_logits",
    "asymmetric_loss",
    "balanced_softmax_loss",
    "bce_with_logits_loss",
    "class_balanced_loss",
    "cross_entropy_loss",
    "dice_ce_loss",
    "dice_loss",
    "distribution_balanced_loss",
    "focal_loss",
    "generalized_cross_entropy_loss",
    "generalized_dice_loss",
    "hill_loss",
    "jaccard_loss",
    "ldam_loss",
    "logit_adjusted_loss",
    "lovasz_loss",
    "poly_loss",
    "sigmoid_class_balanced_loss",
    "sigmoid_focal_loss",
    "sigmoid_logit_adjusted_loss",
    "sigmoid_poly_loss",
    "symmetric_cross_entropy_loss",
    "tversky_loss",
    "unweight_logits",
    "vs_loss",
    "zlpr_loss",
]

for _family, _rooms in _FAMILIES.items():
    for _room in _rooms:
        for _name in _room.__all__:
            _family.keywords.spell_out(getattr(_room, _name))
for _public in (compound.DiceCELoss, compound.dice_ce_loss):
    RegionLoss.keywords.spell_out(_public)
