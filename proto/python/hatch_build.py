"""Makes `perennial/v1` of the .proto files, so that no generated code is in git."""

import shutil
from pathlib import Path

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Stubs(BuildHookInterface):
    def initialize(self, version, build_data):
        root = Path(self.root)
        # A source distribution carries the .proto files; a checkout has them one folder up.
        protos = next(folder for folder in (root, root.parent) if (folder / "perennial/v1").is_dir())
        stubs = root / "src/perennial/v1"
        shutil.rmtree(stubs, ignore_errors=True)
        flags = [f"--{kind}_out={root / 'src'}" for kind in ("python", "pyi", "grpc_python")]
        files = sorted(str(path) for path in protos.glob("perennial/v1/*.proto"))
        if protoc.main(["protoc", f"--proto_path={protos}", *flags, *files]) != 0:
            raise RuntimeError(f"protoc could not compile {protos}/perennial/v1")
        modules = sorted(path.stem for path in stubs.glob("*.py"))
        (stubs / "__init__.py").write_text("".join(f"from .{module} import *\n" for module in modules))
