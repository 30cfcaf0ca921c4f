"""The progress monitor on TensorRT's real base class, driven as a build drives it."""

from __future__ import annotations

from typing import Any

import pytest
from tensorrt_bindings import RELEASE_11, VERSIONS, run_bindings

SCRIPT = """
import json
import threading

from edgeq.tensorrt.loading import load_tensorrt
from edgeq.tensorrt.progress import progress_monitor

trt = load_tensorrt()
seen = []


def drive(monitor, phases):
    answers = []
    for phase, parent, steps in phases:
        monitor.phase_start(phase, parent, steps)
        answers += [monitor.step_complete(phase, step) for step in range(steps)]
        monitor.phase_finish(phase)
    return answers


def stubborn(phase, done, total):
    seen.append(phase)
    if phase == "engine: b":
        raise KeyboardInterrupt("enough")


whole = []
monitor = progress_monitor(trt, lambda *told: whole.append(told))
kept = {"subclass": isinstance(monitor, trt.IProgressMonitor)}
kept["answers"] = drive(monitor, [("a", None, 2), ("b", "a", 0)])
monitor.check()
kept["whole"] = whole
monitor = progress_monitor(trt, stubborn)
kept["stopped"] = drive(monitor, [("a", None, 1), ("b", "a", 2), ("c", None, 1)])
kept["seen"] = seen
try:
    monitor.check()
except KeyboardInterrupt as error:
    kept["raised"] = str(error)
kept["silent"] = drive(progress_monitor(trt), [("a", None, 3)])
count = []
shared = progress_monitor(trt, lambda *told: count.append(told))
threads = [threading.Thread(target=drive, args=(shared, [(name, None, 50)])) for name in "pqrs"]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
kept["told"] = len(count)
print(json.dumps(kept))
"""


@pytest.fixture(scope="module", params=(*VERSIONS, RELEASE_11))
def found(request: pytest.FixtureRequest) -> Any:
    return run_bindings(request.param, SCRIPT)


def test_phases_are_told_as_stages(found: Any) -> None:
    assert found["subclass"]
    a = [["engine: a", done, 2] for done in (0, 1, 2, 2)]
    assert found["whole"] == [*a, ["engine: b", 0, 0], ["engine: b", 0, 0]]
    assert found["answers"] == [True, True]


def test_what_is_raised_stops_the_build_and_is_kept(found: Any) -> None:
    assert found["stopped"] == [True, False, False, False]
    assert found["seen"] == ["engine: a", "engine: a", "engine: a", "engine: b"]  # nobody is told any more
    assert found["raised"] == "enough"


def test_without_anybody_to_tell_it_goes_on(found: Any) -> None:
    assert found["silent"] == [True, True, True]


def test_several_threads_may_tell_at_once(found: Any) -> None:
    assert found["told"] == 4 * 52  # a start, 50 steps and an end each
