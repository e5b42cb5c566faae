#!/usr/bin/env python3
"""Runs setup.py in scratch checkouts, with tiny wheels that a scratch folder serves in place of the index."""
import contextlib
import hashlib
import io
import os
import subprocess
import tempfile
import threading
import unittest
import zipfile
from pathlib import Path
from unittest import mock

import setup


def run(command, **_):
    """Stands in for `pip`: copies the wheel that a download asks for, from the folder that FAKE_INDEX names."""
    if "download" in command:
        source = Path(os.environ["FAKE_INDEX"])
        part = Path(command[command.index("--dest") + 1])
        name = command[-1].split("==")[0].replace("-", "_")
        for wheel in source.glob(f"{name}-*.whl"):
            (part / wheel.name).write_bytes(wheel.read_bytes())
    return subprocess.CompletedProcess(command, 0)


class Setup(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = Path(scratch.name).resolve()
        self.checkout, self.index, self.cache = (self.root / d for d in ("checkout", "index", "cache/perennial"))
        for folder in (self.checkout / ".cargo", self.checkout / "scripts", self.index):
            folder.mkdir(parents=True)
        self.home = self.cache / f"libtorch-{setup.VERSION}"
        wheels = [self.wheel(*row) for row in setup.WHEELS]
        environment = {"XDG_CACHE_HOME": str(self.cache.parent), "FAKE_INDEX": str(self.index), "LIBTORCH": ""}
        for patch in (
            mock.patch.object(setup, "WHEELS", wheels),
            mock.patch.object(setup, "__file__", str(self.checkout / "scripts/setup.py")),
            mock.patch.dict(os.environ, environment),
        ):
            patch.start()
            self.addCleanup(patch.stop)
        runner = mock.patch.object(setup.subprocess, "run", side_effect=run)
        self.pip = runner.start()
        self.addCleanup(runner.stop)

    def wheel(self, requirement, name, _, entries):
        """A wheel with one small file for each entry, and one that no entry names."""
        with zipfile.ZipFile(self.index / name, "w") as archive:
            for prefix in entries:
                archive.writestr(prefix + "a/b.h" if prefix.endswith("/") else prefix, prefix)
            archive.writestr("torch/lib/libtorch_cuda.so", "unwanted")
        return requirement, name, hashlib.sha256((self.index / name).read_bytes()).hexdigest(), entries

    def setup(self):
        """What the run printed; raises SystemExit where the script fails."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            setup.main()
        return out.getvalue()

    def failure(self):
        with self.assertRaises(SystemExit) as exit:
            self.setup()
        return str(exit.exception)

    def own(self, version):
        own = self.root / "own"
        for file, text in {"include/x.h": "", "lib/libtorch_cpu.so": "", "build-version": version}.items():
            (own / file).parent.mkdir(parents=True, exist_ok=True)
            (own / file).write_text(text)
        os.environ["LIBTORCH"] = str(own)
        return own

    def test_stages_what_is_needed_and_points_the_checkout_at_it(self):
        self.setup()
        self.assertEqual((self.checkout / ".libtorch").resolve(), self.home)
        config = (self.checkout / ".cargo/libtorch.toml").read_text()
        self.assertIn(f'LIBTORCH = "{self.home}"', config)
        self.assertIn(f"-rpath,{self.home}/lib", config)
        self.assertEqual((self.home / "include/a/b.h").read_text(), "torch/include/")
        self.assertEqual((self.home / "lib/libtorch.so").read_text(), "INPUT(libtorch_cpu.so)\n")
        libraries = {path.name for path in (self.home / "lib").iterdir()}
        self.assertEqual(
            libraries,
            {"libtorch.so", "libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"},
        )
        self.assertEqual({path.name for path in self.cache.iterdir()}, {self.home.name, "lock"})

    def test_a_second_run_does_nothing(self):
        self.setup()
        config = self.checkout / ".cargo/libtorch.toml"
        written, calls = config.stat().st_mtime_ns, self.pip.call_count
        self.assertEqual(self.setup(), "")
        self.assertEqual((config.stat().st_mtime_ns, self.pip.call_count), (written, calls))

    def test_a_wrong_hash_names_the_file_and_both_sums(self):
        name, expected = setup.WHEELS[0][1:3]
        (self.index / name).write_bytes(b"tampered")
        text = self.failure()
        for part in (str(self.cache / "wheels" / name), expected, hashlib.sha256(b"tampered").hexdigest(), "delete"):
            self.assertIn(part, text)
        self.assertFalse(self.home.exists())

    def test_an_interrupted_run_starts_again_cleanly(self):
        for left in (self.cache / f"{self.home.name}.part/lib/half.so", self.cache / "wheels/part/half.whl"):
            left.parent.mkdir(parents=True)
            left.write_text("half")
        self.setup()
        self.assertFalse((self.home / "lib/half.so").exists())
        self.assertEqual({path.name for path in self.cache.iterdir()}, {self.home.name, "lock"})

    def test_a_failed_download_is_told_and_keeps_what_came_before_it(self):
        def broken(command, **options):
            fails = command[-1].startswith("nvidia-cuda-runtime")
            return subprocess.CompletedProcess(command, 1) if fails else run(command, **options)

        self.pip.side_effect = broken
        self.assertIn("could not download nvidia-cuda-runtime==13.0.96", self.failure())
        self.pip.side_effect = run
        self.setup()
        asked = [call.args[0][-1] for call in self.pip.call_args_list]
        self.assertEqual(asked.count("torch==2.11.0"), 1)

    def test_a_long_download_says_how_far_it_is_where_there_is_no_terminal(self):
        said, lines = threading.Event(), []

        def say(text):
            lines.append(text)
            if "so far" in text:
                said.set()

        def slow(command, **options):
            outcome = run(command, **options)
            if command[-1].startswith("torch"):
                (Path(command[command.index("--dest") + 1]) / "growing").write_bytes(b"x" * 3_000_000)
                self.assertTrue(said.wait(60))
            return outcome

        self.pip.side_effect = slow
        with mock.patch.object(setup, "REPORT_EVERY", 0.01), mock.patch.object(setup, "say", say):
            self.setup()
        self.assertTrue(any(line.startswith("torch==2.11.0: ") and "MB so far" in line for line in lines), lines)

    def test_ones_own_libtorch_is_respected(self):
        own = self.own("2.11.0+cu130\n")
        self.setup()
        self.assertEqual((self.checkout / ".libtorch").resolve(), own)
        self.assertFalse(self.cache.exists())
        self.pip.assert_not_called()

    def test_an_unfit_libtorch_of_ones_own_is_refused(self):
        own = self.own("2.9.1")
        self.assertIn("2.9.1; this build needs 2.11.0", self.failure())
        (own / "lib/libtorch_cpu.so").unlink()
        self.assertIn("no lib/libtorch_cpu.so", self.failure())

    def test_other_platforms_and_a_missing_pip_are_told(self):
        with mock.patch.object(setup.platform, "machine", return_value="aarch64"):
            self.assertIn("x86-64 Linux only", self.failure())
        self.pip.side_effect = lambda command, **_: subprocess.CompletedProcess(command, 1)
        self.assertIn("has no pip", self.failure())


if __name__ == "__main__":
    unittest.main()
