"""The base of every loss as ``nn.Module``: holds a form's vectors as buffers, shows its options."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from steelyard import ops
from steelyard.classes import ClassCounts
from steelyard.losses.options import Keywords, Options
from steelyard.losses.vectors import PerClass, has_values

Compute = Callable[[Tensor, Any, str, ops.Reduction], Tensor]


class Loss(nn.Module):
    """Base of every loss; a family derives it, and a loss gives the family's form.

    The class vectors are buffers, so they follow ``.to(device)``; they keep their precision under
    ``.half()``; and they are not part of a ``state_dict``, since the constructor gives them. A
    ``weight`` found in one (from ``nn.CrossEntropyLoss``, say) is taken over.

    What is given as ``nn.Parameter`` stays that parameter, under the name of its argument, and is
    learnt: ``FocalLoss(gamma=nn.Parameter(torch.tensor(2.0)))``.

    A form is a NamedTuple, the loss without its options: what it does, and class vectors (C,) or
    None. Its ``num_classes`` is how long they are, and ``form.weighted(**vectors)`` takes those of
    the user.

    Args:
        form: the loss.
        options: the keywords that the user gave, of those that every loss of the family takes.
        **arguments: what the loss itself was built with, for its repr.
    """

    keywords: ClassVar[Keywords]
    options: Options
    weight: Tensor | None

    def __init__(self, form: Any, options: dict[str, Any], **arguments: Any) -> None:
        super().__init__()
        vectors, self.options, _ = self.keywords.read(options, type(self))
        self._shown = arguments | {
            name: value
            for name, value in options.items()
            if (value is not None if name in vectors else value != self.keywords.defaults[name])
        }
        form = form.weighted(**vectors)
        self._learns: dict[str, str] = {}  # what of the form is a parameter, and of what name
        for name, value in form._asdict().items():
            if isinstance(value, Tensor) and value.requires_grad:
                self._learns[name] = argument = _given_by(value, arguments | vectors)
                self.register_parameter(argument, value)  # type: ignore[arg-type]
            elif name in vectors or isinstance(value, Tensor):
                value = None if value is None else value.detach().clone()
                self.register_buffer(name, value, persistent=False)
        self._held = tuple(name for name in form._fields if name in self._buffers)
        nothing: dict[str, Any] = dict.fromkeys((*self._held, *self._learns))
        self._form = form._replace(**nothing)

    @property
    def form(self) -> Any:
        """The loss without its options, with the class vectors where the buffers are now."""
        held: dict[str, Any] = {}
        for name in self._held:
            if (vector := self._buffers[name]) is not None:
                held[name] = vector
        for name, argument in self._learns.items():
            held[name] = self._parameters[argument]
        return self._form._replace(**held) if held else self._form

    def with_weight(self, weight: PerClass) -> Self:
        """A copy of this loss with these class weights in the place of its own."""
        form = self.form._replace(weight=None).weighted(weight=weight)
        if form.weight is None:
            raise TypeError("weight is None: expected one number per class")
        copied = deepcopy(self)
        copied.weight = form.weight.detach().clone()
        copied._form = copied._form._replace(others_are_one=form.others_are_one)
        copied._shown["weight"] = weight
        return copied

    def check_fit(self, logits: Tensor) -> None:
        """Raise a ValueError unless the class vectors have one number for each class of logits."""
        self.form.fit(logits.unsqueeze(0) if logits.ndim == 1 else logits)

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        denominator: float | Tensor | None = None,
    ) -> Tensor:
        """The loss of logits against target; each family says what it takes."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def computed_by(
        self,
        compute: Compute,
        logits: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        denominator: float | Tensor | None = None,
    ) -> Tensor:
        """The loss, by ``compute`` in the place of :func:`steelyard.ops.losses`.

        For who has the logits in another form: of those given only shape, dtype and device count.
        """
        raise NotImplementedError(f"{type(self).__name__} needs the logits themselves")

    def denominator(self, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """What the mean divides by for these targets.

        Summed over several calls it is the denominator of their union: divide the loss of every
        micro-batch, or of every rank, by that sum, and the gradients add up to those of the whole
        batch.

        Args:
            target: as for the call.
            sample_weight: as for the call.

        Returns:
            A 0-d tensor on the target's device, in float64, or float32 where the device has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no denominator")

    def extra_repr(self) -> str:
        """The arguments that differ from the defaults."""
        return ", ".join(f"{name}={_brief(value)}" for name, value in self._shown.items())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: getattr(self, name) for name in self._held}
        widest = ops.compat.widest(fn(torch.empty(0)).device)
        for name, kept in before.items():
            if kept is not None and kept.dtype.itemsize > widest.itemsize:
                before[name] = self._buffers[name] = kept.to(widest)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, kept in before.items():
            found = getattr(self, name)
            if kept is not None and type(found) is type(kept) and not kept.is_meta:
                # .half() would round the weights, and make 7e4 infinite; .to_empty() would forget
                # them: only the device moves.
                setattr(self, name, kept.to(found.device))
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for name in self.keywords.vectors:
            if (
                name not in self._parameters
                and (found := state_dict.get(prefix + name)) is not None
            ):
                self._take(name, prefix + name, found, error_msgs)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for name in self.keywords.vectors:
            if prefix + name in unexpected_keys:
                unexpected_keys.remove(prefix + name)

    def _take(self, name: str, key: str, found: Tensor, error_msgs: list[str]) -> None:
        """Use a class vector that a state_dict holds."""
        try:
            empty = self._form._replace(**{name: None})
            values = getattr(empty.weighted(**{name: found}), name).detach().clone()
        except (TypeError, ValueError) as error:
            error_msgs.append(f"{key}: {error}")
            return
        own = self._buffers[name]
        if own is not None and name not in self._form.others_are_one:
            if values.shape != own.shape:
                error_msgs.append(
                    f"{key} has {len(values)} values, but this loss's {name} has "
                    f"{len(own)}: build the loss with as many classes"
                )
                return
            values = values.to(own.device)
        setattr(self, name, values)
        padded = tuple(other for other in self._form.others_are_one if other != name)
        self._form = self._form._replace(others_are_one=padded)
        self._shown[name] = values


def _given_by(value: Tensor, arguments: dict[str, Any]) -> str:
    """The argument that is this parameter."""
    for argument, given in arguments.items():
        if given is value and isinstance(given, nn.Parameter):
            return argument
    names = [
        name for name, each in arguments.items() if isinstance(each, Tensor) and each.requires_grad
    ]
    raise ValueError(
        f"{' and '.join(names)} requires a gradient, and a module keeps a copy: give an "
        "nn.Parameter, which is learnt (but not a weight beside weights that the loss has "
        "already), call the function, or detach it"
    )


def _brief(value: Any) -> str:
    """A value as it is typed, in one line, long ones cut."""
    if isinstance(value, ClassCounts):
        return f"ClassCounts({_brief(list(value))})"
    if isinstance(value, Tensor):
        if not has_values(value):
            return f"tensor(shape={tuple(value.shape)}, device={str(value.device)!r})"
        value = value.to_dense() if value.layout is not torch.strided else value
        if value.dtype == torch.float32 and value.ndim == 1:
            value = [_shortest(number) for number in value.tolist()]
    for container_as_list in ("tolist", "to_list"):  # of torch and NumPy; of polars
        if hasattr(value, container_as_list):
            value = getattr(value, container_as_list)()
            break
    if isinstance(value, list | tuple):
        value = type(value)(v.item() if hasattr(v, "item") else v for v in value)
        if len(value) > 6:
            head = ", ".join(f"{float(item):.4g}" for item in value[:5])
            return f"[{head}, … {len(value)} classes]"
    return repr(value)


def _shortest(number: float) -> float:
    """The shortest number that is this one in float32: 0.37, and not 0.3700000047683716."""
    shorter = (float(f"{number:.{digits}g}") for digits in range(1, 9))
    return next((each for each in shorter if float(torch.tensor(each)) == number), number)
