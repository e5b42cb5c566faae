"""Online experience replay with PyTorch: an MLP, plain SGD, a reservoir; one epoch when told.

    python3 torch_er.py FOLDER THREADS

FOLDER holds `rows.safetensors`: `pixels` (rows, 784) as bytes, and `labels`. Prints `ready`; then each line on stdin is
answered with {"seconds": of an epoch, "accuracy": on its first 10,000 rows}.
"""

import json
import random
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

BATCH, REPLAYED, CAPACITY, RATE = 10, 10, 500, 0.03


class Reservoir:
    def __init__(self):
        self.seen = 0
        self.inputs, self.labels = torch.empty(CAPACITY, 784), torch.empty(CAPACITY, dtype=torch.int64)

    def add(self, inputs, labels):
        for x, y in zip(inputs, labels):
            slot = self.seen if self.seen < CAPACITY else random.randrange(self.seen + 1)
            if slot < CAPACITY:
                self.inputs[slot], self.labels[slot] = x, y
            self.seen += 1

    def draw(self):
        held = min(self.seen, CAPACITY)
        slots = torch.randperm(held)[:REPLAYED]
        return self.inputs[slots], self.labels[slots]


def train(model, optimizer, pixels, labels):
    memory = Reservoir()
    for rows in torch.randperm(len(labels)).split(BATCH):
        x, y = pixels[rows].float() / 255, labels[rows]
        if memory.seen:
            inputs, remembered = memory.draw()
            logits = model(torch.cat([x, inputs]))
            loss = F.cross_entropy(logits[: len(x)], y) + F.cross_entropy(logits[len(x) :], remembered)
        else:
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        memory.add(x, y)


def main():
    torch.set_num_threads(int(sys.argv[2]))
    rows = load_file(f"{sys.argv[1]}/rows.safetensors")
    pixels, labels = rows["pixels"], rows["labels"]
    print("ready", flush=True)
    for _ in sys.stdin:
        sizes = [(784, 100), (100, 100)]
        layers = [layer for size in sizes for layer in (torch.nn.Linear(*size), torch.nn.ReLU())]
        model = torch.nn.Sequential(*layers, torch.nn.Linear(100, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        start = time.perf_counter()
        train(model, optimizer, pixels, labels)
        seconds = time.perf_counter() - start
        with torch.no_grad():
            right = model(pixels[:10_000].float() / 255).argmax(1) == labels[:10_000]
        print(json.dumps({"seconds": seconds, "accuracy": right.float().mean().item()}), flush=True)


main()
