"""Experience replay on a text stream with transformers, PEFT and PyTorch alone: what Perennial's figures are held against.

    python3 peft_er.py DATA STREAM.json MODEL SEED

LoRA of rank 8 on query and value, mean pooling, a linear head over all classes, AdamW at 0.002 without decay and anew for
each task, 3 epochs, batches of 32 of which 16 are replayed once there is a memory, 500 reservoir slots filled after each
task, texts cut to 64 tokens. Prints a line a task on stderr, then {"average_accuracy", "forgetting", "steps", "seconds"}.
"""

import json
import os
import pathlib
import random
import sys
import time

import pyarrow.parquet as parquet
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoTokenizer

MEMORY, EPOCHS, BATCH, RATE, LENGTH = 500, 3, 32, 2e-3, 64

data, stream, folder, seed = pathlib.Path(sys.argv[1]), json.load(open(sys.argv[2])), sys.argv[3], int(sys.argv[4])
torch.manual_seed(seed)
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
draw = random.Random(seed)


def rows(split, task):
    """(text, label) of the rows that pass the task's filter."""
    files = [stream[split]] if isinstance(stream[split], str) else stream[split]
    table = [row for file in files for row in parquet.read_table(data / file).to_pylist()]
    kept = [row for row in table if all(row[column] in values for column, values in task["filter"].items())]
    return [(row[stream["input_column"]], row[stream["label_column"]]) for row in kept]


train, test = ([rows(split, task) for task in stream["tasks"]] for split in ("train", "test"))
tokenizer, base = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, add_pooling_layer=False)
model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"]))
classes = 1 + max(label for task in train for _, label in task)
head = torch.nn.Linear(base.config.hidden_size, classes)
trained = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]


def logits(texts):
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    hidden = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1).float()
    return head((hidden * mask).sum(1) / mask.sum(1))


@torch.no_grad()
def accuracy(task):
    model.eval()
    task = sorted(task, key=lambda row: len(row[0]))
    right = 0
    for start in range(0, len(task), 128):
        texts, labels = zip(*task[start : start + 128])
        right += (logits(list(texts)).argmax(1) == torch.tensor(labels)).sum().item()
    return right / len(task)


memory, seen, matrix, steps, seconds = [], 0, [], 0, 0.0
for task in train:
    optimizer, started = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0), time.perf_counter()
    new = BATCH // 2 if memory else BATCH
    model.train()
    for _ in range(EPOCHS):
        order = draw.sample(task, len(task))
        for start in range(0, len(order), new):
            replayed = draw.sample(memory, BATCH - new)
            texts, labels = zip(*order[start : start + new], *replayed)
            loss = F.cross_entropy(logits(list(texts)), torch.tensor(labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
    seconds += time.perf_counter() - started
    for row in draw.sample(task, len(task)):
        seen += 1
        if len(memory) < MEMORY:
            memory.append(row)
        elif (slot := draw.randrange(seen)) < MEMORY:
            memory[slot] = row
    matrix.append([accuracy(other) for other in test[: len(matrix) + 1]])
    print([round(value, 3) for value in matrix[-1]], file=sys.stderr, flush=True)

last, before = matrix[-1], len(matrix) - 1
lost = [max(row[task] for row in matrix[task:before]) - last[task] for task in range(before)]
figures = {"average_accuracy": sum(last) / len(last), "forgetting": sum(lost) / before, "steps": steps, "seconds": seconds}
print(json.dumps(figures))
