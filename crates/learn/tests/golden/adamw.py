"""Three steps of AdamW (Loshchilov and Hutter, 2019, algorithm 2) under a cosine schedule, in double precision.

Prints the values after each step, which golden.rs holds.
"""

from math import cos, pi, sqrt

rate, decay, beta1, beta2, epsilon, total = 0.1, 0.2, 0.9, 0.999, 1e-8, 3
values = [1.0, -2.0, 0.5]
gradients = [[0.3, -0.1, 0.0], [-0.2, 0.4, 1.0], [0.5, 0.05, -2.0]]
first, second = [0.0] * 3, [0.0] * 3
for step, gradient in enumerate(gradients):
    eta = rate * 0.5 * (1 + cos(pi * step / total))
    for i, g in enumerate(gradient):
        first[i] = beta1 * first[i] + (1 - beta1) * g
        second[i] = beta2 * second[i] + (1 - beta2) * g * g
        m, v = first[i] / (1 - beta1 ** (step + 1)), second[i] / (1 - beta2 ** (step + 1))
        values[i] -= eta * (m / (sqrt(v) + epsilon) + decay * values[i])
    print([round(value, 7) for value in values])
