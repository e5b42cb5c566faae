"""Prints the logits that transformers and PEFT compute for a published version, as JSON.

    python3 peft_logits.py BASE VERSION ROWS.safetensors

ROWS holds `pixel_values`, or `input_ids` and `attention_mask`. Features are the class token's for images, the mean over
tokens for texts.
"""

import json
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

base, version, rows = sys.argv[1], sys.argv[2], load_file(sys.argv[3])
rows = {name: rows[name] if name == "pixel_values" else rows[name].long() for name in rows}
model = PeftModel.from_pretrained(AutoModel.from_pretrained(base, add_pooling_layer=False), version).eval()
head = load_file(f"{version}/head.safetensors")
with torch.no_grad():
    hidden = model(**rows).last_hidden_state
    if "attention_mask" in rows:
        mask = rows["attention_mask"].unsqueeze(-1)
        features = (hidden * mask).sum(1) / mask.sum(1)
    else:
        features = hidden[:, 0]
    print(json.dumps((features @ head["weight"].T + head["bias"]).tolist()))
