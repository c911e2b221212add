"""The linear head of the module `hemlock` beside scikit-learn's logistic regression of the matching C, and beside
PyTorch's L-BFGS, in turns.

    pip install target/wheels/hemlock_poisoning-*.whl scikit-learn torch
    python benches/peer/head.py [--samples 50000] [--rounds 3]
    python benches/peer/head.py --samples 128000 --features 768 --classes 1000 --rounds 1     # a tenth of ImageNet

All train to a gradient norm of the mean objective of 1e-6, as far as their precision lets them, in at most
`--iterations` steps. The gradient norm that each of them reached is printed.
"""

import argparse
import time

import hemlock
import numpy as np
from sklearn.linear_model import LogisticRegression


# Rows that are looked at together where there are many classes.
ROWS = 16_384


def clusters(samples, dim, classes, spectrum):
    """Overlapping Gaussian clusters, in 32 bits. The variances along the axes of a random basis fall from 1 to
    `spectrum`."""
    random = np.random.default_rng(0)
    labels = np.arange(samples) % classes
    centres = random.normal(size=(classes, dim)) * 3 / dim**0.5
    features = centres[labels] + random.normal(size=(samples, dim))
    if spectrum != 1:
        features = features * spectrum ** (np.arange(dim) / (2 * dim - 2)) @ np.linalg.qr(random.normal(size=(dim, dim)))[0]
    return features.astype(np.float32), labels


def timed(work):
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def gradient_norm(weights, bias, features, labels, decay):
    """The L2 norm of the objective's gradient, in 64 bits."""
    gradient, biases = decay * weights.astype(np.float64), np.zeros(len(bias))
    for first in range(0, len(labels), ROWS):
        z, y = features[first : first + ROWS].astype(np.float64), labels[first : first + ROWS]
        scores = z @ weights.T + bias
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(y)), y] -= 1
        gradient += p.T @ z / len(labels)
        biases += p.sum(axis=0) / len(labels)
    return np.sqrt((gradient**2).sum() + (biases**2).sum())


class Torch:
    """PyTorch's L-BFGS with a line search, in 32 bits, on all samples at a time."""

    def __init__(self, decay, iterations):
        self.decay, self.iterations = decay, iterations

    def fit(self, features, labels):
        import torch

        z, y = torch.from_numpy(features), torch.from_numpy(labels)
        head = torch.nn.Linear(features.shape[1], int(labels.max()) + 1)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        solver = torch.optim.LBFGS(
            head.parameters(), max_iter=self.iterations, tolerance_grad=1e-8, tolerance_change=0, history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure():
            solver.zero_grad()
            total = 0.0
            for first in range(0, len(y), ROWS):
                some = slice(first, first + ROWS)
                loss = torch.nn.functional.cross_entropy(head(z[some]), y[some], reduction="sum") / len(y)
                loss.backward()
                total += loss.detach()
            decay = self.decay / 2 * head.weight.square().sum()
            decay.backward()
            return total + decay.detach()

        solver.step(closure)
        self.coef_, self.intercept_ = head.weight.detach().numpy(), head.bias.detach().numpy()
        return self


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--spectrum", type=float, default=1e-3, help="the smallest variance along an axis; 1: round")
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=1000)
    args = parser.parse_args()
    features, labels = clusters(args.samples, args.features, args.classes, args.spectrum)
    wide = features.astype(np.float64)
    head = hemlock.LinearHead(weight_decay=args.weight_decay)
    options = {"C": head.matching_C(args.samples, args.classes), "tol": 1e-6, "max_iter": args.iterations}
    peers = {
        "LogisticRegression, lbfgs": lambda: LogisticRegression(solver="lbfgs", **options).fit(wide, labels),
        "PyTorch L-BFGS, f32": lambda: Torch(args.weight_decay, args.iterations).fit(features, labels),
    }
    if args.features * args.classes < 10_000:     # a matrix of their square
        newton = LogisticRegression(solver="newton-cholesky", **options)
        peers["LogisticRegression, newton-cholesky"] = lambda: newton.fit(wide, labels)
    works = {"LinearHead, f32": lambda: head.fit(features, labels), "LinearHead, f64": lambda: head.fit(wide, labels)}
    times = {name: [] for name in [*works, *peers]}
    norms = {}
    for _ in range(args.rounds):
        for name, work in {**works, **peers}.items():
            seconds, made = timed(work)
            times[name].append(seconds)
            norms[name] = gradient_norm(made.coef_, made.intercept_, features, labels, args.weight_decay)
    own = min(times["LinearHead, f64"])
    print("| work | s | times LinearHead, f64 | gradient norm |")
    print("| --- | --- | --- | --- |")
    for name, seconds in times.items():
        print(f"| {name} | {min(seconds):.2f} | {min(seconds) / own:.1f} | {norms[name]:.0e} |")


if __name__ == "__main__":
    main()
