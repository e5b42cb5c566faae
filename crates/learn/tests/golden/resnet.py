"""Writes resnet.json: small ResNet-18s in PyTorch, to hold the Rust ones against.

    python3 resnet.py       # needs torch; float64 throughout

Names are those of transformers' ResNetModel. Weights and pixels are w(name)[i] = 0.3·sin(1 + i²·0.7 + |name|); scales and
running variances are 1 + w. Features are answered with running statistics, after 0 and after 20 steps of plain SGD, each
on eight rows with their own statistics.
"""

import json
import math

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, SIDE, CLASSES, STEPS, ROWS, RATE = 4, 32, 3, 20, 8, 0.01


def w(name, *shape):
    values = 0.3 * torch.sin(1 + torch.arange(math.prod(shape), dtype=torch.float64) ** 2 * 0.7 + len(name))
    return values.reshape(shape)


class Unit(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride, groups):
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.normalization = nn.BatchNorm2d(outputs)
        self.groups = groups

    def forward(self, x):
        x = self.convolution(x)
        return self.normalization(F.group_norm(x, self.groups) if self.groups else x)


class Layer(nn.Module):
    def __init__(self, inputs, outputs, stride, groups):
        super().__init__()
        resized = inputs != outputs or stride != 1
        self.shortcut = Unit(inputs, outputs, 1, stride, groups) if resized else nn.Identity()
        self.layer = nn.Sequential(
            Unit(inputs, outputs, 3, stride, groups), nn.ReLU(), Unit(outputs, outputs, 3, 1, groups)
        )

    def forward(self, x):
        return torch.relu(self.layer(x) + self.shortcut(x))


class Net(nn.Module):
    def __init__(self, small, groups):
        super().__init__()
        self.stem = Unit(3, WIDTH, 3 if small else 7, 1 if small else 2, groups)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        widths = [WIDTH * 2**stage for stage in range(4)]
        layers = [
            Layer(widths[max(0, stage - (layer == 0))], width, 2 if stage and not layer else 1, groups)
            for stage, width in enumerate(widths)
            for layer in range(2)
        ]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], CLASSES)

    def features(self, x):
        return self.layers(self.pool(torch.relu(self.stem(x)))).mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


def theirs(name):
    """What transformers calls it."""
    if name.startswith("layers."):
        _, layer, rest = name.split(".", 2)
        # A ReLU stands between the units here.
        rest = rest.replace("layer.2.", "layer.1.")
        return f"encoder.stages.{int(layer) // 2}.layers.{int(layer) % 2}.{rest}"
    return name.replace("stem.", "embedder.embedder.")


def fill(net):
    for name, tensor in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        values = w(theirs(name), *tensor.shape)
        shifted = name.endswith("normalization.weight") or name.endswith("running_var")
        tensor.copy_(1 + values if shifted else values)


def golden(small, groups):
    net = Net(small, groups).double()
    fill(net)
    pixels, labels = w("pixels", STEPS + ROWS, 3, SIDE, SIDE), torch.arange(STEPS + ROWS) % CLASSES
    seen = pixels[:3]
    answer = lambda: net.eval().features(seen).detach().numpy().round(8).tolist()
    before, optimizer = answer(), torch.optim.SGD(net.parameters(), RATE)
    net.train()
    for step in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(net(pixels[step : step + ROWS]), labels[step : step + ROWS]).backward()
        optimizer.step()
    norm = net.layers[-1].layer[2].normalization
    return {
        "before": before, "after": answer(),
        "mean": norm.running_mean.numpy().round(8).tolist(), "variance": norm.running_var.numpy().round(8).tolist(),
    }


forms = {"imagenet": (False, None), "cifar": (True, None), "continual": (True, 2)}
with open("resnet.json", "w") as out:
    json.dump({form: golden(*settings) for form, settings in forms.items()}, out)
