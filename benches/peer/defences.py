"""Compares filters with those of the Adversarial Robustness Toolbox (ART), on the samples of the tests of the filters.

    pip install numpy scipy scikit-learn adversarial-robustness-toolbox==1.20.1
    python benches/peer/defences.py

Hemlock's scores are those of `crates/defences/tests/data/filters.json`, which its tests hold it to. The script prints
how many samples both remove, or both keep, as a share of all, and the rank correlation of the scores within classes.

- spectral: ART projects the features themselves on the singular vector of the centred ones, as the public code of the
  paper's authors does. The paper, and Hemlock, project the centred ones. `ART, centred` is ART on features whose class
  means were subtracted.
- activation-clustering: ART gives no scores. Its default removes the smaller cluster of every class; with
  `silhouette-scores`, only a small one that is apart.
"""

import json
from pathlib import Path

import numpy as np
from art.defences.detector.poison import ActivationDefence, SpectralSignatureDefense
from scipy.stats import spearmanr

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = json.loads((ROOT / "crates/defences/tests/data/filters.json").read_text())


class Features:
    """What ART asks of a classifier, for samples that are features already."""

    layer_names = ["features"]

    def __init__(self, classes):
        self.nb_classes = classes

    def get_activations(self, x, layer, batch_size):
        return x


def removed_by(is_clean):
    return np.asarray(is_clean) == 0


def clusters(z, one_hot, analysis):
    np.random.seed(0)
    defence = ActivationDefence(Features(one_hot.shape[1]), z, one_hot)
    report, _ = defence.detect_poison(cluster_analysis=analysis, nb_dims=10, reduce="PCA")
    # With `silhouette-scores`, ART 1.20.1 reports suspicious classes, but marks their small clusters as clean again and
    # leaves the large ones uninitialised. What it reports is what counts here.
    removed = np.zeros(len(z), bool)
    for label, of in enumerate(defence.clusters_by_class):
        if analysis == "smaller" or report[f"class_{label}"]["suspicious"]:
            removed[one_hot.argmax(1) == label] = of == np.bincount(of).argmin()
    return removed


def spectral(z, one_hot, expected):
    defence = SpectralSignatureDefense(Features(one_hot.shape[1]), z, one_hot, expected_pp_poison=expected)
    removed = removed_by(defence.detect_poison()[1])
    y = one_hot.argmax(1)
    scores = np.zeros(len(y))
    for label in np.unique(y):
        scores[y == label] = SpectralSignatureDefense.spectral_signature_scores(z[y == label])[:, 0]
    return removed, scores


def within_classes(a, b, y):
    return np.mean([spearmanr(a[y == label], b[y == label])[0] for label in np.unique(y)])


def main():
    print(f"set      | {'filter':45} | removed by both, ours, ART | agreement | rank correlation")
    for number, given in enumerate(REFERENCE["sets"]):
        z, y = np.array(given["features"]), np.array(given["labels"])
        one_hot = np.eye(given["classes"])[y]
        means = np.stack([z[y == label].mean(0) for label in range(given["classes"])])

        def line(name, kind, removed, scores=None):
            ours = given["filters"][kind]
            own = np.array([flag == "1" for flag in ours["rule"]])
            counts = f"{(own & removed).sum()}, {own.sum()}, {removed.sum()}"
            ranks = "" if scores is None else f"{within_classes(np.array(ours['scores']), scores, y):.3f}"
            print(f"{number} of {len(y):3} | {name:45} | {counts:26} | {(own == removed).mean():9.3f} | {ranks}")

        line("spectral, ART", "spectral", *spectral(z, one_hot, REFERENCE["expected"]))
        line("spectral, ART, centred", "spectral", *spectral(z - means[y], one_hot, REFERENCE["expected"]))
        for analysis in ["silhouette-scores", "smaller"]:
            line(f"activation-clustering, ART, {analysis}", "activation-clustering", clusters(z, one_hot, analysis))


if __name__ == "__main__":
    main()
