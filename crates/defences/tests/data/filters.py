"""Independent reference values for the filters (numpy, scipy, scikit-learn, blake3). Writes filters.json."""
import json, pathlib, numpy as np
from blake3 import blake3
from scipy.optimize import minimize
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

SHARE, EXPECTED, DECAY, SEED = 0.1, 0.12, 1e-2, 7

def data(K, d, rng):
    """Clusters, and poisons: some far out, some between the clusters. Multiples of 1/64, which f32 holds exactly."""
    centres = rng.normal(size=(K, d)) * 1.5
    y = np.arange(30 * K) % K
    z = centres[y] + rng.normal(size=(len(y), d))
    far, near = rng.normal(size=(6, d)) * 4, centres[np.arange(8) % K] + rng.normal(size=(8, d)) * 0.3
    poisons = np.concatenate([far, near]); labels = np.concatenate([np.arange(6) % K, (np.arange(8) + 1) % K])
    return np.round(np.concatenate([z, poisons]) * 64) / 64, np.concatenate([y, labels]), np.arange(len(y) + 14) >= len(y)

def aug(z): return np.concatenate([z, np.ones((len(z), 1))], 1)
def probs(w, z):
    s = aug(z) @ w.T; s -= s.max(1, keepdims=True); p = np.exp(s); return p / p.sum(1, keepdims=True)
def losses(w, z, y): return -np.log(probs(w, z)[np.arange(len(y)), y])
def fit(z, y, K):
    E = np.eye(K)[y]
    def f(x):
        w = x.reshape(K, -1); g = (probs(w, z) - E).T @ aug(z) / len(y); g[:, :-1] += DECAY * w[:, :-1]
        return losses(w, z, y).mean() + DECAY / 2 * (w[:, :-1] ** 2).sum(), g.ravel()
    x = minimize(f, np.zeros(K * (z.shape[1] + 1)), jac=True, method="BFGS", options=dict(gtol=1e-10, maxiter=5000)).x
    return x.reshape(K, -1)
def gradients(w, z, y, K): return ((probs(w, z) - np.eye(K)[y])[:, :, None] * aug(z)[:, None, :]).reshape(len(y), -1)

def top(scores, share):
    removed = np.zeros(len(scores), bool); n = int(np.floor(share * len(scores) + 0.5))
    removed[np.argsort(-scores, kind="stable")[:n]] = True; return removed
def top_by_class(scores, y, share):
    removed = np.zeros(len(y), bool)
    for c in np.unique(y): removed[np.flatnonzero(y == c)[top(scores[y == c], share)]] = True
    return removed
def by_class(z, y, f):
    scores = np.zeros(len(y))
    for c in np.unique(y): scores[y == c] = f(z[y == c], c)
    return scores

def slab(z, y, K):
    mu = np.stack([z[y == c].mean(0) for c in range(K)])
    def f(own, c):
        across = mu[c] - np.delete(mu, c, 0).mean(0)
        return np.abs((own - mu[c]) @ across) / np.linalg.norm(across)
    return by_class(z, y, f)
def svd(z):
    _, s, vt = np.linalg.svd(z, full_matrices=False)
    rank = int(np.searchsorted(np.cumsum(s ** 2), 0.95 * (s ** 2).sum())) + 1
    return np.linalg.norm(z - z @ vt[:rank].T @ vt[:rank], axis=1)
def knn_distance(z, y): return by_class(z, y, lambda own, c: NearestNeighbors(n_neighbors=6).fit(own).kneighbors(own)[0][:, 5])
def knn_label(z, y, K):
    k = -(-len(y) // K)
    near = NearestNeighbors(n_neighbors=k + 1).fit(z).kneighbors(z)[1]
    votes = np.stack([np.bincount(y[row[row != i][:k]], minlength=K) for i, row in enumerate(near)])
    return (votes.max(1) - votes[np.arange(len(y)), y]) / k
def spectral(z, y): return by_class(z, y, lambda own, c: (np.linalg.svd(own - own.mean(0))[2][0] @ (own - own.mean(0)).T) ** 2)
def clustering(z, y):
    rule = np.zeros(len(y), bool)
    def f(own, c):
        points = PCA(min(10, own.shape[1])).fit_transform(own); km = KMeans(2, n_init=50, random_state=0).fit(points)
        small = int((km.labels_ == 1).sum() * 2 < len(own)); small = small if 2 * (km.labels_ == 1).sum() != len(own) else 1
        inside = km.labels_ == small
        if inside.mean() < 0.35 and silhouette_score(points, km.labels_) >= 0.1: rule[np.flatnonzero(y == c)[inside]] = True
        d = np.linalg.norm(points[:, None] - km.cluster_centers_[None], axis=2)
        return d[:, 1 - small] - d[:, small]
    return by_class(z, y, f), rule
def sever(z, y, K, share):
    scores, kept = np.zeros(len(y)), np.arange(len(y))
    for r in range(1, 5):
        g = gradients(fit(z[kept], y[kept], K), z[kept], y[kept], K); g -= g.mean(0)
        s = (g @ np.linalg.svd(g, full_matrices=False)[2][0]) ** 2
        go = int(np.floor(share * r / 4 * len(y) + 0.5)) - (len(y) - len(kept))
        order = np.argsort(-s, kind="stable"); scores[kept] = s / s.max(); scores[kept[order[:go]]] += 4 - r
        removed = kept[order[:go]]; kept = np.setdiff1d(kept, removed)
    return scores, ~np.isin(np.arange(len(y)), kept)
def hessian(w, z):
    p, a = probs(w, z), aug(z); K, D = w.shape
    H = np.einsum("ik,kl,id,ie->kdle", p, np.eye(K), a, a) - np.einsum("ik,il,id,ie->kdle", p, p, a, a)
    H = H.reshape(K * D, K * D) / len(z)
    return H + DECAY * np.kron(np.eye(K), np.diag([1.0] * (D - 1) + [0.0]))
def self_influence(z, y, K, whole):
    w = fit(z, y, K); g = gradients(w, z, y, K); H = hessian(w, z); D = w.shape[1]
    if not whole:
        decay = np.kron(np.eye(K), np.diag([DECAY] * (D - 1) + [0.0]))
        H = (H - decay) * np.kron(np.eye(K), np.ones((D, D))) * K / (K - 1) + decay
    return np.einsum("ij,jk,ik->i", g, np.linalg.pinv(H, rcond=1e-13, hermitian=True), g) / len(y)
def trimmed(z, y, K, share):
    removed, s = None, losses(fit(z, y, K), z, y)
    for _ in range(11):
        now = top(s, share)
        if removed is not None and (now == removed).all(): break
        removed = now; s = losses(fit(z[~removed], y[~removed], K), z, y)
    return s, top(s, share)
def roni(z, y, K):
    words = []
    for row in z:
        h = blake3(derive_key_context="hemlock 2026 halves of the filter roni"); h.update(SEED.to_bytes(8, "little")); h.update((row + 0.0).astype("<f8").tobytes())
        words.append(int.from_bytes(h.digest()[:8], "little"))
    side = np.array([word % 2 for word in words]); scores, removed = np.zeros(len(y)), np.zeros(len(y), bool)
    for half in range(2):
        A, B = np.flatnonzero(side == half), np.flatnonzero(side != half)
        w = fit(z[A], y[A], K); ahead = gradients(w, z[B], y[B], K).mean(0)
        H = hessian(w, z[A]); moved = np.linalg.pinv(H, rcond=1e-13, hermitian=True) @ ahead
        scores[A] = -gradients(w, z[A], y[A], K) @ moved / len(A)
        worst = A[np.argsort(-scores[A], kind="stable")][:int(np.floor(EXPECTED * len(A) + 0.5))]
        size = -(-len(worst) // 4)
        for group in (worst[i:i + size] for i in range(0, len(worst), size)):
            rest = np.setdiff1d(A, group)
            if losses(fit(z[rest], y[rest], K), z[B], y[B]).mean() < losses(w, z[B], y[B]).mean(): removed[group] = True
    return scores, top(scores, SHARE), removed

out = {"share": SHARE, "expected": EXPECTED, "weight_decay": DECAY, "seed": SEED, "sets": []}
for K, d in ((3, 12), (2, 4)):
    z, y, poison = data(K, d, np.random.default_rng(K))
    head = fit(z, y, K); found = {}
    def add(name, scores, share, rule): found[name] = dict(scores=scores, share=share, rule=rule, auroc=roc_auc_score(poison, scores))
    def simple(name, scores, generosity=1.0): add(name, scores, top_by_class(scores, y, SHARE), top_by_class(scores, y, generosity * EXPECTED))
    simple("sphere", by_class(z, y, lambda own, c: np.linalg.norm(own - own.mean(0), axis=1)))
    simple("slab", slab(z, y, K)); simple("loss", losses(head, z, y)); simple("svd", svd(z)); simple("knn-distance", knn_distance(z, y))
    s = knn_label(z, y, K); add("knn-label", s, top(s, SHARE), s > 0)
    simple("spectral", spectral(z, y), 1.5)
    s, rule = clustering(z, y); add("activation-clustering", s, top_by_class(s, y, SHARE), rule)
    s, share = sever(z, y, K, SHARE); add("sever", s, share, sever(z, y, K, 2 * EXPECTED)[1])
    simple("self-influence", self_influence(z, y, K, K == 2))
    s, share = trimmed(z, y, K, SHARE); add("trimmed-loss", s, share, trimmed(z, y, K, EXPECTED)[1])
    add("roni", *roni(z, y, K))
    exact = self_influence(z, y, K, True)
    out["sets"].append(dict(classes=K, features=z, labels=y, poison=poison, filters=found, self_influence=exact))

def plain(x):
    if isinstance(x, dict): return {k: plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)): return [plain(v) for v in x]
    if isinstance(x, np.ndarray):
        if x.dtype == bool: return "".join("01"[int(v)] for v in x)
        if x.ndim == 2: return [plain(v) for v in x]
        return [int(v) if x.dtype.kind == "i" else float(f"{v:.9g}") for v in x]
    return float(f"{x:.9g}") if isinstance(x, float) else x
pathlib.Path(__file__).with_name("filters.json").write_text(json.dumps(plain(out), separators=(",", ":")) + "\n")
