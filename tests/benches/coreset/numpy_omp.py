"""Chooses rows by non-negative matching pursuit with numpy: Gram columns, a Cholesky factor that grows with the support.

    python3 numpy_omp.py FOLDER

FOLDER holds `gradients.safetensors`: `delta` (draws, rows, classes) and `phi` (draws, rows, width + 1) as f32, and their
`target` (draws, classes, width + 1). Prints `ready`; then each line on stdin is a number of rows to choose, answered with
{"seconds": ..., "support": [...]}. Threads are those of numpy's BLAS.
"""

import json
import sys
import time

import numpy as np
from safetensors.numpy import load_file


class Fit:
    """Non-negative least squares by active sets (Lawson and Hanson), with L⁻¹ of the passive atoms' Gram matrix L Lᵀ."""

    def __init__(self, atoms, floor):
        self.floor, self.count, self.passive = floor, 0, []
        self.gram, self.inverse = np.zeros((atoms, atoms)), np.zeros((atoms, atoms))
        self.target, self.weights = np.zeros(atoms), np.zeros(atoms)

    def push(self, products, target):
        n = self.count
        self.gram[n, : n + 1] = self.gram[: n + 1, n] = products
        self.target[n] = target
        self.count += 1

    def enter(self, atom):
        k = len(self.passive)
        inverse = self.inverse[:k, :k]
        row = inverse @ self.gram[atom, self.passive]
        own = self.gram[atom, atom]
        pivot = np.sqrt(max(own - row @ row, 1e-8 * own))
        self.inverse[k, :k] = -(row @ inverse) / pivot
        self.inverse[k, k] = 1 / pivot
        self.passive.append(atom)

    def release(self):
        self.passive = [atom for atom in self.passive if self.weights[atom] > 0]
        k = len(self.passive)
        factor = np.linalg.cholesky(self.gram[np.ix_(self.passive, self.passive)])
        self.inverse[:k, :k] = np.linalg.inv(factor)
        self.inverse[:k, k:] = 0

    def refit(self):
        for _ in range(3 * self.count):
            weights = self.weights[: self.count]
            idle = np.flatnonzero(weights == 0)
            slopes = self.target[idle] - self.gram[idle, : self.count] @ weights
            if len(idle) == 0 or slopes.max() <= self.floor:
                return
            atom = idle[slopes.argmax()]
            self.enter(atom)
            self.descend()
            if self.weights[atom] == 0:
                return

    def descend(self):
        while True:
            k = len(self.passive)
            inverse, now = self.inverse[:k, :k], self.weights[self.passive]
            aim = inverse.T @ (inverse @ self.target[self.passive])
            low = aim <= 0
            if not low.any():
                self.weights[self.passive] = aim
                return
            steps = np.where(low, now / np.where(low, now - aim, 1), np.inf)
            now += steps.min() * (aim - now)
            now[steps.argmin()] = 0
            self.weights[self.passive] = np.maximum(now, 0)
            self.release()


def choose(delta, phi, target, atoms, tolerance=1e-4):
    draws, rows, _ = delta.shape
    correlations = sum(((d @ t) * p).sum(1) for d, t, p in zip(delta, target, phi)) / draws
    norm2, floor = (target**2).sum() / draws, 1e-11 * correlations.max()
    columns, support, taken = np.empty((atoms, rows)), [], np.zeros(rows, bool)
    fit, missing = Fit(atoms, floor), correlations
    while len(support) < atoms:
        atom = int(np.where(taken, -np.inf, missing).argmax())
        if missing[atom] <= floor:
            break
        columns[len(support)] = sum((d @ d[atom]) * (p @ p[atom]) for d, p in zip(delta, phi)) / draws
        taken[atom] = True
        support.append(atom)
        fit.push(columns[len(support) - 1, support], correlations[atom])
        fit.refit()
        k = len(support)
        weights = fit.weights[:k]
        missing = correlations - weights @ columns[:k]
        rest = norm2 - weights @ fit.target[:k] - weights @ missing[support]
        if np.sqrt(max(rest, 0) / norm2) <= tolerance:
            break
    return support


def main():
    stored = load_file(f"{sys.argv[1]}/gradients.safetensors")
    delta, phi, target = (stored[name].astype(np.float64) for name in ["delta", "phi", "target"])
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        support = choose(delta, phi, target, int(line))
        print(json.dumps({"seconds": time.perf_counter() - start, "support": support}), flush=True)


main()
