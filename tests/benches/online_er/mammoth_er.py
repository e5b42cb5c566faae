"""Online experience replay by mammoth's `er` as shipped, batch by batch as its training loop calls it; an epoch when told.

    python3 mammoth_er.py FOLDER THREADS CHECKOUT

FOLDER holds `rows.safetensors`: `pixels` (rows, 784) as bytes, and `labels`. Prints `ready`; then each line on stdin is
answered with {"seconds": of an epoch, "accuracy": on its first 10,000 rows}. Loading and decoding images, progress bars and
logs, which its loop has besides, are left out.
"""

import json
import sys
import time
from argparse import Namespace
from types import ModuleType

folder, threads, checkout = sys.argv[1:]
sys.path.insert(0, checkout)
# As they are, these packages import every method and data set there is, and some of those download weights.
ASKED = {"models": ["get_model_names"], "datasets": ["get_dataset", "get_dataset_names", "get_dataset_config_names"]}
for package, names in ASKED.items():
    sys.modules[package] = ModuleType(package)
    sys.modules[package].__path__ = [f"{checkout}/{package}"]
    for name in names:
        setattr(sys.modules[package], name, None)
said = sys.stdout
# Its modules may print; answers alone go to stdout.
sys.stdout = sys.stderr

import torch
import torch.nn.functional as F
from backbone.MNISTMLP import BaseMNISTMLP
from models.er import Er
from safetensors.torch import load_file

ARGS = Namespace(
    optimizer="sgd", lr=0.03, optim_wd=0.0, optim_mom=0.0, optim_nesterov=False, buffer_size=500, minibatch_size=10,
    label_perc=1, device="cpu", nowand=True,
)
BATCH = 10


class Stream:
    """What the model asks of a data set: one task with all classes, images as they are."""

    N_CLASSES, N_TASKS, N_CLASSES_PER_TASK, SETTING = 10, 1, 10, "class-il"

    def get_offsets(self, task):
        return 0, 10


def train(model, pixels, labels):
    model.net.train()
    for rows in torch.randperm(len(labels)).split(BATCH):
        inputs = pixels[rows].float().div(255).view(-1, 1, 28, 28)
        model.meta_observe(inputs, labels[rows], inputs, epoch=0)


def main():
    stored = load_file(f"{folder}/rows.safetensors")
    pixels, labels = stored["pixels"], stored["labels"]
    torch.set_num_threads(int(threads))
    print("ready", file=said, flush=True)
    for _ in sys.stdin:
        stream = Stream()
        model = Er(BaseMNISTMLP(28 * 28, 10), F.cross_entropy, ARGS, None, stream)
        model.device = torch.device("cpu")
        model.meta_begin_task(stream)
        start = time.perf_counter()
        train(model, pixels, labels)
        seconds = time.perf_counter() - start
        with torch.no_grad():
            right = model.net(pixels[:10_000].float().div(255)).argmax(1) == labels[:10_000]
        print(json.dumps({"seconds": seconds, "accuracy": right.float().mean().item()}), file=said, flush=True)


main()
