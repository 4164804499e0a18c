"""One training as the user's loop sees it: four hooks, and everything behind them the library's.

Hooks: `prepare` takes the network, `epochs` counts, `batches` loads, `step` steps. A training is
a function of its seed: what each epoch draws is seeded anew from (seed, epoch), so a training
that goes on from a checkpoint repeats one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from steelyard.compare.study import StudyError
from steelyard.compare.training.batches import call, moved, parted
from steelyard.compare.training.checkpoints import Checkpoint, read_state
from steelyard.compare.training.heads import with_cosine_head
from steelyard.compare.training.loading import Loader, Piece, Steps, balanced, shuffled
from steelyard.compare.training.losses import StepLoss
from steelyard.compare.training.methods import Method
from steelyard.compare.training.plan import Plan, Run
from steelyard.compare.training.ranks import Ranks
from steelyard.compare.training.streams import seed_everything, stream

Schedule = Callable[[int, int], float]
Judge = Callable[[nn.Module], float | None]


# One that was trained before would begin where an earlier candidate ended.
_PREPARED: WeakSet[nn.Module] = WeakSet()


class DivergedError(ValueError):
    """The loss of a training became NaN or infinite."""


class Trial:
    """One training: a candidate with its hyper-parameters, on one seed.

    Attributes:
        seed: decides initial weights, order, augmentation and dropout.
        draw: number of the hyper-parameter draw.
        options: the hyper-parameters by name; "learning_rate" and "weight_decay" are also
            attributes.
        candidate: name of the candidate.
        device: where to train.
        loss: the candidate's loss: ``trial.loss(logits, target)``.
        class_counts: (C,) positions of each class in the training rows.
        train_set: the Dataset whose rows `rows` are trained on.
        rows: numbers of the training rows.

    Example::

        def train(trial):
            network = trial.prepare(resnet18(num_classes=7))
            optimizer = torch.optim.SGD(network.parameters(), trial.learning_rate)
            for epoch in trial.epochs(network, optimizer):
                for inputs, target in trial.batches(epoch):
                    trial.loss(network(inputs), target).backward()
                    trial.step(optimizer)
            return network
    """

    def __init__(
        self,
        plan: Plan,
        method: Method,
        run: Run,
        *,
        train_set: Any,
        rows: np.ndarray,
        labels: np.ndarray | None,
        counts: np.ndarray,
        loader: Loader,
        schedule: Schedule,
        head: str | None = None,
        ranks: Ranks | None = None,
        checkpoint: Path | None = None,
        fork: tuple[Path, bool] | None = None,
        tick: Callable[[float], None] | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.plan, self.method, self.run = plan, method, run
        self.seed, self.draw, self.candidate = run.seed, run.draw, method.name
        self.options: Mapping[str, float] = dict(run.options)
        self.learning_rate = run.options["learning_rate"]
        self.weight_decay = run.options["weight_decay"]
        self.device = plan.device
        self.train_set, self.rows, self.class_counts = train_set, rows, counts
        self.ranks = ranks or Ranks()
        self.head = head
        self._labels, self._loader, self._schedule = labels, loader, schedule
        self._steps = Steps(plan.batch_size, plan.micro_batch, self.ranks.rank, self.ranks.number)
        self.loss = StepLoss(
            method,
            run.options,
            counts,
            plan.deferral_epoch,
            plan.ignore_index,
            self.ranks,
            -(-plan.batch_size // self.ranks.number),
        )
        self.loss.to(plan.device)
        self.steps_per_epoch = self._steps.number(len(rows))
        self.curve: list[float] = []
        self._checkpoint = Checkpoint(checkpoint)
        # Where trainings that begin alike part, and whether this one is to leave its state there.
        self._fork = None if fork is None else fork[0]
        self._leaves_fork = fork is not None and fork[1]
        self._tick = tick
        # Scores the network on validation rows after each epoch, where the best one is to count.
        self._judge = judge
        self._best: dict[str, Any] = {}
        self._piece: Piece | None = None
        self._epoch = -1
        self._step = 0
        self._parameters: list[nn.Parameter] = []
        seed_everything(stream(run.seed, "initial"))

    def prepare(self, network: nn.Module) -> nn.Module:
        """Make a fresh network ready: its head, its device, mixed precision, DDP.

        Args:
            network: built inside `train`, so that its weights were drawn under the trial's seed.

        Raises:
            StudyError: an earlier trial has trained this very network.
        """
        if network in _PREPARED:
            raise StudyError(
                f"the {type(network).__name__} has been trained before, and every training needs "
                "a new one: make it anew each time, as in `Net()` or `copy.deepcopy(net)`"
            )
        _PREPARED.add(network)
        if self.method.head == "cosine":
            assert self.head is not None
            with_cosine_head(network, self.head, stream(self.seed, "head"))
        network.to(self.device)
        if self.plan.precision == "bf16":
            kind = torch.device(self.device).type
            network.forward = torch.autocast(kind, torch.bfloat16)(network.forward)
        if self.ranks.number > 1:
            return DistributedDataParallel(network)
        return network

    def epochs(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[int]:
        """The epochs that are still to be trained, from the last checkpoint on.

        Args:
            network: what `prepare` returned.
            optimizer: over all that is trained.
        """
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        plan = self.plan
        for epoch in range(self._resumed(network, optimizer), plan.epochs):
            self.begin(epoch)
            network.train()
            yield epoch
            self._end(epoch)
            self._look(network)
            done = epoch + 1
            if self._leaves_fork and done == plan.deferral_epoch and self.ranks.first:
                self._checkpoint.save(self._state(network, optimizer, done), self._fork)
            if done < plan.epochs and self._all_due():
                if self.ranks.first:
                    self._checkpoint.save(self._state(network, optimizer, done))
                self.ranks.wait()
            if self._tick is not None:
                self._tick(done / plan.epochs)
        if self._best:
            bare(network).load_state_dict(self._best["network"])

    def batches(self, epoch: int) -> Iterator[tuple[Any, Any]]:
        """The (inputs, target) of an epoch, on the device; the same rows for every candidate.

        Args:
            epoch: as `epochs` gave it.
        """
        if epoch != self._epoch:
            self.begin(epoch)
        pieces = list(self._steps.pieces(self._order(epoch)))
        loaded = self._loader([piece.rows for piece in pieces], epoch)
        for piece, batch in zip(pieces, loaded, strict=True):
            self.piece = piece
            yield parted(moved(batch, self.device))
        self.piece = None

    @property
    def piece(self) -> Piece | None:
        """The micro-batch under way; a loop that loads ahead sets it before its loss."""
        return self._piece

    @piece.setter
    def piece(self, piece: Piece | None) -> None:
        self._piece = piece
        self.loss.stand_in = piece is not None and piece.stand_in

    def call(self, network: nn.Module, inputs: Any) -> Any:
        """The network's output: a tuple is spread over its arguments, a dict over its keywords."""
        return call(network, inputs)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Take the optimiser's step, once the step's last micro-batch has been walked back.

        Gradients become those of one mean over micro-batches and ranks, are clipped if the study
        says so, and the learning rate follows the study's schedule.

        Returns:
            Whether the optimiser stepped.
        """
        if self._piece is not None and not self._piece.ends_step:
            return False
        gradients = [
            p.grad
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        factor = self.loss.factor()
        if factor is not None and gradients:
            torch._foreach_mul_(gradients, factor.to(gradients[0].device, gradients[0].dtype))
        if self.plan.clip is not None:
            clip_grad_norm_(
                [p for group in optimizer.param_groups for p in group["params"]], self.plan.clip
            )
        share = self._schedule(self._step, self.steps_per_epoch * self.plan.epochs)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._step += 1
        return True

    def finish(self) -> None:
        """Check that the training was the one that was asked for.

        Raises:
            StudyError: the loss was not used, or another number of steps was taken.
        """
        if not self.loss.calls and self._step == 0 and not self.curve:
            raise StudyError(
                f"the training of {self.candidate} never called trial.loss: every candidate would "
                "be the same"
            )
        wanted = self.steps_per_epoch * self.plan.epochs
        if self._step != wanted:
            raise StudyError(
                f"the training of {self.candidate} took {self._step} optimiser steps, and every "
                f"candidate takes {wanted}: call trial.step(optimizer) after each backward, for "
                "every batch of every epoch"
            )
        self._checkpoint.clear()

    def _order(self, epoch: int) -> np.ndarray:
        late = epoch >= self.plan.deferral_epoch
        if self.method.sampling == "balanced" and (late or not self.method.deferred):
            assert self._labels is not None
            return balanced(self.rows, self._labels, self.seed, epoch)
        return shuffled(self.rows, self.seed, epoch)

    def begin(self, epoch: int) -> None:
        """Begin an epoch: for trainers that draw random numbers after `epochs` said it began."""
        self._epoch = epoch
        self.loss.set_epoch(epoch)
        # Ranks drop out different units of what would otherwise be one batch.
        seed_everything(stream(self.seed, "dropout", epoch, self.ranks.rank))

    def _end(self, epoch: int) -> None:
        mean = self.loss.mean_of_epoch()
        if self.loss.calls and not math.isfinite(mean):
            raise DivergedError(f"its loss was {mean:g} in epoch {epoch + 1}")
        self.curve.append(mean)

    def _look(self, network: nn.Module) -> None:
        """Remember the network of this epoch, if none before it was better."""
        score = None if self._judge is None else self._judge(network)
        if score is not None and score >= self._best.get("score", -math.inf):
            state = bare(network).state_dict()
            kept = {name: held.detach().cpu().clone() for name, held in state.items()}
            self._best = {"score": score, "network": kept}

    def _all_due(self) -> bool:
        return bool(self.ranks.from_first(self._checkpoint.due()))

    def _state(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, epochs: int
    ) -> dict[str, Any]:
        loss = self.loss.module
        return {
            "network": bare(network).state_dict(),
            "optimizer": optimizer.state_dict(),
            # The library's losses are functions of their options.
            "loss": loss.state_dict() if loss is not None and self.method.loss is not None else {},
            "epochs": epochs,
            "step": self._step,
            "curve": list(self.curve),
            "best": self._best,
        }

    def _resumed(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """The first epoch to train, after taking up what is kept: its own, or the fork's."""
        state = self._checkpoint.load()
        if state is None and self._fork is not None:
            state = read_state(self._fork)
        if state is None:
            return 0
        bare(network).load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if state["loss"] and self.loss.module is not None:
            self.loss.module.load_state_dict(state["loss"])
        self._step, self.curve, self._best = state["step"], list(state["curve"]), state["best"]
        return int(state["epochs"])


def bare(network: nn.Module) -> nn.Module:
    """The network itself, out of DDP."""
    return network.module if isinstance(network, DistributedDataParallel) else network
