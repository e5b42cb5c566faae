"""Takes steps of LoRA with transformers, PEFT and torch's AdamW when told.

    python3 peft_step.py FOLDER float32|bfloat16 THREADS

FOLDER holds `base`, `version` (the adapter and the head to start from) and `rows.safetensors`. Prints `ready`; then each
line on stdin is a number of steps, answered with {"ms": [...], "loss": of the last}.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

folder, dtype, threads = sys.argv[1], getattr(torch, sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
base = AutoModel.from_pretrained(f"{folder}/base", add_pooling_layer=False, dtype=dtype)
model = PeftModel.from_pretrained(base, f"{folder}/version", is_trainable=True).train()
stored = load_file(f"{folder}/version/head.safetensors")
head = torch.nn.Linear(stored["weight"].shape[1], stored["weight"].shape[0])
head.load_state_dict(stored)
rows = load_file(f"{folder}/rows.safetensors")
labels = rows.pop("labels")
for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
parameters = [p for p in model.parameters() if p.requires_grad] + list(head.parameters())
assert all(p.dtype == torch.float32 for p in parameters)
optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.0)
if "input_ids" in rows:
    rows["attention_mask"] = torch.ones_like(rows["input_ids"])
else:
    rows["pixel_values"] = rows["pixel_values"].to(dtype)


def step():
    hidden = model(**rows).last_hidden_state
    features = hidden.mean(1) if "input_ids" in rows else hidden[:, 0]
    loss = F.cross_entropy(head(features.float()), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


print("ready", flush=True)
for line in sys.stdin:
    times = []
    for _ in range(int(line)):
        start = time.perf_counter()
        loss = step()
        times.append(1e3 * (time.perf_counter() - start))
    print(json.dumps({"ms": times, "loss": loss}), flush=True)
