"""The linear head, as an estimator of scikit-learn's."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np

from . import _hemlock
from ._arrays import Labels, floats, label_array, same_length
from ._hemlock import Error

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
except ImportError:  # scikit-learn's protocol, without scikit-learn.

    class ConvergenceWarning(UserWarning):  # type: ignore[no-redef]
        """Training ended before it met its tolerance."""

    class DataConversionWarning(UserWarning):  # type: ignore[no-redef]
        """Labels came as a column."""

    class NotFittedError(ValueError, AttributeError):  # type: ignore[no-redef]
        """The head is not trained yet."""

    class ClassifierMixin:  # type: ignore[no-redef]
        """A classifier's score."""

        def score(self, X: Any, y: Any) -> float:
            """The share of samples whose label is predicted."""
            return float(np.mean(self.predict(X) == label_array(y, "y")))  # type: ignore[attr-defined]

    class BaseEstimator:  # type: ignore[no-redef]
        """An estimator's parameters."""

        def get_params(self, deep: bool = True) -> dict[str, Any]:
            """The parameters."""
            names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
            return {name: getattr(self, name) for name in names}

        def set_params(self, **params: Any) -> Any:
            """Sets parameters."""
            known = self.get_params()
            for name, value in params.items():
                if name not in known:
                    raise ValueError(f"Invalid parameter {name!r}; expected one of {', '.join(known)}")
                setattr(self, name, value)
            return self


class LinearHead(ClassifierMixin, BaseEstimator):
    """Softmax regression, trained to the minimum of ``mean cross-entropy + weight_decay/2 |W|²`` in 64 bits. Biases
    are not decayed.

    It is scikit-learn's ``LogisticRegression(C=1 / (n * weight_decay))`` for ``n`` samples of more than two classes,
    and ``C = 2 / (n * weight_decay)`` for two: :meth:`matching_C`. Hemlock's attacks are made against it.

    Parameters
    ----------
    weight_decay : the weight of the decay.
    tolerance : the norm of the gradient at which the head counts as trained.
    max_iter : the largest number of steps.
    warm_start : whether training starts at the last head, as far as classes and features are the same.
    """

    def __init__(
        self,
        weight_decay: float = 1e-4,
        *,
        tolerance: float = 1e-6,
        max_iter: int = 10_000,
        warm_start: bool = False,
    ) -> None:
        self.weight_decay = weight_decay
        self.tolerance = tolerance
        self.max_iter = max_iter
        self.warm_start = warm_start

    def fit(self, X: Any, y: Any) -> LinearHead:
        """Trains the head. Labels are integers, strings or one-hot rows."""
        if y is None:
            raise Error("`y` is None: this classifier requires y to be passed, but the target y is None")
        features = floats(X, "X")
        if len(features) == 0:
            raise Error(f"`X` has 0 sample(s) (shape={features.shape}) while a minimum of 1 is required.")
        if features.shape[1] == 0:
            raise Error(f"`X` has 0 feature(s) (shape={features.shape}) while a minimum of 1 is required.")
        if len(shape := getattr(y, "shape", ())) == 2 and shape[1] == 1:
            message = "A column-vector y was passed when a 1d array was expected: give one label for each sample"
            warnings.warn(message, DataConversionWarning, stacklevel=2)
        labels, numbers = Labels.of(y, "y")
        same_length(features, numbers, ("X", "y"))
        if len(labels.classes) < 2:
            raise Error(f"`y` has one class, {labels.names[0]!r}; expected at least two classes")
        start = None
        if self.warm_start and hasattr(self, "_packed"):
            same = len(labels.classes) == len(self.classes_) and (labels.classes == self.classes_).all()
            start = self._packed if same and features.shape[1] == self.n_features_in_ else None
        try:
            fitted = _hemlock.fit(
                features,
                numbers,
                len(labels.classes),
                float(self.weight_decay),
                float(self.tolerance),
                int(self.max_iter),
                start,
            )
        except Error as e:
            raise _scikit_words(e) from None
        packed, steps, norm, objective, converged = fitted
        if not converged:
            warnings.warn(
                f"the head stopped after {steps} steps at a gradient norm of {norm:.1e}; expected at most "
                f"{self.tolerance:.1e}: raise `weight_decay`, `tolerance` or `max_iter`",
                ConvergenceWarning,
                stacklevel=2,
            )
        self._set(packed, labels.classes)
        names = getattr(X, "columns", None)
        if names is not None and all(isinstance(name, str) for name in names):
            self.feature_names_in_ = np.asarray(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self.n_iter_, self.gradient_norm_, self.objective_ = max(steps, 1), norm, objective
        return self

    def _set(self, packed: np.ndarray, classes: np.ndarray) -> None:
        """Takes parameters ``[K, d + 1]``."""
        self._packed, self.classes_ = packed, classes
        self.n_features_in_ = packed.shape[1] - 1
        weight, bias = packed[:, :-1], packed[:, -1]
        if len(classes) == 2:
            # As scikit-learn: what speaks for the second class.
            weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        self.coef_, self.intercept_ = weight.copy(), bias.copy()

    @classmethod
    def of(cls, packed: Any, classes: Any, **parameters: Any) -> LinearHead:
        """A trained head with the parameters ``[K, d + 1]``, biases last, and the classes ``[K]``."""
        head, packed = cls(**parameters), np.ascontiguousarray(packed, np.float64)
        if packed.ndim != 2 or len(packed) != len(classes):
            raise Error(f"parameters of shape {packed.shape} are no head of {len(classes)} classes")
        head._set(packed, np.asarray(classes))
        return head

    @property
    def packed_(self) -> np.ndarray:
        """The parameters of all classes, ``[K, d + 1]``, biases last."""
        self._check()
        return self._packed

    def _check(self) -> None:
        if not hasattr(self, "_packed"):
            message = "This LinearHead instance is not fitted yet. Call 'fit' with appropriate arguments first."
            raise NotFittedError(message)

    def _scores(self, X: Any, probable: bool) -> np.ndarray:
        self._check()
        features = floats(X, "X")
        self._check_names(X)
        if len(features) == 0:
            raise Error(f"`X` has 0 sample(s) (shape={features.shape}) while a minimum of 1 is required.")
        if features.shape[1] != self.n_features_in_:
            found, expected = features.shape[1], self.n_features_in_
            raise Error(f"X has {found} features, but LinearHead is expecting {expected} features as input")
        scores = _hemlock.scores(self._packed, features, probable)
        if not np.isfinite(scores).all() and not np.isfinite(features).all():
            raise Error("`X` has features that are not finite. Input X contains NaN or infinity")
        return scores

    def _check_names(self, X: Any) -> None:
        fitted, names = getattr(self, "feature_names_in_", None), getattr(X, "columns", None)
        if fitted is None and names is not None and all(isinstance(name, str) for name in names):
            warnings.warn("X has feature names, but LinearHead was fitted without feature names", stacklevel=4)
        elif fitted is not None and names is None:
            message = "X does not have valid feature names, but LinearHead was fitted with feature names"
            warnings.warn(message, stacklevel=4)
        elif fitted is not None and list(fitted) != list(names):
            unseen = sorted(set(names) - set(fitted))
            missing = sorted(set(fitted) - set(names))
            message = "The feature names should match those that were passed during fit.\n"
            if unseen:
                message += "Feature names unseen at fit time:\n" + "".join(f"- {n}\n" for n in unseen)
            if missing:
                message += "Feature names seen at fit time, yet now missing:\n"
                message += "".join(f"- {n}\n" for n in missing)
            if not unseen and not missing:
                message += "Feature names must be in the same order as they were in fit.\n"
            raise Error(message)

    def decision_function(self, X: Any) -> np.ndarray:
        """The logits ``[n, K]``; with two classes what speaks for the second one, ``[n]``."""
        logits = self._scores(X, probable=False)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probabilities of all classes, ``[n, K]``."""
        return self._scores(X, probable=True)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithms of :meth:`predict_proba`."""
        logits = self._scores(X, probable=False)
        logits = logits - logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each sample."""
        numbers = self._scores(X, probable=False).argmax(axis=1)
        return self.classes_[numbers]

    def matching_C(self, samples: int, classes: int | None = None) -> float:
        """The ``C`` of scikit-learn's ``LogisticRegression`` that minimises the same objective on as many samples."""
        classes = len(self.classes_) if classes is None else classes
        return (2 if classes == 2 else 1) / (samples * self.weight_decay)


def _scikit_words(e: Error) -> Error:
    """The error with the words that scikit-learn's own checks look for."""
    if "must be finite" not in str(e):
        return e
    said = Error(f"{e} (Input X contains NaN or infinity)")
    said.kind = getattr(e, "kind", "data")  # type: ignore[attr-defined]
    return said
