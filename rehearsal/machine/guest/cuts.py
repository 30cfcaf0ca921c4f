#!/opt/edgeq/venv/bin/python
"""Of edgeq's rehearsal, in the machine, instead of init: looks at what a power cut left, then does what is cut next.

Says on the console `CHECK {json}`, then `MARK begin KIND NUMBER` and `MARK end KIND NUMBER SECONDS` of one thing after
the other, until the power goes.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeq.bundle.manifest import read_manifest, write_manifest
from edgeq.bundle.release import new_release
from edgeq.bundle.signature import sign_bundle
from edgeq.cli import run
from edgeq.errors import EdgeqError
from edgeq.install.history import read_history
from edgeq.install.records import read_records
from edgeq.install.states import read_state
from edgeq.install.store import open_store
from edgeq.install.trust import read_memory
from edgeq.install.versions import damage

HERE = Path(__file__).resolve().parent
STORE, FIRST, CATALOG = Path("/var/lib/edgeq"), Path("/var/lib/edgeq-first"), Path("/var/lib/edgeq-catalog")
IMAGES, SHARD = HERE / "images", 20
KEY, PUBLIC = HERE / "team.private.pem", Path("/etc/edgeq/keys/team.public.pem")
READY_S = 240.0
LOADED = ("onnxruntime", "PIL.Image", "edgeq.service.server", "edgeq.service.load_bundle", "edgeq.cli.device")
SEARCH = ("faiss", "pyarrow.parquet", "tokenizers")


def say(*words: object) -> None:
    """On the console."""
    print(*words, flush=True)


def child(act: Callable[[], Any], *, user: str = "", log: str = "/run/child.log") -> int:
    """Process that does it; its output goes into a file, and its status is that of `act`."""
    number = os.fork()
    if number:
        return number
    status = 70
    try:
        with open(log, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if user:
            import pwd

            account = pwd.getpwnam(user)
            os.initgroups(user, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
        status = int(act())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(number: int) -> int:
    """Exit status of a process."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def edgeq(*words: str) -> None:
    """A command line, in a process of its own; raises RuntimeError with what it said."""
    Path("/run/child.log").write_text("")
    status = ended(child(lambda: run(words)))
    if status:
        said = " ".join(Path("/run/child.log").read_text()[-600:].split())
        raise RuntimeError(f"edgeq {words[0]} ended with {status}: {said}")


# --- what a cut left --------------------------------------------------------------------------------------------------


def looked_at(root: Path) -> dict[str, Any]:
    """What is in use in a store, and what is wrong with it; all files of both versions are read."""
    try:
        store = open_store(root)
        state = read_state(store)
    except EdgeqError as error:
        return {"sequence": None, "wrong": "", "said": error.what}
    wrong = [damage(store, each) for each in (state.current, state.previous) if each]
    wrong.append(read_history(store, read_memory(store).head)[1])
    read_records(store)
    sequence = json.loads((root / "current/manifest.json").read_text())["sequence"] if state.current else None
    return {"sequence": sequence, "wrong": "; ".join(each for each in wrong if each)}


def serves(place: Path, port: int) -> str:
    """Start the service as its user, ask it once, stop it; what is wrong, or nothing."""
    log = f"/run/serve-{port}.log"
    Path(log).touch(0o666)
    Path(log).chmod(0o666)
    words = ("serve", str(place), "--port", str(port))
    number, until = child(lambda: run(words), user="edgeq", log=log), time.monotonic() + READY_S
    try:
        while True:
            if os.waitpid(number, os.WNOHANG)[0]:
                return f"the service ended: {' '.join(Path(log).read_text()[-600:].split())}"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=30) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                time.sleep(0.2)
            if time.monotonic() > until:
                return f"not ready after {READY_S:.0f} s"
        os.kill(number, signal.SIGTERM)
        status = ended(number)
    except ChildProcessError as error:
        return f"the service: {error}"
    return "" if status == 0 else f"the service ended with {status} after SIGTERM"


def catalog_wrong() -> tuple[str, int]:
    """After the same command once more: every image has one row, and is found. Also the shards that were whole."""
    if not CATALOG.exists():
        return "", 0
    if (CATALOG / "index.json").exists():
        edgeq("search", str(HERE / "finder"), "a scratch", "--catalog", str(CATALOG))
    whole = len([*(CATALOG / "metadata").glob("*.parquet")])
    index()
    import pyarrow.parquet

    rows = [
        path
        for file in sorted((CATALOG / "metadata").glob("*.parquet"))
        for path in paths_of(pyarrow.parquet.read_table(file))
    ]
    images = sorted(path.name for path in IMAGES.iterdir())
    found = sorted(Path(row).name for row in rows)
    return ("" if found == images else f"{len(found)} rows, {len(images)} images"), whole


def paths_of(table: Any) -> list[str]:
    """Column of the images' paths."""
    return [str(value) for value in table.column("image_path").to_pylist()]


def index() -> None:
    """Make the catalog, or go on with it."""
    place = str(HERE / "finder")
    edgeq(
        "index", place, "--images", str(IMAGES), "--output", str(CATALOG), "--shard-size", str(SHARD), "--batch", "20"
    )


def check(kind: str) -> dict[str, Any]:
    """All that must hold."""
    store = looked_at(STORE)
    found: dict[str, Any] = {
        "store": store,
        "serves": serves(STORE, 8000) if store["sequence"] else "nothing is in use",
    }
    if kind == "install":
        found["first"] = looked_at(FIRST)
        found["first_serves"] = serves(FIRST, 8001) if found["first"]["sequence"] else ""
    if kind == "index":
        found["catalog"], found["whole_shards"] = catalog_wrong()
    return found


# --- what is cut ------------------------------------------------------------------------------------------------------


def release(number: int) -> Path:
    """A signed release, in memory: with a file of its own, and one that every release has."""
    made = Path("/run/release")
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(HERE / "bundle", made)
    manifest = read_manifest(made)
    (made / "own.bin").write_bytes(bytes([number % 251]) * (1 << 20) + os.urandom(1 << 20))
    write_manifest(made, kind=manifest.kind, labels=manifest.labels, allowed=manifest.allowed, needs=manifest.needs)
    sign_bundle(made, KEY, release=new_release("rehearsal", number))
    return made


def install(number: int, root: Path) -> None:
    """With its canaries."""
    edgeq("install", str(release(number)), "--root", str(root), "--key", str(PUBLIC), "--threads", "2")


def marked(kind: str, number: int, act: Callable[[], None]) -> None:
    """Do it, and say when it begins and ends."""
    say("MARK begin", kind, number)
    begin = time.monotonic()
    act()
    say("MARK end", kind, number, f"{time.monotonic() - begin:.2f}")


def act(kind: str, number: int) -> int:
    """One of a kind; gives the highest release that there is then."""
    if kind == "install":
        shutil.rmtree(FIRST, ignore_errors=True)
        os.sync()
        made = release(1)
        words = ("install", str(made), "--root", str(FIRST), "--key", str(PUBLIC), "--threads", "2")
        marked(kind, 1, lambda: edgeq(*words))
        return number
    if kind == "index":
        shutil.rmtree(CATALOG, ignore_errors=True)
        os.sync()
        marked(kind, number, index)
        return number
    if kind == "prune":
        for _ in range(2):
            number += 1
            edgeq("install", str(release(number)), "--root", str(STORE), "--key", str(PUBLIC), "--no-check")
            say("MARK end upgrade", number, "0")
        marked(kind, number, lambda: edgeq("prune", "--keep", "0", "--root", str(STORE)))
        return number
    made = release(number + 1)
    words = ("install", str(made), "--root", str(STORE), "--key", str(PUBLIC), "--threads", "2")
    marked("upgrade", number + 1, lambda: edgeq(*words))
    return number + 1


def set_up() -> dict[str, str]:
    """File systems, the loopback interface; gives the words of the kernel's command line."""
    for kind, place in (("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run"), ("tmpfs", "/tmp")):
        subprocess.run(["mount", "-t", kind, kind, place], check=True)
    Path("/dev/shm").mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
    os.environ.update(
        PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LC_ALL="C.UTF-8"
    )
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1 | 64))  # SIOCSIFFLAGS: up and running
    words = (word.partition("=") for word in Path("/proc/cmdline").read_text().split())
    return {name: value for name, _, value in words}


def main() -> None:
    """Never ends by itself."""
    words = set_up()
    before, kinds = words.get("rehearsal.before", ""), words["rehearsal.kinds"].split(",")
    for name in LOADED + (SEARCH if "index" in (before, *kinds) else ()):  # once, not in each process
        importlib.import_module(name)
    if words.get("rehearsal.fresh"):
        install(1, STORE)
    found = check(before)
    say("CHECK", json.dumps(found))
    number = int(found["store"]["sequence"] or 0)
    if found["store"]["sequence"]:
        number = max(number, *(each.sequence for each in read_memory(open_store(STORE)).highest))
    while True:
        for kind in kinds:
            number = act(kind, number)
        if words.get("rehearsal.once"):
            break
    say("MARK done")
    os.sync()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    try:
        main()
    except BaseException as fault:
        traceback.print_exc()
        say("FAULT", type(fault).__name__, str(fault).replace("\n", " ")[-900:])
        sys.stdout.flush()
        time.sleep(3600)
