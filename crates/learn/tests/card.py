"""Runs the Python of versions' README.md as a reader would, each in its version's folder.

    python3 card.py VERSION ...

`given.json` in the folder names what the lines take: `texts`, or `images` as files and `pixels` in one. Prints, for each version, its `logits`
and what the lines `printed`, as JSON.
"""

import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file


def run(version):
    os.chdir(version)
    given = json.loads(Path("given.json").read_text())
    if "images" in given:
        pixels = load_file(given["pixels"])["pixels"]
        given = {"images": [Image.open(file) for file in given["images"]], "pixels": pixels}
    (lines,) = re.findall(r"^```python\n(.*?)^```$", Path("README.md").read_text(), re.DOTALL | re.MULTILINE)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(lines, given)
    return {"logits": given["logits"].tolist(), "printed": printed.getvalue()}


print(json.dumps([run(version) for version in sys.argv[1:]]))
