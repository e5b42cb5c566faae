#!/usr/bin/env python3
"""Stages real object stores for the tests, once per user: MinIO and moto for S3, Azurite for Azure, and s3rver, on which
two writers can both create an object, for the daemon to refuse. And grpcurl, a client that knows of us what reflection tells.

Leaves `stores.json` in the cache, which says of each how it is started: `{port}` and `{folder}` are the caller's, the
folder holds an empty one called `perennial`, and the server is up once `ready` stands in what it prints. `client` are
the environment variables by which the daemon finds it. `tools.json` says where grpcurl is. What cannot be staged here is left out, and a line says why.
"""
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setup import SetupError

# The newest commit that the module proxy has: MinIO's releases are not named as Go's versions are.
MINIO = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"
MOTO = ["moto[s3]==5.2.1", "werkzeug==3.1.9", "flask==3.1.3", "flask-cors==6.0.5", "boto3==1.44.8"]
AZURITE = "azurite@3.35.0"
S3RVER = "s3rver@3.7.1"
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"

# One request at a time: with threads moto, too, lets two create one object, though rarely.
SERVE_MOTO = """
import sys
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import run_simple

s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket("perennial", "us-east-1")
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""

# Containers are made over the wire only, and our own client makes none.
SERVE_AZURITE = """
const { createHmac } = require("node:crypto");
const { request } = require("node:http");
const [, main, port] = process.argv;
const [account, key] = process.env.AZURITE_ACCOUNTS.split(":");
const path = `/${account}/perennial`;

function create() {
  const headers = { "x-ms-date": new Date().toUTCString(), "x-ms-version": "2021-12-02" };
  const named = Object.entries(headers).map(([name, value]) => `${name}:${value}\\n`).join("");
  const signed = `PUT${"\\n".repeat(12)}${named}/${account}${path}\\nrestype:container`;
  const signature = createHmac("sha256", Buffer.from(key, "base64")).update(signed).digest("base64");
  headers.Authorization = `SharedKey ${account}:${signature}`;
  const options = { host: "127.0.0.1", port, path: `${path}?restype=container`, method: "PUT", headers };
  const asked = request(options, (answer) => console.log(answer.statusCode === 201 ? "ready" : answer.statusMessage));
  asked.on("error", () => setTimeout(create, 50)).end();
}

const flags = ["--blobPort", port, "--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry", "--silent"];
process.argv = [process.argv[0], "azurite-blob", ...flags];
require(main);
create();
"""


def say(text):
    print(f"stores: {text}", file=sys.stderr, flush=True)


def tool(name):
    found = shutil.which(name)
    if found is None:
        raise SetupError(f"there is no `{name}` here")
    return found


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise SetupError(f"`{' '.join(map(str, command[:5]))} …` failed with {done.returncode}:\n{said}")


def go(part, package):
    go = tool("go")
    # Folders of its own: what the build needs would stay in the user's for good.
    own = {"GOPATH": part / "path", "GOCACHE": part / "cache", "GOBIN": part, "CGO_ENABLED": 0}
    flags = {"GOFLAGS": f"{os.environ.get('GOFLAGS', '')} -modcacherw -buildvcs=false".strip()}
    own = {name: str(value) for name, value in own.items()}
    run(go, "install", "-ldflags=-s -w", package, env={**os.environ, **own, **flags})
    for folder in (part / "path", part / "cache"):
        shutil.rmtree(folder)


def stage_minio(part):
    say(f"building {MINIO}: a 1.2 GB download, 3 GB on disk meanwhile, five to ten minutes")
    go(part, MINIO)


def stage_grpcurl(part):
    say(f"building {GRPCURL}: 0.5 GB on disk meanwhile, a minute or two")
    go(part, GRPCURL)


def stage_moto(part):
    say(f"{MOTO[0]}: 110 MB on disk")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-cache-dir"]
    run(*pip, "--only-binary=:all:", "--target", part, *MOTO)


def npm(part, package):
    npm = tool("npm")
    say(package)
    run(npm, "install", "--prefix", part, "--no-audit", "--no-fund", "--ignore-scripts", package, cwd=part)


def stage_azurite(part):
    npm(part, AZURITE)


def stage_s3rver(part):
    npm(part, S3RVER)


STAGES = {
    "minio": stage_minio,
    "moto": stage_moto,
    "azurite": stage_azurite,
    "s3rver": stage_s3rver,
    "grpcurl": stage_grpcurl,
}


def s3(key, secret):
    return {
        "AWS_ENDPOINT": "http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
    }


def minio(home):
    command = [home / "minio", "server", "--address", "127.0.0.1:{port}", "{folder}"]
    quiet = {"MINIO_ROOT_USER": "perennial", "MINIO_ROOT_PASSWORD": "perennial", "MINIO_BROWSER": "off", "MINIO_UPDATE": "off"}
    return server("s3", command, quiet, "API: ", s3("perennial", "perennial"))


def moto(home):
    command = [sys.executable, "-c", SERVE_MOTO, "{port}"]
    return server("s3", command, {"PYTHONPATH": home}, "Running on", s3("any", "any"))


def azurite(home):
    account, key = "perennial", "cGVyZW5uaWFs"
    command = [shutil.which("node") or "node", "-e", SERVE_AZURITE, home / "node_modules/azurite/dist/src/blob/main.js", "{port}"]
    client = {
        "AZURE_STORAGE_ACCOUNT_NAME": account,
        "AZURE_STORAGE_ACCOUNT_KEY": key,
        "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{{port}}/{account}",
        "AZURE_ALLOW_HTTP": "true",
    }
    return server("az", command, {"AZURITE_ACCOUNTS": f"{account}:{key}"}, "ready", client)


def s3rver(home):
    command = [shutil.which("node") or "node", home / "node_modules/s3rver/bin/s3rver.js", "--directory", "{folder}"]
    command += ["--address", "127.0.0.1", "--port", "{port}"]
    return server("s3", command, {}, "listening", s3("S3RVER", "S3RVER"))


def server(scheme, command, environment, ready, client):
    return {
        "url": f"{scheme}://perennial",
        "command": [str(word) for word in command],
        "environment": {name: str(value) for name, value in environment.items()},
        "ready": ready,
        "client": client,
    }


RECIPES = {"minio": minio, "moto": moto, "azurite": azurite, "s3rver": s3rver}


def part_of(home, name):
    """Stages one server or tool, unless it is there. Its folder's name appears only once it is complete."""
    if (home / name).exists():
        return
    part = home / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        STAGES[name](part)
        part.rename(home / name)
    except (SetupError, OSError) as error:
        shutil.rmtree(part, ignore_errors=True)
        say(f"{name} is left out: {error}")


def locate():
    pins = json.dumps([MINIO, MOTO, AZURITE, S3RVER, sys.version_info[:2]])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perennial"
    home = cache / f"stores-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "stores.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in STAGES:
            part_of(home, name)
        staged = {name: recipe(home / name) for name, recipe in RECIPES.items() if (home / name).exists()}
        tools = {"grpcurl": str(home / "grpcurl" / "grpcurl")} if (home / "grpcurl").exists() else {}
        (cache / "tools.json").write_text(json.dumps(tools, indent=1) + "\n")
        (cache / "stores.json").write_text(json.dumps(staged, indent=1) + "\n")
    return staged


def main():
    print(f"stores: {', '.join(locate()) or 'none'}")


if __name__ == "__main__":
    main()
