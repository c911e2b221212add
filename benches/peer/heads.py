"""The softmax head in PyTorch, trained to its minimum."""

import torch
from torch.nn import functional as F


def objective(head, z, labels, decay):
    """Returns the mean cross-entropy plus weight decay of the weights; the head is packed `[K, d + 1]`."""
    weight, bias = head[:, :-1], head[:, -1]
    return F.cross_entropy(F.linear(z, weight, bias), labels) + decay / 2 * weight.square().sum()


class Trained(Exception):
    """The gradient's norm is below the tolerance."""


def train(head, z, labels, decay, tolerance):
    """Trains a packed head, starting from its values."""
    head = head.clone().requires_grad_()
    # LBFGS compares the largest entry of the gradient with its tolerance; here the norm decides.
    limits = {"max_iter": 10_000, "max_eval": 100_000, "tolerance_grad": 0, "tolerance_change": 0}
    optimizer = torch.optim.LBFGS([head], line_search_fn="strong_wolfe", **limits)

    def closure():
        optimizer.zero_grad()
        loss = objective(head, z, labels, decay)
        loss.backward()
        if head.grad.norm() <= tolerance:
            raise Trained
        return loss

    try:
        optimizer.step(closure)
    except Trained:
        return head.detach()
    raise SystemExit(f"L-BFGS stopped at a gradient norm of {head.grad.norm():.1e}")


def head(given):
    z, labels = given["features"], given["labels"]
    start = torch.zeros(given["classes"], z.shape[1] + 1, dtype=z.dtype, device=z.device)
    return lambda: train(start, z, labels, given["weight_decay"], given["tolerance"])
