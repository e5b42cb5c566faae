"""Saves a small ResNet-18 with a classifier as transformers does, and prints its features of the images beside it.

    python3 resnet_save.py FOLDER      # leaves `rows.safetensors`, the images, in FOLDER too
"""

import json
import sys

import torch
from safetensors.torch import save_file
from transformers import ResNetConfig, ResNetForImageClassification

folder = sys.argv[1]
torch.manual_seed(0)
config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[2, 2, 2, 2], layer_type="basic", num_labels=3)
model = ResNetForImageClassification(config)
pixels = torch.randn(6, 3, 40, 40)
# Running statistics of its own.
model.train()(pixels)
model.eval().save_pretrained(folder)
save_file({"pixels": pixels}, f"{folder}/rows.safetensors")
with torch.no_grad():
    print(json.dumps(model.resnet(pixels).pooler_output.flatten(1).tolist()))
