# Makes selective.json: choices of rows by numpy and scipy. numpy 2, scipy 1.
import json
import sys

import numpy as np
from scipy.optimize import nnls

rng = np.random.default_rng(10)
rows, classes, width, count = 24, 4, 6, 8
phi = np.round(np.maximum(rng.normal(size=(rows, width)), 0), 3)
z = np.round(rng.normal(size=(rows, classes)) * 1.2, 3)
p = np.exp(z - z.max(1, keepdims=True))
p /= p.sum(1, keepdims=True)
y = np.array([rng.choice(classes, p=q) for q in p])
delta = p - np.eye(classes)[y]
padded = np.c_[phi, np.ones(rows)]
gradients = np.einsum("bc,bd->bcd", delta, padded).reshape(rows, -1).T
target = gradients.mean(1)
losses = -np.log(p[np.arange(rows), y])

support, left = [], target.copy()
while len(support) < count:
    score = gradients.T @ left
    score[support] = -np.inf
    if score.max() <= 1e-12:
        break
    support.append(int(score.argmax()))
    weights = nnls(gradients[:, support], target)[0]
    left = target - gradients[:, support] @ weights
matched = sorted((row, weight) for row, weight in zip(support, weights) if weight > 0)
top = sorted(np.argsort(-losses)[:count].tolist())
error = lambda chosen, w: float(np.linalg.norm(gradients[:, chosen] @ w - target) / np.linalg.norm(target))
json.dump(
    {
        "features": phi.tolist(),
        "logits": z.tolist(),
        "labels": y.tolist(),
        "count": count,
        "matched": {
            "rows": [row for row, _ in matched],
            "weights": [round(float(weight), 7) for _, weight in matched],
            "error": round(error([row for row, _ in matched], np.array([w for _, w in matched])), 6),
        },
        "top": {
            "rows": top,
            "weights": [round(float(w), 7) for w in nnls(gradients[:, top], target)[0]],
            "error": round(error(top, np.full(count, 1 / count)), 6),
        },
    },
    sys.stdout,
)
