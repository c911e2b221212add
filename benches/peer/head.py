"""The linear head of the module `hemlock` beside scikit-learn's logistic regression of the matching C, in turns.

    pip install target/wheels/hemlock_poisoning-*.whl scikit-learn
    python benches/peer/head.py [--samples 50000] [--rounds 3]

Both train to the same gradient norm of the mean objective, and the largest difference of their weights is printed.
"""

import argparse
import time

import hemlock
import numpy as np
from sklearn.linear_model import LogisticRegression


def clusters(samples, dim, classes):
    """Overlapping Gaussian clusters, in 32 bits."""
    random = np.random.default_rng(0)
    labels = np.arange(samples) % classes
    centres = random.normal(size=(classes, dim)) * 3 / dim**0.5
    return (centres[labels] + random.normal(size=(samples, dim))).astype(np.float32), labels


def timed(work):
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    features, labels = clusters(args.samples, args.features, args.classes)
    wide = features.astype(np.float64)
    head = hemlock.LinearHead(weight_decay=args.weight_decay)
    options = {"C": head.matching_C(args.samples, args.classes), "tol": 1e-6, "max_iter": 10_000}
    peers = {
        "LogisticRegression, lbfgs": lambda: LogisticRegression(solver="lbfgs", **options).fit(wide, labels),
        "LogisticRegression, newton-cholesky": lambda: LogisticRegression(solver="newton-cholesky", **options).fit(
            wide, labels
        ),
    }
    works = {"LinearHead, f32": lambda: head.fit(features, labels), "LinearHead, f64": lambda: head.fit(wide, labels)}
    times = {name: [] for name in [*works, *peers]}
    weights = {}
    for _ in range(args.rounds):
        for name, work in {**works, **peers}.items():
            seconds, made = timed(work)
            times[name].append(seconds)
            weights[name] = made.coef_.copy()
    own = min(times["LinearHead, f64"])
    print("| work | s | times LinearHead, f64 | largest difference of a weight |")
    print("| --- | --- | --- | --- |")
    for name, seconds in times.items():
        apart = np.abs(weights[name] - weights["LinearHead, f64"]).max()
        print(f"| {name} | {min(seconds):.2f} | {min(seconds) / own:.1f} | {apart:.0e} |")


if __name__ == "__main__":
    main()
