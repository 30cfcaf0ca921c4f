"""Memory as files tell it, and what came of taking some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recorded import CPU_TORCH, JETPACK_6, JETPACK_7, ORIN_GPU, ORIN_TORCH, changed

from edgeq.doctor import memory_probe
from edgeq.doctor.child import Outcome
from edgeq.doctor.memory import RESERVE_BYTES, allocation_finding, memory_finding, memory_kind
from edgeq.doctor.memory_probe import PIECE_BYTES, take

GB = 1_000_000_000


def test_zram() -> None:
    """16,031,336 kB are 16.42 GB and 13,107,200 kB 13.42 GB; eight times 1,001,956 kB are 8.21 GB."""
    found = memory_finding(JETPACK_6, jetson=True)
    assert found.seen == "13.42 GB of 16.42 GB available; zram 8.21 GB, 0.00 GB used; no swap"
    assert "never goes to swap" in found.means


def test_a_swap_file() -> None:
    found = memory_finding(JETPACK_7, jetson=True)
    assert found.seen == "15.30 GB of 16.42 GB available; no zram; swap 8.59 GB, 0.00 GB used"


def test_a_container(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory.max": f"{8 * GB}", "sys/fs/cgroup/memory.current": f"{1 * GB}"}
    root = changed(JETPACK_6, tmp_path, files)
    assert memory_finding(root, jetson=True).seen.startswith(
        "7.00 GB of 8.00 GB available (a control group's limit; the machine has 16.42 GB)"
    )


def test_no_proc(tmp_path: Path) -> None:
    assert memory_finding(tmp_path, jetson=False).status == "unknown"


def test_where_memory_is_taken_from() -> None:
    assert memory_kind(None) == "system"
    assert memory_kind(CPU_TORCH) == "system"
    assert memory_kind(ORIN_TORCH) == "unified"
    card = Outcome({**ORIN_TORCH.facts, "gpu": {**ORIN_GPU, "integrated": False}}, 0)
    assert memory_kind(card) == "gpu"
    cannot_compute = Outcome({"torch": "2.9.0", "cuda": True, "gpu": ORIN_GPU}, 1)
    assert memory_kind(cannot_compute) == "system"


class Machine:
    """So many bytes free; what is taken is gone, and others may take some too."""

    def __init__(self, free: int, others: int = 0) -> None:
        self.free = free
        self.others = others
        self.least = free
        self.taken: list[int] = []

    def allocate(self, size: int) -> None:
        self.free -= size + self.others
        self.least = min(self.least, self.free)

    def run(self, needed: int, reserve: int) -> bool:
        return take(needed, reserve, self.allocate, lambda: self.free, self.taken.append)


def test_all_is_taken_in_pieces() -> None:
    machine = Machine(10 * GB)
    needed = 2 * PIECE_BYTES + 5
    assert machine.run(needed, GB)
    assert machine.taken == [PIECE_BYTES, 2 * PIECE_BYTES, needed]


def test_to_the_byte() -> None:
    assert Machine(10 * GB).run(9 * GB, GB)
    assert not Machine(10 * GB).run(9 * GB + 1, GB)


def test_what_cannot_be_is_not_begun() -> None:
    machine = Machine(10 * GB)
    assert not machine.run(20 * GB, GB)
    assert machine.taken == []


def test_it_stops_where_others_take_memory_meanwhile() -> None:
    """Others take as much each time: 6 GB do not fit 10 GB any more, and the reserve is kept."""
    machine = Machine(10 * GB, others=PIECE_BYTES)
    assert not machine.run(6 * GB, GB)
    assert 0 < machine.taken[-1] < 6 * GB
    assert machine.least >= GB


def test_the_probe_takes_real_memory(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_probe, "_offer_to_the_oom_killer", lambda: None)  # this process goes on
    memory_probe.main(["system", "40000000", "0"])
    memory_probe.main(["system", str(10**15), "0"])
    told = [json.loads(line.partition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    assert [list(fact) for fact in told] == [["available"], ["taken"], ["whole"], ["available"], ["whole"]]
    assert (told[1], told[2], told[4]) == ({"taken": 40_000_000}, {"whole": True}, {"whole": False})


@pytest.fixture
def simulated_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """CUDA's allocations end on the CPU; the third one fails as NvMap's do on a Jetson."""
    import torch

    real, asked = torch.full, list[int]()

    def full(shape: tuple[int], value: int, *, dtype: torch.dtype, device: str) -> torch.Tensor:
        assert device == "cuda"
        asked.append(shape[0])
        if len(asked) == 3:
            raise RuntimeError("NvMapMemAllocInternalTagged: error 12\nand a trace")
        return real((1,), value, dtype=dtype)

    monkeypatch.setattr(torch, "full", full)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 * GB, 16 * GB))
    monkeypatch.setattr(memory_probe, "_offer_to_the_oom_killer", lambda: None)
    return asked


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    lines = capsys.readouterr().out.splitlines()
    return {key: fact for line in lines for key, fact in json.loads(line.partition(" ")[2]).items()}


def test_a_gpus_own_memory(simulated_gpu: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    memory_probe.main(["gpu", str(2 * PIECE_BYTES), str(GB)])
    assert simulated_gpu == [PIECE_BYTES, PIECE_BYTES]
    assert told(capsys) == {"available": 8 * GB, "runtime": 0, "taken": 2 * PIECE_BYTES, "whole": True}
    memory_probe.main(["gpu", str(8 * GB), str(GB)])
    assert told(capsys)["whole"] is False


def test_cuda_that_refuses(
    simulated_gpu: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA's context took of the shared memory counts as taken: 1 GB here, so that 2 GB more are asked for."""
    left = iter((9 * GB, 9 * GB, *[8 * GB] * 9))
    monkeypatch.setattr(memory_probe, "_system_available", lambda: next(left))
    memory_probe.main(["unified", str(3 * GB), str(GB)])
    found = told(capsys)
    assert (found["available"], found["runtime"], found["taken"]) == (9 * GB, GB, 2 * PIECE_BYTES)
    assert found["refused"] == "NvMapMemAllocInternalTagged: error 12"
    assert len(simulated_gpu) == 3


def test_findings() -> None:
    assert allocation_finding(None, "system", None).status == "unknown"
    good = allocation_finding(Outcome({"available": 9 * GB, "taken": 6 * GB, "whole": True}, 0), "unified", 6 * GB)
    assert (good.status, good.seen) == (
        "ok",
        "took and touched 6.00 GB by CUDA from the shared memory, and gave it back",
    )


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome({"available": 5 * GB, "whole": False}, 0), ("took 0.00 GB", "5.00 GB were available")),
        (Outcome({"available": 9 * GB, "taken": 2 * GB}, -9), ("took 2.00 GB", "SIGKILL")),
        (Outcome({"available": 9 * GB, "taken": GB, "refused": "NvMapMemAlloc error 12"}, 0), ("NvMapMemAlloc",)),
    ],
)
def test_memory_that_is_not_there(outcome: Outcome, words: tuple[str, ...]) -> None:
    found = allocation_finding(outcome, "system", 8 * GB)
    assert found.status == "missing"
    assert "wanted 8.00 GB by the CPU" in found.seen
    assert all(word in found.seen for word in words)
    assert RESERVE_BYTES > 0
