"""Writes shift.json: two-sample tests by scipy, and the unbiased discrepancy by plain sums.

Run beside the file, with numpy and scipy: python3 shift.py
"""

import json

import numpy as np
from scipy.spatial.distance import cdist, pdist
from scipy.stats import chi2_contingency, ks_2samp

rng = np.random.default_rng(3)


def case(m, n, shift, ties=False):
    before, now = rng.normal(size=(m, 3)), rng.normal(size=(n, 3)) + shift
    before, now = np.round(before, 1 if ties else 3), np.round(now, 1 if ties else 3)
    tests = [ks_2samp(before[:, j], now[:, j], method="exact") for j in range(3)]
    both = np.r_[before, now]
    width = np.sort(pdist(both))[(len(pdist(both)) - 1) // 2]
    kernel = lambda a, b: np.exp(-0.5 * (cdist(a, b) / width) ** 2)
    within = lambda a: (kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))
    return dict(
        before=before.tolist(),
        now=now.tolist(),
        distances=[test.statistic for test in tests],
        p=[test.pvalue for test in tests],
        bandwidth=width,
        discrepancy=within(before) + within(now) - 2 * kernel(before, now).mean(),
    )


tables = [[[10, 20, 30], [12, 18, 33]], [[50, 1, 7, 3], [20, 9, 4, 30]], [[5, 5], [5, 5]]]
found = [chi2_contingency(table, correction=False) for table in tables]
with open("shift.json", "w") as file:
    json.dump(
        dict(
            samples=[case(12, 9, 0.0), case(40, 25, 0.3), case(30, 60, 1.5), case(20, 20, 0.2, ties=True)],
            tables=[dict(table=t, statistic=f.statistic, p=f.pvalue) for t, f in zip(tables, found)],
        ),
        file,
    )
