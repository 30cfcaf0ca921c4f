"""Stores whose installs are killed at random, and bundles that were changed at random.

A kill is of one thing after another that is done to one store: signed releases come, newer and older ones, a check
fails, a version is gone back to, old ones are removed, a list of keys is set. After each, the version in use must be
whole and remembered, the memory and the history readable and without a gap, and the highest release never lower.

A changed bundle is installed on the command line, as a file or a directory, with the key it was signed with and
without. It must be refused with status 2, or what comes into the store must be whole and, with the key, the bundle that
was signed; no exception may come out, and nothing may be written but below the store.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS / name) for name in ("helpers", "install")]

from dying import in_child, nod, profiled, refused  # noqa: E402
from packed import make_bundle, snapshot  # noqa: E402
from small_bundles import WEIGHTS, check_clean, pair, whole  # noqa: E402

from edgeq.bundle.contents import MANIFEST, SIGNATURE  # noqa: E402
from edgeq.bundle.key_list import ListedKey, SignedKeyList, next_list, sign_list  # noqa: E402
from edgeq.bundle.keys import KeyPair, load_private, load_public, make_keys  # noqa: E402
from edgeq.bundle.release import Release  # noqa: E402
from edgeq.bundle.signature import sign_bundle  # noqa: E402
from edgeq.bundle.transport import pack  # noqa: E402
from edgeq.cli import run  # noqa: E402
from edgeq.errors import EdgeqError  # noqa: E402
from edgeq.install.history import read_history  # noqa: E402
from edgeq.install.run import install, prune, rollback  # noqa: E402
from edgeq.install.store import open_store  # noqa: E402
from edgeq.install.trust import read_memory, take_list  # noqa: E402

RELEASES: Final = 6
MADE: Final = "2026-01-01T00:00:00Z"

Act = Callable[[Path], object]
"""What is done to a store, or to a name."""


@dataclass(frozen=True)
class Seen:
    """What was to be killed, whether it was before its end, and what is wrong then; empty for nothing."""

    act: str
    killed: bool
    wrong: str


def _bundle(directory: Path, sequence: int, keys: KeyPair) -> Path:
    made = make_bundle(directory, {"language/weights": WEIGHTS, "vision.onnx": b"vision %d " % sequence * 20})
    sign_bundle(made, keys.private, release=Release(product="inspector", sequence=sequence, made=MADE))
    return made


def kills(scratch: Path, count: int, chance: random.Random) -> list[Seen]:
    """Kill at random, until it has happened so often; the store is one and the same."""
    keys, root = make_keys(scratch / "key"), scratch / "root"
    bundles = [_bundle(scratch / f"bundle{number}", number + 1, keys) for number in range(RELEASES)]
    first = next_list(
        None, MADE, roots=[ListedKey.of(load_public(keys.public))], keys=[ListedKey.of(load_public(keys.public))],
        revoked=[], threshold=1,
    )  # fmt: skip
    sign_list(SignedKeyList.of(first), load_private(keys.private)).save(scratch / "keys.json")
    with profiled() as events:
        install(bundles[0], root, keys=[keys.public], check=nod)
    found = list[Seen]()
    while sum(seen.killed for seen in found) < count:
        name, act = _drawn(chance, bundles, scratch, keys)
        highest = _highest(root)
        moment = chance.randrange(1, events[0])
        status = in_child(partial(_act, act, root, moment))
        found.append(Seen(name, status == -signal.SIGKILL, _wrong(root, status, highest)))
        if len(found) % 10 == 0:
            install(bundles[0], root, because="to sweep")
            check_clean(root)
    return found


def _drawn(chance: random.Random, bundles: list[Path], scratch: Path, keys: KeyPair) -> tuple[str, Act]:
    bundle = chance.choice(bundles)
    acts: dict[str, Act] = {
        "install": lambda root: install(bundle, root),
        "install, checked": lambda root: install(bundle, root, check=nod),
        "install, allowed": lambda root: install(bundle, root, because="a trial"),
        "install, failing": lambda root: refused(bundle, root),
        "rollback": rollback,
        "prune": lambda root: prune(root, 1),
        "keys": lambda root: take_list(scratch / "keys.json", root, [keys.public]),
    }
    return chance.choice(list(acts.items()))


def _act(act: Act, root: Path, moment: int) -> None:
    with profiled(moment), suppress(EdgeqError):
        act(root)


def _highest(root: Path) -> int:
    return max((each.sequence for each in read_memory(open_store(root)).highest), default=0)


def _wrong(root: Path, status: int, highest: int) -> str:
    """What does not hold after a kill; empty where all does."""
    if status not in (0, -signal.SIGKILL):
        return f"it ended with {status}"
    try:
        current, _ = pair(root)  # both are whole
        now = _highest(root)
        damage = read_history(open_store(root), read_memory(open_store(root)).head)[1]
    except (AssertionError, EdgeqError) as error:
        return f"{type(error).__name__}: {error}"
    if damage or now < highest or current is None:
        return damage or f"highest {now}, before {highest}, in use {current}"
    sequence = json.loads((root / "versions" / current / MANIFEST).read_text())["sequence"]
    on_trial = (root / "state" / "back").exists()
    return "" if on_trial or sequence <= now else f"release {sequence} is in use, and {now} is the highest known"


def mutants(scratch: Path, count: int, chance: random.Random) -> Counter[str]:
    """Install bundles that were changed; give how often what came of it, a fault under its own name."""
    keys, outcomes = make_keys(scratch / "key"), Counter[str]()
    good = _bundle(scratch / "good", 1, keys)
    pack(good, scratch / "good.edgeq.tar")
    tar, identity = (scratch / "good.edgeq.tar").read_bytes(), _install(good, scratch / "first", [keys.public])
    (scratch / "work").mkdir()
    for number in range(count):
        place = scratch / "work" / "given"
        directory = number % 2 == 0
        if directory:
            shutil.copytree(good, place)
            _change_directory(place, chance)
        else:
            place.write_bytes(_change_bytes(tar, chance))
        outcomes[_outcome(scratch, place, [keys.public] if chance.random() < 1 / 2 else [], identity)] += 1
        shutil.rmtree(place) if directory else place.unlink()
    return outcomes


def _install(bundle: Path, root: Path, keys: list[Path]) -> str:
    return install(bundle, root, keys=keys).id


def _outcome(scratch: Path, place: Path, keys: list[Path], identity: str) -> str:
    root = scratch / "work" / "root"
    outside = snapshot(scratch)
    arguments = ["install", str(place), "--root", str(root), "--no-check", *(f"--key={key}" for key in keys)]
    told = StringIO()
    try:
        with redirect_stdout(told), redirect_stderr(told):
            status = run(arguments)
    except BaseException:
        traceback.print_exc()
        return "FAULT: an exception"
    if status not in (0, 2) or "Traceback" in told.getvalue():
        return f"FAULT: status {status}"
    try:
        current = whole(root / "current")
    except AssertionError as error:
        return f"FAULT: {error}"
    shutil.rmtree(root, ignore_errors=True)
    if snapshot(scratch) != outside:
        return "FAULT: something outside of the store was written"
    if status == 2:
        return "refused" if current is None else "FAULT: refused, and in use"
    if keys and current != identity:
        return "FAULT: another bundle under a signature"
    return "the bundle itself" if current == identity else "another bundle, without a key"


def _change_bytes(data: bytes, chance: random.Random) -> bytes:
    """A transport file with some bytes, blocks or its end changed."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5])):
        start = chance.randrange(len(changed))
        block = start // 512 * 512
        kind = chance.randrange(7)
        if kind == 0:
            changed[start] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del changed[start:]
        elif kind == 2:
            del changed[block : block + 512]
        elif kind == 3:
            changed[block:block] = changed[block : block + 512 * chance.randrange(1, 4)]
        elif kind == 4:
            other = chance.randrange(len(changed)) // 512 * 512
            changed[block : block + 512], changed[other : other + 512] = (
                changed[other : other + 512],
                changed[block : block + 512],
            )
        elif kind == 5:
            changed[start : start + 8] = chance.randbytes(8)
        else:
            _change_header(changed, block, chance)
        if not changed:
            break
    return bytes(changed)


_HUGE: Final = b"\x80" + b"\xff" * 11
"""A size in GNU's form."""


def _change_header(changed: bytearray, block: int, chance: random.Random) -> None:
    """A field of a block taken for a header, with a checksum that fits."""
    field = chance.choice([(0, 100), (124, 12), (156, 1), (157, 100), (345, 155)])
    text = chance.choice(
        [b"../../evil", b"/tmp/evil", b"manifest.json/x", b"77777777777\0", b"2", b"x", b"\x80" + b"\xff" * 11]
    )
    start = block + field[0]
    changed[start : start + min(len(text), field[1])] = text[: field[1]]
    head = bytes(changed[block : block + 512]).ljust(512, b"\0")
    total = sum(head[:148]) + 8 * ord(" ") + sum(head[156:])
    changed[block + 148 : block + 156] = b"%06o\0 " % total


VALUES: Final[tuple[object, ...]] = (
    *(None, True, -1, 0, 1, 2**63, 10**30, 1.5, "", "x", "../evil", "/tmp/evil", "manifest.json/x", "a\0b", [], {}),
    *(
        "edgeq.bundle/2",
        "\u202e",
        "0" * 64,
        "1e999",
        [[]],
        {"a": 1},
        "x" * 5000,
        "2026-13-01T00:00:00Z",
        "é",
        "e\u0301",
    ),
)


def _change_directory(bundle: Path, chance: random.Random) -> None:
    """The manifest, the signature, or a file beside them changed."""
    name = chance.choice([MANIFEST, MANIFEST, MANIFEST, SIGNATURE, "vision.onnx", "new"])
    path = bundle / name
    kind = chance.randrange(6)
    if name == "new":
        _add(bundle, chance)
    elif kind == 0:
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
    elif kind == 1:
        data = bytearray(path.read_bytes())
        path.write_bytes(data[: chance.randrange(len(data))])
    elif name == "vision.onnx":
        path.unlink()
        others: list[Act] = [Path.mkdir, lambda it: it.symlink_to("/etc/passwd"), os.mkfifo, lambda _it: None]
        others[kind - 2](path)
    elif kind == 2:
        text = path.read_text()
        line = chance.choice(text.splitlines()[1:-1])
        path.write_text(text.replace(line, f"{line.rstrip(',')},\n{line}", 1))
    else:
        content = json.loads(path.read_text())
        _change_value(content, chance)
        path.write_text(json.dumps(content))


def _add(bundle: Path, chance: random.Random) -> None:
    name = chance.choice(
        ["new", "language/new", ".hidden", "VISION.ONNX", "manifest.json.bak", "language/chat_template.jinja"]
    )
    others: list[Act] = [lambda it: it.write_bytes(b"x"), lambda it: it.symlink_to("/etc"), Path.mkdir]
    chance.choice(others)(bundle / name)


def _change_value(content: object, chance: random.Random) -> None:
    """One value anywhere in it, or a key more or less."""
    if isinstance(content, dict) and content:
        key = chance.choice(list(content))
        if isinstance(content[key], dict | list) and content[key] and chance.random() < 3 / 4:
            _change_value(content[key], chance)
        elif chance.random() < 1 / 5:
            del content[key]
        elif chance.random() < 1 / 5:
            content[chance.choice(["expires", "task", "x", "__proto__"])] = chance.choice(VALUES)
        else:
            content[key] = chance.choice(VALUES)
    elif isinstance(content, list) and content:
        place = chance.randrange(len(content))
        if isinstance(content[place], dict | list) and chance.random() < 3 / 4:
            _change_value(content[place], chance)
        elif chance.random() < 1 / 2:
            content.append(content[place])
        else:
            content[place] = chance.choice(VALUES)


def main() -> int:
    """Kill, change, print what came of it; status 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--mutants", type=int, default=1000)
    parser.add_argument("--seed", type=int, help="[default: another one each time]")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "mutants").mkdir()
        outcomes = mutants(Path(scratch) / "mutants", given.mutants, random.Random(seed))
    changed = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        seen = kills(Path(scratch), given.kills, random.Random(seed)) if given.kills else []
    for wrong in (each for each in seen if each.wrong):
        print(wrong, file=sys.stderr)
    print(f"seed {seed}")
    print(f"{given.mutants} changed bundles, {changed - begun:.0f} s: {dict(outcomes.most_common())}")
    acts = Counter(each.act for each in seen if each.killed)
    wrongs = sum(bool(each.wrong) for each in seen)
    print(f"{acts.total()} kills in {len(seen)} acts, {time.monotonic() - changed:.0f} s: {wrongs} wrong; {dict(acts)}")
    return 1 if wrongs or any(name.startswith("FAULT") for name in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
