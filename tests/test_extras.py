"""The command that installs an extra fits how edgeq came here; each package of an extra is known to be of it."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

import pytest

from edgeq import extras
from edgeq.extras import CPU_TORCH, extra_of, install_command

ROOT = Path(__file__).resolve().parents[1]

IMPORTED = {"faiss-cpu": "faiss", "mlflow-skinny": "mlflow"}
"""What a package is imported as, where that is another name."""


@pytest.fixture
def from_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package lies in site-packages, and pip wrote nothing down of where it came from."""
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "edgeq" / "extras.py"))
    came_from(monkeypatch, None)


def came_from(monkeypatch: pytest.MonkeyPatch, origin: dict[str, object] | None, *, torch: bool = True) -> None:
    """pip wrote this into direct_url.json."""

    class Found:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if origin is None else json.dumps(origin)

    def distribution(name: str) -> Found:
        if name == "torch" and not torch:
            raise metadata.PackageNotFoundError(name)
        return Found()

    monkeypatch.setattr(metadata, "distribution", distribution)


def test_in_a_checkout() -> None:
    assert install_command("quantize") == f"pip install -e '{ROOT}[quantize]'"


@pytest.mark.usefixtures("from_index")
@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'edgeq[device,service]'"),
        (
            {"url": "file:///data/my%20wheels/edgeq-0.1.0-py3-none-any.whl", "archive_info": {}},
            "pip install '/data/my wheels/edgeq-0.1.0-py3-none-any.whl[device,service]'",
        ),
        ({"url": "file:///src/edgeq", "dir_info": {}}, "pip install '/src/edgeq[device,service]'"),
        (
            {"url": "https://example.org/e.git", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            "pip install 'edgeq[device,service] @ git+https://example.org/e.git'",
        ),
        (
            {"url": "https://example.org/edgeq.whl", "archive_info": {}},
            "pip install 'edgeq[device,service] @ https://example.org/edgeq.whl'",
        ),
    ],
)
def test_elsewhere(monkeypatch: pytest.MonkeyPatch, origin: dict[str, object] | None, command: str) -> None:
    came_from(monkeypatch, origin)
    assert install_command("device", "service") == command


@pytest.mark.usefixtures("from_index")
def test_torch_is_said_to_be_there_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    came_from(monkeypatch, None, torch=False)
    assert install_command("torch").endswith(f"; where there is no GPU, first {CPU_TORCH}")
    assert CPU_TORCH not in install_command("retrieval")
    came_from(monkeypatch, None, torch=True)
    assert CPU_TORCH not in install_command("torch")


def declared() -> dict[str, set[str]]:
    """Extra -> what is imported of it, from pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    text = re.sub(r"^#.*$", "", text.partition("\n[")[0], flags=re.MULTILINE)
    found = {}
    for extra, packages in re.findall(r"^([\w-]+) = \[(.*?)\]$", text, flags=re.MULTILINE | re.DOTALL):
        names = re.findall(r'"([\w-]+?)(?=[\[>])', packages)
        found[extra] = {IMPORTED.get(name, name.replace("-", "_")) for name in names}
    return found


def test_every_package_is_found_in_an_extra_that_declares_it() -> None:
    listed = declared()
    assert {"quantize", "device", "service", "retrieval", "language", "torch"} <= set(listed)
    for packages in listed.values():
        for package in packages - {"edgeq", "onnxruntime_gpu", "tensorrt_cu12"}:
            assert package in listed[extra_of(package)], package


def test_a_module_of_a_package_is_of_its_extra() -> None:
    assert extra_of("torch.nn") == "torch"
    assert extra_of("starlette.applications") == "service"
    assert extra_of(None) == "quantize"
