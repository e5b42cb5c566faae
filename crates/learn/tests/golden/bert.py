"""Writes bert.json: a BERT forward pass in NumPy, straight from the definition, to hold the Rust one against.

    python3 bert.py         # needs numpy; float64 throughout

Names and layout are those of transformers' BertModel. Weights are w(name)[i] = 0.3·sin(1 + i·0.7 + |name|), so that the
fixture holds the answers only. The second text is padded.
"""

import json
import math

import numpy as np

WIDTH, LAYERS, HEADS, INNER, WORDS, POSITIONS, EPS = 12, 2, 3, 20, 11, 6, 1e-6
IDS, LENGTHS = np.array([[1, 5, 9, 2], [1, 7, 0, 0]]), [4, 2]


def w(name, *shape):
    return 0.3 * np.sin(1 + np.arange(math.prod(shape)) * 0.7 + len(name)).reshape(shape)


def linear(name, x, out):
    return x @ w(f"{name}.weight", out, x.shape[-1]).T + w(f"{name}.bias", out)


def norm(name, x):
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS)
    return scaled * w(f"{name}.weight", WIDTH) + w(f"{name}.bias", WIDTH)


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attention(name, x):
    def heads(part):
        return linear(f"{name}.self.{part}", x, WIDTH).reshape(len(x), HEADS, -1).transpose(1, 0, 2)

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(WIDTH // HEADS)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    gathered = (weights @ value).transpose(1, 0, 2).reshape(len(x), WIDTH)
    return linear(f"{name}.output.dense", gathered, WIDTH)


def encode(ids):
    """One text without padding: (tokens) -> (tokens, width)."""
    words = w("embeddings.word_embeddings.weight", WORDS, WIDTH)[ids]
    positions = w("embeddings.position_embeddings.weight", POSITIONS, WIDTH)[: len(ids)]
    types = w("embeddings.token_type_embeddings.weight", 2, WIDTH)[0]
    x = norm("embeddings.LayerNorm", words + positions + types)
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        x = norm(f"{name}.attention.output.LayerNorm", x + attention(f"{name}.attention", x))
        inner = gelu(linear(f"{name}.intermediate.dense", x, INNER))
        x = norm(f"{name}.output.LayerNorm", x + linear(f"{name}.output.dense", inner, WIDTH))
    return x


encoded = [encode(ids[:length]) for ids, length in zip(IDS, LENGTHS)]
answers = {
    "mean": [np.round(x.mean(0), 7).tolist() for x in encoded],
    "cls": [np.round(x[0], 7).tolist() for x in encoded],
}
with open("bert.json", "w") as file:
    json.dump(answers, file)
    file.write("\n")
