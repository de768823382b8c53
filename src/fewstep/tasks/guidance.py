r"""Guidance: conditional generation by changing ε, as wrappers around a network.

Both wrappers sample, at every noise level t, along the score of :math:`p_t(x)\,p_t(c \mid x)^w`,

.. math:: \nabla\log p_t(x) + w\,\nabla\log p_t(c \mid x) = (1 - w)\,\nabla\log p_t(x) + w\,\nabla\log p_t(x \mid c) ,

the left side from a classifier of noisy images (score SDE, Eq. 14; Dhariwal & Nichol 2021, Algorithm 2), the right one
from a network with classes (Ho & Salimans 2022, Eq. 6, whose w is one less). w = 0 is the unconditional model and w = 1
the conditional one. For other w these scores belong to no diffusion of one data set: what comes out depends on the
path, and is not distributed as :math:`p_0(x)\,p_0(c \mid x)^w`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..errors import UserError
from ..models.protocol import EpsModel, coefficients
from ..schedules import Process

__all__ = ["ClassModel", "classifier_free", "classifier_guided", "label_log_prob"]


class ClassModel(Protocol):
    r"""An ε-model with classes: ``model(x, t, labels)``, labels (B,) int64; the label ``classes`` means *no class*.

    Attributes:
        classes: how many classes there are, labelled 0 … ``classes`` − 1.
    """

    classes: int

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The noise in ``x`` (B, \\*shape) at the times ``t`` (B,), given the labels (B,)."""
        ...


def classifier_free(model: ClassModel, labels: int | Tensor, weight: float) -> EpsModel:
    r"""Classifier-free guidance, by one network call of a batch twice as large (Ho & Salimans 2022, Algorithm 2).

    .. math:: \tilde\varepsilon = \varepsilon(x) + w\,\bigl(\varepsilon(x, c) - \varepsilon(x)\bigr) .

    At w = 0 and w = 1 one of the two halves has no weight and is not computed.

    Args:
        model: a network with classes.
        labels: the class of all samples, or one for each sample of a batch, shape (B,).
        weight: w, at least 0.

    Raises:
        UserError: for a network without classes, a class that it does not have or a negative weight; when called, for
            labels that are not as many as the samples.
    """
    _check_weight(weight)
    classes = getattr(model, "classes", None)
    if not isinstance(classes, int) or classes < 1:
        raise UserError("the network has no classes: classifier-free guidance needs one trained with labels")
    wanted = _labels(labels, classes)

    def eps(x: Tensor, t: Tensor) -> Tensor:
        given = _expand(wanted, x)
        none = torch.full_like(given, classes)
        if weight in (0.0, 1.0):
            return model(x, t, given if weight else none)
        with_class, without = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([given, none])).chunk(2)
        return without + weight * (with_class - without)

    return eps


def classifier_guided(
    model: EpsModel, process: Process, log_prob: Callable[[Tensor, Tensor], Tensor], weight: float = 1.0
) -> EpsModel:
    r"""Guidance by the gradient of a log-probability (score SDE, Eq. 14; Dhariwal & Nichol 2021, Algorithm 2).

    .. math:: \tilde\varepsilon = \varepsilon - w\,\sigma_t\,\nabla_x\log p_t(c \mid x) .

    Args:
        model: the unconditional ε-model.
        process: of the model.
        log_prob: ``log_prob(x, t)``, shape (B,), differentiable in x: the log-probability of what is asked for, such as
            :func:`label_log_prob`. Each sample's value depends on that sample alone.
        weight: w, at least 0.

    Raises:
        UserError: for a negative weight.
    """
    _check_weight(weight)

    def eps(x: Tensor, t: Tensor) -> Tensor:
        unguided = model(x, t)
        if weight == 0.0:
            return unguided
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(log_prob(at, t).sum(), at)
        return unguided - weight * coefficients(process, t, x)[1] * gradient

    return eps


def label_log_prob(
    classifier: Callable[[Tensor, Tensor], Tensor], labels: int | Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    r""":math:`\log p_t(c \mid x)` from a classifier of noisy images.

    Args:
        classifier: ``classifier(x, t)``, logits of shape (B, classes).
        labels: the class of all samples, or one for each sample of a batch, shape (B,).

    Raises:
        UserError: when called, for a class that the classifier does not have, or labels that are not as many as the
            samples.
    """

    def log_prob(x: Tensor, t: Tensor) -> Tensor:
        logits = classifier(x, t)
        given = _expand(_labels(labels, logits.shape[1]), x)
        return torch.log_softmax(logits, 1).gather(1, given[:, None])[:, 0]

    return log_prob


def _check_weight(weight: float) -> None:
    if not 0.0 <= weight < float("inf"):
        raise UserError(f"the guidance weight must not be negative, got {weight:g} (0 is unconditional, 1 conditional)")


def _labels(labels: int | Tensor, classes: int) -> Tensor:
    given = torch.as_tensor(labels)
    if given.is_floating_point() or given.ndim > 1 or not len(given.reshape(-1)):
        raise UserError("labels must be one whole number, or one for each sample")
    wrong = given.reshape(-1)[((given < 0) | (given >= classes)).reshape(-1)]
    if len(wrong):
        raise UserError(f"class {int(wrong[0])} is out of range: the network has the classes 0 to {classes - 1}")
    return given.to(torch.int64)


def _expand(labels: Tensor, x: Tensor) -> Tensor:
    if labels.ndim == 1 and len(labels) != len(x):
        raise UserError(f"{len(labels)} labels do not fit a batch of {len(x)} samples: one for each is needed")
    return labels.to(x.device).expand(len(x))
