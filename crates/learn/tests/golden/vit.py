"""Writes vit.json: a ViT forward pass in NumPy, straight from the definition, to hold the Rust one against.

    python3 vit.py          # needs numpy; float64 throughout

Names and layout are those of transformers' ViTModel. Weights and pixels are w(name)[i] = 0.3·sin(1 + i·0.7 + |name|),
so that the fixture holds the answers only.
"""

import json
import math

import numpy as np

WIDTH, LAYERS, HEADS, PATCH, INNER, SIDE, CHANNELS, EPS = 12, 3, 3, 4, 20, 8, 3, 1e-6


def w(name, *shape):
    return 0.3 * np.sin(1 + np.arange(math.prod(shape)) * 0.7 + len(name)).reshape(shape)


def linear(name, x, out):
    return x @ w(f"{name}.weight", out, x.shape[-1]).T + w(f"{name}.bias", out)


def norm(name, x):
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS)
    return scaled * w(f"{name}.weight", WIDTH) + w(f"{name}.bias", WIDTH)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def heads(x):
    return x.reshape(*x.shape[:2], HEADS, -1).transpose(0, 2, 1, 3)


def attention(name, x):
    query, key, value = (heads(linear(f"{name}.attention.{part}", x, WIDTH)) for part in ("query", "key", "value"))
    scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(WIDTH // HEADS)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    gathered = (scores / scores.sum(-1, keepdims=True)) @ value
    return linear(f"{name}.output.dense", gathered.transpose(0, 2, 1, 3).reshape(x.shape), WIDTH)


def block(name, x):
    x = x + attention(f"{name}.attention", norm(f"{name}.layernorm_before", x))
    inner = gelu(linear(f"{name}.intermediate.dense", norm(f"{name}.layernorm_after", x), INNER))
    return x + linear(f"{name}.output.dense", inner, WIDTH)


def embed(pixels):
    kernel = w("embeddings.patch_embeddings.projection.weight", WIDTH, CHANNELS, PATCH, PATCH)
    bias = w("embeddings.patch_embeddings.projection.bias", WIDTH)
    starts = range(0, SIDE, PATCH)
    patches = [pixels[:, :, y : y + PATCH, x : x + PATCH] for y in starts for x in starts]
    embedded = [np.einsum("bcyx,dcyx->bd", patch, kernel) + bias for patch in patches]
    cls = np.broadcast_to(w("embeddings.cls_token", 1, WIDTH), (len(pixels), WIDTH))
    tokens = np.stack([cls, *embedded], 1)
    return tokens + w("embeddings.position_embeddings", 1, tokens.shape[1], WIDTH)


x = embed(w("pixels", 2, CHANNELS, SIDE, SIDE))
embedded = x
for layer in range(LAYERS):
    x = block(f"encoder.layer.{layer}", x)
features = norm("layernorm", x)[:, 0]
with open("vit.json", "w") as out:
    json.dump({"embedded": embedded.round(8).tolist(), "features": features.round(8).tolist()}, out)
