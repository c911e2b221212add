"""The linear head beside scikit-learn's logistic regression, and as one of its estimators."""

import pickle
import threading
import warnings

import hemlock
import numpy as np
import pytest
from conftest import clusters
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_logistic_regression_of_the_matching_c(classes, dtype):
    features, labels = clusters(400, 6, classes, seed=3)
    features = features.astype(dtype)
    head = hemlock.LinearHead(weight_decay=0.01, tolerance=1e-9).fit(features, labels)
    regression = LogisticRegression(C=head.matching_C(len(labels)), tol=1e-10, max_iter=10_000)
    regression.fit(features.astype(np.float64), labels)
    weight, bias = regression.coef_, regression.intercept_
    if classes > 2:
        # A constant added to all biases changes nothing.
        bias = bias - bias.mean() + head.intercept_.mean()
    assert head.coef_.shape == weight.shape and head.intercept_.shape == bias.shape
    np.testing.assert_allclose(head.coef_, weight, atol=1e-6)
    np.testing.assert_allclose(head.intercept_, bias, atol=1e-6)
    wide = features.astype(np.float64)
    np.testing.assert_allclose(head.predict_proba(features), regression.predict_proba(wide), atol=1e-6)
    np.testing.assert_allclose(head.decision_function(features), regression.decision_function(wide), atol=1e-4)
    assert (head.predict(features) == regression.predict(wide)).all()
    assert head.score(features, labels) == regression.score(wide, labels)


def test_labels_may_be_strings_or_one_hot(train):
    features, labels = train
    plain = hemlock.LinearHead().fit(features, labels)
    names = np.array(["cat", "dog", "owl"])
    named = hemlock.LinearHead().fit(features, names[labels])
    hot = hemlock.LinearHead().fit(features, np.eye(3)[labels])
    assert (named.coef_ == plain.coef_).all() and (hot.coef_ == plain.coef_).all()
    assert list(named.classes_) == list(names)
    assert (named.predict(features) == names[plain.predict(features)]).all()


def test_pipelines_searches_clones_and_copies(train):
    features, labels = train
    head = hemlock.LinearHead(weight_decay=0.1)
    assert clone(head).get_params() == head.get_params()
    search = GridSearchCV(make_pipeline(StandardScaler(), head), {"linearhead__weight_decay": [1e-3, 1.0]}, cv=3)
    search.fit(features, labels)
    assert search.best_score_ > 0.5
    fitted = head.fit(features, labels)
    copy = pickle.loads(pickle.dumps(fitted))
    assert (copy.predict(features) == fitted.predict(features)).all()


def test_the_protocol_of_scikit_learn():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checked = check_estimator(hemlock.LinearHead(), on_fail=None)
    failed = [f"{one['check_name']}: {one['exception']}" for one in checked if one["status"] == "failed"]
    assert not failed, "\n".join(failed)
    assert sum(one["status"] == "passed" for one in checked) > 30


def test_memory_is_viewed_where_it_is(train):
    features, labels = train
    whole = np.zeros((2 * len(features), 8), np.float64)
    whole[::2] = features
    strided = whole[::2]
    frozen = features.astype(np.float64)
    frozen.setflags(write=False)
    plain = hemlock.LinearHead().fit(features.astype(np.float64), labels)
    for given in (strided, frozen, np.asfortranarray(frozen), frozen.tolist(), frozen.astype(">f8")):
        assert (hemlock.LinearHead().fit(given, labels).coef_ == plain.coef_).all()


class Dlpack:
    """An array of a framework that has nothing but DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_arrays_of_other_frameworks(train):
    features, labels = train
    expected = hemlock.LinearHead().fit(features, labels).coef_
    assert (hemlock.LinearHead().fit(Dlpack(features), labels).coef_ == expected).all()


@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (np.zeros(4), [0, 1, 0, 1], "1 axes"),
        (np.zeros((4, 2, 2)), [0, 1, 0, 1], "3 axes"),
        (np.zeros((4, 2)), [0, 1, 0], "4 samples"),
        (np.zeros((4, 2)), [1, 1, 1, 1], "one class"),
        (np.zeros((4, 2)), [0.5, 1, 0, 1], "fractions"),
        (np.zeros((4, 2)), [np.nan, 1, 0, 1], "not finite"),
        (np.zeros((4, 0)), [0, 1, 0, 1], "0 feature"),
        (np.array([["a"], ["b"]]), [0, 1], "dtype <U1"),
        (np.array([[1j], [2j]]), [0, 1], "complex"),
        (np.array([[np.nan], [1.0]]), [0, 1], "must be finite"),
        (np.array([[0.0], [np.inf]]), [0, 1], "feature (1, 0) is inf"),
        (np.zeros((4, 2)), np.ones((4, 3)), "one-hot"),
    ],
)
def test_what_cannot_be_trained_on_is_one_clear_error(features, labels, said):
    with pytest.raises(hemlock.Error) as error:
        hemlock.LinearHead().fit(features, labels)
    assert said in str(error.value)


def test_what_cannot_be_set_is_one_clear_error(train):
    with pytest.raises(hemlock.Error, match="weight_decay"):
        hemlock.LinearHead(weight_decay=-1.0).fit(*train)
    with pytest.raises(hemlock.Error, match="9 features, but LinearHead is expecting 8"):
        hemlock.LinearHead().fit(*train).predict(np.zeros((1, 9)))


def test_training_that_ends_early_warns(train):
    with pytest.warns(UserWarning, match="stopped after 1 steps"):
        hemlock.LinearHead(weight_decay=1e-8, max_iter=1).fit(*train)


def test_threads_get_the_same_bytes(train):
    features, labels = train
    expected = hemlock.LinearHead().fit(features, labels).coef_.tobytes()
    found = []
    work = lambda: found.append(hemlock.LinearHead().fit(features, labels).coef_.tobytes())
    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == [expected] * 4
