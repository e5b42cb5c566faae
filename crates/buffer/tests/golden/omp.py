"""Writes omp.json: non-negative matching pursuit with every refit by scipy.optimize.nnls.

Run beside the file, with numpy and scipy: python3 omp.py
"""
import json

import numpy as np
from scipy.optimize import nnls

FLOOR = 1e-11  # as in omp.rs


def refit(atoms, target, ridge):
    size = atoms.shape[1]
    rows = np.vstack([atoms, np.sqrt(ridge) * np.eye(size)])
    return nnls(rows, np.r_[target, np.zeros(size)])[0]


def pursue(u, target, k, tolerance, ridge, normalised):
    scale = np.linalg.norm(u, axis=1) if normalised else np.ones(len(u))
    support, weights, residuals = [], np.zeros(0), []
    rest = target
    floor = FLOOR * (u @ target).max()
    while len(support) < k and not (residuals and residuals[-1] <= tolerance):
        correlations = u @ rest
        scores = np.where(correlations > floor, correlations / scale, -np.inf)
        scores[support] = -np.inf
        atom = int(np.argmax(scores))
        if scores[atom] == -np.inf:
            break
        support.append(atom)
        weights = refit(u[support].T, target, ridge)
        rest = target - u[support].T @ weights
        residuals.append(np.linalg.norm(rest) / np.linalg.norm(target))
    return support, weights, residuals


def case(seed, n, dim, k, shift=0.5, tolerance=1e-4, ridge=0.0, normalised=False):
    rng = np.random.default_rng(seed)
    u = np.round(rng.normal(size=(n, dim)) + shift, 2)
    support, weights, residuals = pursue(u, u.sum(0), k, tolerance, ridge, normalised)
    return dict(dim=dim, k=k, tolerance=tolerance, ridge=ridge, normalised=normalised, features=u.ravel().tolist(),
                support=support, weights=weights.tolist(), residuals=residuals)


if __name__ == "__main__":
    cases = [
        case(0, 24, 8, 6),
        case(6, 24, 20, 20, shift=0.0),
        case(2, 20, 6, 10, ridge=2.0),
        case(3, 20, 6, 10, normalised=True),
        case(1, 20, 8, 20, tolerance=0.05),
    ]
    assert any(0.0 in one["weights"] for one in cases), "no case drops an atom"
    with open("omp.json", "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(one, separators=(",", ":")) for one in cases) + "\n]\n")
