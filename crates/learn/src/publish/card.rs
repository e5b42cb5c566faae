//! The model card: what a version is and how to load it.

use domain::pipeline::{Adapter, Model as Origin, Pooling, Spec};
use serde_json::Value;

use super::{Publication, base_name};
use crate::data::Reader;
use crate::model::{mlp, resnet};

pub fn card(publication: &Publication) -> String {
    let Publication { pipeline, labels, net, reader, imported, means, .. } = publication;
    let library = match pipeline.adapter {
        Adapter::Lora(_) => "peft",
        Adapter::Full => "transformers",
    };
    let task = match reader {
        Reader::Images(_) => "image-classification",
        Reader::Texts(_) => "text-classification",
    };
    let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
    format!(
        "---\nlibrary_name: {library}\npipeline_tag: {task}\ntags: [perennial, continual-learning]\n---\n\n\
         # {name}\n\n\
         A version of the pipeline `{name}`, {origin}.\n\
         Lineage, data, settings and scores: `perennial_manifest.json`.\n\n\
         Base model: {base}\n\nLabels, in the order of the head's rows: {labels}\n\n\
         ## Load it\n\n{code}{means}{heads}",
        name = pipeline.name,
        origin = origin(pipeline, *imported),
        base = base(pipeline),
        code = code(pipeline, &net.body.config(), reader),
        means = if means.is_some() { BY_MEANS } else { "" },
        heads = if net.heads.is_some() { BY_TASK } else { "" },
    )
}

const BY_TASK: &str = "\nWhere a row's task is known, only the labels that `heads.json` gives the task are answers.\n";

const BY_MEANS: &str = "\nPerennial answers with the class whose row of `class_means.safetensors` is nearest to the features divided by \
    their norm, not by these logits.\n";

fn origin(pipeline: &Spec, imported: bool) -> String {
    let adapter = adapter(&pipeline.adapter);
    match imported {
        true => format!("imported: {adapter}, trained elsewhere"),
        false => format!("trained by {} with {adapter}", pipeline.method.title()),
    }
}

fn adapter(adapter: &Adapter) -> String {
    match adapter {
        Adapter::Full => "all parameters".to_owned(),
        Adapter::Lora(lora) => format!("LoRA of rank {} on {}", lora.r, lora.target_modules.join(", ")),
    }
}

fn base(pipeline: &Spec) -> String {
    match &pipeline.model {
        Origin::Folder(model) => format!("`{}`, SHA-256 of the folder `{}`", model.uri, model.sha256),
        Origin::Scratch(spec) => format!("`{spec}`, drawn from seed {}", pipeline.seed),
    }
}

fn code(pipeline: &Spec, config: &Value, reader: &Reader) -> String {
    if let (Origin::Scratch(_), Adapter::Lora(_)) = (&pipeline.model, &pipeline.adapter) {
        return "The base was drawn from a seed and lies in no folder: only Perennial rebuilds it.\n".to_owned();
    }
    if config["model_type"] == mlp::MODEL_TYPE {
        return MLP.to_owned();
    }
    if config["model_type"] == resnet::OWN_TYPE {
        return RESNET.to_owned();
    }
    // A ResNet's features are its pooler's output.
    let is_pooled = config["model_type"] == resnet::MODEL_TYPE;
    let load = match &pipeline.adapter {
        Adapter::Full if is_pooled => "model = AutoModel.from_pretrained(\".\").eval()".to_owned(),
        Adapter::Full => "model = AutoModel.from_pretrained(\".\", add_pooling_layer=False).eval()".to_owned(),
        Adapter::Lora(_) => format!(
            "from peft import PeftModel\n\
             base = AutoModel.from_pretrained({:?}, add_pooling_layer=False){}\n\
             model = PeftModel.from_pretrained(base, \".\").eval()",
            base_name(pipeline),
            if base_name(pipeline).contains("://") { "  # name a local copy" } else { "" }
        ),
    };
    let (given, import, read) = match reader {
        Reader::Images(preprocess) => {
            ("images: PIL images", "AutoImageProcessor", image(preprocess.geometry.channels, is_pooled))
        }
        Reader::Texts(reader) => ("texts: strings", "PreTrainedTokenizerFast", text(pipeline, reader.max_length)),
    };
    format!(
        "```python\n\
         # {given}, in a list\nimport json\nfrom safetensors.torch import load_file\n\
         from transformers import {import}, AutoModel\n{load}\n\
         head, labels = load_file(\"head.safetensors\"), json.load(open(\"labels.json\"))\n\
         {read}\n\
         logits = features @ head[\"weight\"].T + head[\"bias\"]\n\
         print([labels[i] for i in logits.argmax(-1)])\n```\n"
    )
}

/// transformers takes a grey image only as an array that says so.
fn image(channels: i64, is_pooled: bool) -> String {
    let rows = match channels {
        1 => "import numpy\nrows = [numpy.array(image.convert(\"L\"))[..., None] for image in images]",
        _ => "rows = [image.convert(\"RGB\") for image in images]",
    };
    let features = if is_pooled { "pooler_output.flatten(1)" } else { "last_hidden_state[:, 0]" };
    format!(
        "{rows}\n\
         pixels = AutoImageProcessor.from_pretrained(\".\")(rows, return_tensors=\"pt\")\n\
         features = model(**pixels).{features}"
    )
}

fn text(pipeline: &Spec, max_length: i64) -> String {
    let pooled = match pipeline.input.pooling {
        Pooling::Mean => {
            "mask = batch[\"attention_mask\"].unsqueeze(-1)\nfeatures = (hidden * mask).sum(1) / mask.sum(1)"
        }
        Pooling::Cls => "features = hidden[:, 0]",
    };
    format!(
        "tokenizer = PreTrainedTokenizerFast(tokenizer_file=\"tokenizer.json\", pad_token=\"[PAD]\")\n\
         batch = tokenizer(texts, truncation=True, max_length={max_length}, padding=True, return_tensors=\"pt\")\n\
         hidden = model(input_ids=batch[\"input_ids\"], attention_mask=batch[\"attention_mask\"]).last_hidden_state\n\
         {pooled}"
    )
}

const MLP: &str = "```python\n\
import json, torch\nfrom safetensors.torch import load_file\n\
body, head = load_file(\"model.safetensors\"), load_file(\"head.safetensors\")\n\
labels, config = json.load(open(\"labels.json\")), json.load(open(\"config.json\"))\n\
x = pixels.flatten(1)  # (rows, channels, side, side), normalised as preprocessor_config.json says\n\
for layer in range(1, len(config[\"hidden_sizes\"]) + 1):\n\
    \x20   x = torch.relu(x @ body[f\"fc{layer}.weight\"].T + body[f\"fc{layer}.bias\"])\n\
logits = x @ head[\"weight\"].T + head[\"bias\"]\n\
print([labels[i] for i in logits.argmax(-1)])\n```\n";

const RESNET: &str = "```python\n\
import json, torch\nfrom safetensors.torch import load_file\nfrom torch.nn import functional as F\n\
body, head = load_file(\"model.safetensors\"), load_file(\"head.safetensors\")\n\
labels, config = json.load(open(\"labels.json\")), json.load(open(\"config.json\"))\n\n\
def unit(x, name, stride):\n\
    \x20   kernel = body[f\"{name}.convolution.weight\"]\n\
    \x20   x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)\n\
    \x20   if config[\"continual_groups\"]:\n\
    \x20       x = F.group_norm(x, config[\"continual_groups\"])\n\
    \x20   parts = [\"running_mean\", \"running_var\", \"weight\", \"bias\"]\n\
    \x20   return F.batch_norm(x, *(body[f\"{name}.normalization.{part}\"] for part in parts))\n\n\
small = config[\"stem\"] == \"cifar\"\n\
# pixels: (rows, channels, side, side), normalised as preprocessor_config.json says\n\
x = unit(pixels, \"embedder.embedder\", 1 if small else 2).relu()\n\
x = x if small else F.max_pool2d(x, 3, 2, 1)\n\
for stage, depth in enumerate(config[\"depths\"]):\n\
    \x20   for layer in range(depth):\n\
    \x20       name = f\"encoder.stages.{stage}.layers.{layer}\"\n\
    \x20       halves = layer == 0 and (stage > 0 or config[\"downsample_in_first_stage\"])\n\
    \x20       stride = 2 if halves else 1\n\
    \x20       y = unit(unit(x, f\"{name}.layer.0\", stride).relu(), f\"{name}.layer.1\", 1)\n\
    \x20       if f\"{name}.shortcut.convolution.weight\" in body:\n\
    \x20           x = unit(x, f\"{name}.shortcut\", stride)\n\
    \x20       x = (x + y).relu()\n\
logits = x.mean((2, 3)) @ head[\"weight\"].T + head[\"bias\"]\n\
print([labels[i] for i in logits.argmax(-1)])\n```\n";
