"""Data that the tests share."""

import signal

import numpy as np
import pytest

# A shell ignores Ctrl-C for what it starts in the background, and the tests of Ctrl-C would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


def clusters(samples, dim, classes, seed):
    """Overlapping Gaussian clusters, in 32 bits."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(classes, dim))
    labels = np.arange(samples) % classes
    features = centres[labels] + 1.5 * random.normal(size=(samples, dim))
    return np.ascontiguousarray(features, np.float32), labels


@pytest.fixture(scope="session")
def train():
    return clusters(300, 8, 3, seed=0)


@pytest.fixture(scope="session")
def test():
    return clusters(300, 8, 3, seed=1)
