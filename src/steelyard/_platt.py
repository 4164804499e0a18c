"""The search for Platt's scale and shift: Newton's steps for all labels at once."""

import torch
from torch import Tensor

_STEPS = 100  # about six are taken; a step that does not help is halved
_NEAR = 1e-10  # from here on the next step squares the distance, and rounding hides what it gains
_REST = 1e-22  # what a step would gain, in nats a row, that is not worth taking
_RIDGE = 1e-12  # keeps a label solvable whose logits are all the same


def search_scale_and_shift(logits: Tensor, target: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift, (C,) each, of the least log loss, by Platt's targets.

    Args:
        logits: (M, C), float64, finite where they are kept.
        target: (M, C), float64 in [0, 1] where they are kept.
        kept: (M, C), bool; at least one of each label.
    """
    rows = kept.sum(0)
    there = torch.where(kept, target, 0.0).sum(0)
    found, missing = 1 / (there + 2), 1 / (rows - there + 2)
    aim = torch.where(kept, target * (1 - found) + (1 - target) * missing, 0.0)
    centre = torch.where(kept, logits, 0.0).sum(0) / rows
    x = torch.where(kept, logits - centre, 0.0)
    spread = (x.square().sum(0) / rows).sqrt()
    varied = spread > 1e-12 * centre.abs()
    spread = torch.where(varied, spread, 1.0)
    x = torch.where(varied, x / spread, 0.0)

    def mean(cells: Tensor) -> Tensor:
        return torch.where(kept, cells, 0.0).sum(0) / rows

    def misfit(scale: Tensor, shift: Tensor) -> Tensor:
        z = scale * x + shift
        return mean(torch.nn.functional.softplus(z) - aim * z)

    scale, shift = torch.zeros_like(centre), mean(aim).logit()
    for _ in range(_STEPS):
        p = (scale * x + shift).sigmoid()
        by_scale, by_shift = mean((p - aim) * x), mean(p - aim)
        curve = p * (1 - p)
        upper, side, lower = mean(curve * x * x) + _RIDGE, mean(curve * x), mean(curve) + _RIDGE
        area = upper * lower - side.square()
        along_scale = (lower * by_scale - side * by_shift) / area
        along_shift = (upper * by_shift - side * by_scale) / area
        gain = by_scale * along_scale + by_shift * along_shift
        if (gain <= _REST).all():
            break
        step, before = torch.ones_like(scale), misfit(scale, shift)
        while True:
            worse = misfit(scale - step * along_scale, shift - step * along_shift) > before
            worse &= gain > _NEAR
            if not worse.any():
                break
            step = torch.where(worse, step / 2, step)
        scale, shift = scale - step * along_scale, shift - step * along_shift
    return scale / spread, shift - scale * centre / spread
