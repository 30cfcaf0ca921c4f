"""Run with TensorRT's bindings: `maker_cases.py FOLDER PICTURES`. What the maker gives a builder, as JSON.

The bindings have no builder without a GPU; the one here is simulated and asks the calibrator as TensorRT does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from host_memory import HostMemory
from simulated import write_classifier

from edgeq.engine_store import maker
from edgeq.engine_store.maker import Job, TensorRtMaker
from edgeq.engine_store.planned import plan_build
from edgeq.tensorrt.loading import QuantizationMode, load_tensorrt

BATCH, BYTES = 4, 4 * 3 * 4 * 4 * 4


def main(folder: Path, pictures: Path) -> None:
    memory, bundle = HostMemory(), write_classifier(folder / "bundle")

    def build_engine(trt: Any, settings: Any, graph: Path, **given: Any) -> bytes:
        """The simulated builder: what it was given, and what its calibrator gives it."""
        calibrator = given["calibrator"]
        found: dict[str, Any] = {"graph": graph.name, "release": settings.tensorrt, "calibration": settings.calibration}
        if calibrator is not None:
            found["is_one"] = isinstance(calibrator, trt.IInt8EntropyCalibrator2)
            found["ranges"] = given["ranges"]
            found["cache"] = (calibrator.read_calibration_cache() or b"").decode()
            found["means"] = []
            while not found["cache"] and (addresses := calibrator.get_batch(["pixels"])):
                (batch,) = (memory.live[address] for address in addresses)
                found["means"].append(float(batch.view(np.float32).mean()))
                found["bytes"] = batch.nbytes
            calibrator.check()
        return json.dumps(found).encode()

    setattr(maker, "build_engine", build_engine)  # noqa: B010
    tensorrt_maker = TensorRtMaker(memory=lambda: memory)
    made = {}
    cases: tuple[tuple[str, QuantizationMode | None, Path | None], ...]
    cases = (("cache", "implicit", None), ("images", "implicit", pictures), ("none", None, None))
    for name, quantization, images in cases:
        settings = plan_build(
            bundle, quantization=quantization, tensorrt=tensorrt_maker.release, batch=(1, BATCH, BATCH), images=images
        )
        job = Job(bundle, settings, images, folder / "timing", lambda *_: None, lambda _: None)
        made[name] = json.loads(tensorrt_maker.make(job))
    print(json.dumps({"release": load_tensorrt().__version__, "left": len(memory.live), **made}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
