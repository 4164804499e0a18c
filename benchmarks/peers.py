"""Who is measured: each a function (logits, target, problem) -> loss, or absent with a reason."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import steelyard as sy

GAMMA = 2.0
IGNORE = -100


@dataclass(frozen=True)
class Problem:
    """One size: logits, targets of which a tenth is ignored, class weights."""

    shape: tuple[int, ...]
    logits: Tensor
    target: Tensor
    weight: Tensor
    total: Tensor  # Σ w_y over what is not ignored, for who has no weighted mean

    @classmethod
    def of(cls, shape: tuple[int, ...], device: str, dtype: torch.dtype) -> "Problem":
        generator = torch.Generator().manual_seed(0)
        classes = shape[1]
        positions = shape[:1] + shape[2:]
        logits = 2 * torch.randn(shape, generator=generator)
        target = torch.randint(classes, positions, generator=generator)
        target[torch.rand(positions, generator=generator) < 0.1] = IGNORE
        weight = torch.rand(classes, generator=generator) + 0.5
        total = weight[target.clamp(min=0)][target != IGNORE].sum()
        return cls(
            shape,
            logits.to(device, dtype).requires_grad_(),
            target.to(device),
            weight.to(device),
            total.to(device),
        )

    def forget(self) -> None:
        """Free the gradient."""
        self.logits.grad = None

    def part(self) -> "Problem":
        """The first few thousand positions, for float64 to check."""
        cut = (slice(0, 1024), slice(None), *[slice(0, 40)] * (len(self.shape) - 2))
        logits = self.logits.detach()[cut].clone().requires_grad_()
        target = self.target[cut[:1] + cut[2:]].contiguous()
        total = self.weight[target.clamp(min=0)][target != IGNORE].sum()
        return Problem(tuple(logits.shape), logits, target, self.weight, total)


Loss = Callable[[Problem], Tensor]


@dataclass(frozen=True)
class Peer:
    name: str
    kind: str  # "cross-entropy" or "focal": what it must equal
    build: Callable[[Problem], Loss]  # once per size; may raise


def exact(kind: str, problem: Problem) -> tuple[Tensor, Tensor]:
    """Value and gradient in float64, from the formula."""
    z = problem.logits.detach().double().requires_grad_()
    kept = problem.target != IGNORE
    index = problem.target.masked_fill(~kept, 0)
    log_p = (z - z.logsumexp(1, keepdim=True)).gather(1, index.unsqueeze(1)).squeeze(1)
    gamma = GAMMA if kind == "focal" else 0.0
    share = problem.weight.double()[index] * kept
    loss = (-((1 - log_p.exp()) ** gamma) * log_p * share).sum() / share.sum()
    return loss.detach(), torch.autograd.grad(loss, z)[0]


def tutorial_focal(problem: Problem) -> Tensor:
    """What tutorials write, right for weights."""
    log_p = F.log_softmax(problem.logits, 1)
    nll = F.nll_loss(log_p, problem.target, reduction="none", ignore_index=IGNORE)
    share = problem.weight[problem.target.clamp(min=0)] * (problem.target != IGNORE)
    return ((1 - torch.exp(-nll)) ** GAMMA * nll * share).sum() / share.sum()


def cross_entropy(problem: Problem) -> Tensor:
    return F.cross_entropy(problem.logits, problem.target, _weight(problem))


def _weight(problem: Problem) -> Tensor:
    """In the dtype of the logits: PyTorch takes no other."""
    return problem.weight.to(problem.logits.dtype)


def compiled(loss: Loss) -> Callable[[Problem], Loss]:
    def build(_: Problem) -> Loss:
        torch._dynamo.reset()
        return torch.compile(loss)

    return build


def ours(make: Callable[..., sy.SoftmaxLoss], **arguments: object) -> Callable[[Problem], Loss]:
    def build(problem: Problem) -> Loss:
        loss = make(weight=problem.weight, **arguments)
        return lambda p: loss(p.logits, p.target)

    return build


def ours_in_a_compiled_step(problem: Problem) -> Loss:
    loss = sy.FocalLoss(gamma=GAMMA, weight=problem.weight)
    torch._dynamo.reset()
    return torch.compile(lambda p: loss(p.logits, p.target))


def kornia(_: Problem) -> Loss:
    focal = importlib.import_module("kornia.losses").focal_loss

    def loss(p: Problem) -> Tensor:
        each = focal(p.logits, p.target, None, GAMMA, "sum", p.weight, IGNORE)
        return each / p.total

    return loss


def monai(problem: Problem) -> Loss:
    losses = importlib.import_module("monai.losses")
    focal = losses.FocalLoss(
        to_onehot_y=True,
        use_softmax=True,
        gamma=GAMMA,
        weight=problem.weight,
        reduction="none",
        ignore_index=IGNORE,
    )
    return lambda p: focal(p.logits, p.target.unsqueeze(1)).sum() / p.total


def focalloss(_: Problem) -> Loss:
    module = importlib.import_module("torch_focalloss")
    return lambda p: module.MultiClassFocalLoss(gamma=GAMMA, alpha=p.weight)(p.logits, p.target)


def liger(_: Problem) -> Loss:
    function = importlib.import_module("liger_kernel.transformers.functional").liger_cross_entropy
    # On a copy: it writes the gradient over its input.
    return lambda p: function(p.logits.clone(), p.target, p.weight)


def quack(_: Problem) -> Loss:
    function = importlib.import_module("quack").cross_entropy
    return lambda p: function(p.logits, p.target, weight=p.weight, reduction="sum") / p.total


def smoothed(_: Problem) -> Loss:
    return lambda p: F.cross_entropy(p.logits, p.target, _weight(p), label_smoothing=0.1)


def peers() -> Iterator[Peer]:
    """Everybody, the measure of all first."""
    yield Peer("F.cross_entropy", "cross-entropy", lambda _: cross_entropy)
    yield Peer("F.cross_entropy, torch.compile", "cross-entropy", compiled(cross_entropy))
    yield Peer("tutorial focal", "focal", lambda _: tutorial_focal)
    yield Peer("tutorial focal, torch.compile", "focal", compiled(tutorial_focal))
    yield Peer("kornia focal", "focal", kornia)
    yield Peer("MONAI focal", "focal", monai)
    yield Peer("pytorch-focalloss", "focal", focalloss)
    if torch.cuda.is_available():
        yield Peer("Liger cross-entropy", "cross-entropy", liger)
        yield Peer("QuACK cross-entropy", "cross-entropy", quack)
    yield Peer("steelyard cross-entropy", "cross-entropy", ours(sy.CrossEntropyLoss))
    yield Peer("steelyard focal", "focal", ours(sy.FocalLoss, gamma=GAMMA))
    yield Peer("steelyard focal, the user's torch.compile", "focal", ours_in_a_compiled_step)
    yield Peer("F.cross_entropy, smoothing", "", smoothed)
    smooth = ours(sy.CrossEntropyLoss, label_smoothing=0.1)
    yield Peer("steelyard cross-entropy, smoothing", "", smooth)
