"""Saves an adapter as PEFT does, with random values, and prints the logits that PEFT computes with it, as JSON.

    python3 peft_save.py BASE OUT ROWS.safetensors

ROWS holds `pixel_values`, or `input_ids` and `attention_mask`. Images get transformers' own classifier, kept in the
adapter's file; texts a head on the mean over tokens, in a file of its own.
"""

import json
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageClassification

base, out, rows = sys.argv[1], sys.argv[2], load_file(sys.argv[3])
rows = {name: rows[name] if name == "pixel_values" else rows[name].long() for name in rows}
images = "pixel_values" in rows
torch.manual_seed(1)
if images:
    model = AutoModelForImageClassification.from_pretrained(base, num_labels=3)
else:
    model = AutoModel.from_pretrained(base, add_pooling_layer=False)
known = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
targets = known & {"query", "value", "dense", "q_proj", "v_proj", "o_proj", "fc1", "fc2"}
config = LoraConfig(
    r=2, lora_alpha=6, target_modules=sorted(targets), init_lora_weights=False,
    modules_to_save=["classifier"] if images else None,
)
model = get_peft_model(model, config).eval()
model.save_pretrained(out)
with torch.no_grad():
    if images:
        logits = model(**rows).logits
    else:
        hidden, mask = model(**rows).last_hidden_state, rows["attention_mask"].unsqueeze(-1)
        features = (hidden * mask).sum(1) / mask.sum(1)
        width = features.shape[1]
        head = {"weight": torch.randn(3, width) / width**0.5, "bias": torch.randn(3)}
        save_file(head, f"{out}/head.safetensors")
        logits = features @ head["weight"].T + head["bias"]
    print(json.dumps(logits.tolist()))
