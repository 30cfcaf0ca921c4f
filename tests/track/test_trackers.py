"""Figures to MLflow and TensorBoard, read back by MLflow's own client and TensorBoard's own reader."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from command import ALLOW_FLAGS, Edgeq, assert_refused
from mlflow import MlflowClient
from networks import ALLOWED, QUICK
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator as events

import edgeq as library
from edgeq.errors import InputError
from edgeq.pipeline.stages import Options
from edgeq.quantize.search.sensitivity import Sensitivity
from edgeq.track.base import Record
from edgeq.track.record import bundle_record, flat
from edgeq.track.registry import open_trackers, record_on

OLD = Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of MLflow's that looks at a folder, which is also where edgeq is to write."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its databases need the whole of MLflow
    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return MlflowClient(tracking_uri=uri)


def only_run(client: MlflowClient) -> Any:
    experiment = client.get_experiment_by_name("edgeq")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def only_events(directory: Path) -> Any:
    """What TensorBoard reads of the one run below a directory."""
    (run,) = directory.iterdir()
    found = events.EventAccumulator(str(run), size_guidance={events.SCALARS: 0, events.TENSORS: 0})
    found.Reload()
    return found


def prepare(edgeq: Edgeq, model: Path, pictures: Path, answers: Path, output: Path, *flags: str | Path) -> Any:
    given = ("--images", pictures, "--eval", answers, *ALLOW_FLAGS)
    return edgeq("prepare", model, *given, "-o", output, *flags)


@pytest.mark.usefixtures("quick_latency")
def test_a_bundle_is_recorded_by_both(
    edgeq: Edgeq, server: MlflowClient, tiny_model: Path, tiny_pictures: Path, tiny_answers: Path, tmp_path: Path
) -> None:
    bundle, runs = tmp_path / "made", tmp_path / "runs"
    flags = ("--method", "entropy", "--track", "mlflow", "--track", f"tensorboard:{runs}", "--json")
    done = prepare(edgeq, tiny_model, tiny_pictures, tiny_answers, bundle, *flags)
    assert done.status == 0, done.err
    quality = json.loads((bundle / "quality.json").read_text())
    assert json.loads(done.out)["quality"]["candidate_bytes"] == quality["candidate_bytes"]  # one object, and no more
    answers = quality["answers"]
    expected = {
        "top-1/reference": answers["top1_reference"],
        "top-1/quantized": answers["top1_candidate"],
        "top-1/examples": answers["images"],
        "bytes/fp32": (bundle / "model.fp32.onnx").stat().st_size,
        "bytes/bundle": sum(file["size"] for file in json.loads((bundle / "manifest.json").read_text())["files"]),
        "latency/fp32_ms_batch_1": next(each for each in quality["latency"] if each["batch"] == 1)["reference_ms"],
    }
    run = only_run(server)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "made")
    assert {name: run.data.metrics[name] for name in expected} == pytest.approx(expected)
    chosen = {"model": str(tiny_model), "evaluation": str(tiny_answers), "method": "entropy", "kind": "classifier"}
    assert chosen.items() <= run.data.params.items()
    kept = {file.path for file in server.list_artifacts(run.info.run_id)}
    assert {"README.md", "manifest.json", "quality.json", "plan.yaml"} <= kept
    assert not [name for name in kept if name.endswith(".onnx")]
    seen = only_events(runs)
    assert {name: seen.Scalars(name)[0].value for name in expected} == pytest.approx(expected, rel=1e-6)
    assert set(seen.Tags()["scalars"]) == set(run.data.metrics)
    assert "_hparams_/session_start_info" in seen.summary_metadata
    assert b"made" in seen.Tensors("summary/text_summary")[0].tensor_proto.string_val[0]


def test_layers_are_a_series_by_their_place(
    edgeq: Edgeq, server: MlflowClient, made: Path, tiny_pictures: Path, tmp_path: Path
) -> None:
    out, runs = tmp_path / "out", tmp_path / "runs"
    track = ("--track", "mlflow", "--track", f"tensorboard:{runs}")
    done = edgeq("sensitivity", made, "--images", tiny_pictures, "-o", out, *track)
    assert done.status == 0, done.err
    table = Sensitivity.load(out / "sensitivity.json")
    errors = [line.alone.logit_error for line in table.layers]
    assert len(errors) > 1
    run = only_run(server)
    history = server.get_metric_history(run.info.run_id, "layer/logit_error")
    assert [each.value for each in sorted(history, key=lambda each: each.step)] == errors
    assert run.data.metrics["int8/logit_error"] == table.int8.logit_error
    note = run.data.tags["mlflow.note.content"]
    assert all(f"`{line.layer}` | {step} |" in note for step, line in enumerate(table.layers))
    local = Path(server.download_artifacts(run.info.run_id, "sensitivity.json", str(tmp_path)))
    assert Sensitivity.load(local) == table
    assert {"sensitivity.svg", "sensitivity.png"} <= {file.path for file in server.list_artifacts(run.info.run_id)}
    seen = only_events(runs)
    assert [each.value for each in seen.Scalars("layer/logit_error")] == pytest.approx(errors, rel=1e-6)
    with Image.open(out / "sensitivity.png") as chart:
        drawn = seen.Images("sensitivity")[0]
        assert (drawn.width, drawn.height) == chart.size


@pytest.fixture(scope="module")
def made(tiny_model: Path, tiny_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle; not to be written to."""
    output = tmp_path_factory.mktemp("tracked") / "bundle"
    library.prepare(tiny_model, tiny_pictures, output, options=Options(allow=ALLOWED, timing=QUICK, threads=1))
    return output


@pytest.mark.parametrize("name", ["classifier", "vlm"])
def test_names_are_ones_that_trackers_take(name: str, server: MlflowClient) -> None:
    record = bundle_record(OLD / name, library.verify(OLD / name).manifest, {"model": "a"}, 1.5)
    assert record.metrics["seconds"] == 1.5
    assert any(each.endswith("/drop") for each in record.metrics)
    assert record_on(open_trackers("mlflow"), lambda: record) == ()
    assert only_run(server).data.metrics == pytest.approx(dict(record.metrics))


def test_choices_are_told_one_by_one() -> None:
    told = flat({"options": Options(method="mse", outputs=("a", "b")), "images": Path("x"), "captions": None})
    assert told["method"] == "mse"
    assert told["gate.max_drop"] == str(Options().gate.max_drop)
    assert told["outputs"] == "a, b"
    assert told["images"] == "x"
    assert "captions" not in told
    assert "threads" not in told


def test_many_figures_go_in_pieces(server: MlflowClient) -> None:
    count = 1500
    record = Record("many", params={f"p{each}": "x" for each in range(150)}, series={"s": tuple(range(count))})
    assert record_on(open_trackers("mlflow"), lambda: record) == ()
    run = only_run(server)
    assert len(run.data.params) == 150
    assert len(server.get_metric_history(run.info.run_id, "s")) == count


def test_two_runs_of_a_name_are_two(tmp_path: Path) -> None:
    trackers = open_trackers(f"tensorboard:{tmp_path / 'runs'}")
    for _ in range(2):
        assert record_on(trackers, lambda: Record("same", metrics={"a": 1.0})) == ()
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_what_cannot_be_written_to_is_refused_before_any_work(
    edgeq: Edgeq,
    closed_port: int,
    tiny_model: Path,
    tiny_pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    given = ("--images", tiny_pictures, "-o", tmp_path / "out", "--track")
    address = f"mlflow:http://somebody:secret@127.0.0.1:{closed_port}"
    refused = edgeq("prepare", tiny_model, *given, address)
    assert_refused(refused, f"MLflow cannot be written to at http://127.0.0.1:{closed_port}")
    assert "secret" not in refused.err
    assert_refused(edgeq("prepare", tiny_model, *given, "tensorboard:file/runs"), "file/runs", "Not a directory")
    assert_refused(edgeq("prepare", tiny_model, *given, "wandb"), "'wandb'", "mlflow, tensorboard")
    assert_refused(edgeq("sensitivity", tmp_path, *given, "tensorboard:file"), "TensorBoard's directory file")
    assert_refused(edgeq("sensitivity", tmp_path, "--kind", "vit", *given, "tensorboard"), "--track and --kind vit")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # not installed
    assert_refused(edgeq("prepare", tiny_model, *given, "tensorboard"), "[track]")


def test_a_deleted_experiment_is_refused(server: MlflowClient) -> None:
    server.delete_experiment(server.create_experiment("edgeq"))
    with pytest.raises(InputError, match="was deleted"):
        open_trackers("mlflow")


def test_a_tracker_that_fails_at_the_end_costs_no_result(
    tiny_model: Path, tiny_pictures: Path, server: MlflowClient, tmp_path: Path
) -> None:
    bundle, runs = tmp_path / "bundle", tmp_path / "runs"

    def lose(stage: str, _done: int, _total: int) -> None:
        if stage == "quantize" and runs.is_dir():
            runs.rmdir()
            runs.write_text("something else has the name")

    made = library.prepare(
        *(tiny_model, tiny_pictures, bundle),
        options=Options(allow=ALLOWED, timing=QUICK, threads=1),
        progress=lose,
        track=[f"tensorboard:{runs}", "mlflow"],
    )
    assert library.verify(bundle).manifest == made.manifest
    assert [each for each in made.warnings if each.startswith("TensorBoard did not take the figures")]
    assert only_run(server).info.status == "FINISHED"


def test_a_run_that_breaks_off_is_marked_as_failed(server: MlflowClient, tmp_path: Path) -> None:
    trackers = open_trackers("mlflow")
    record = Record("broken", metrics={"a": 1.0}, files=(tmp_path / "gone",))
    (warning,) = record_on(trackers, lambda: record)
    assert warning.startswith("MLflow did not take the figures")
    assert only_run(server).info.status == "FAILED"


def test_what_the_user_set_stays(server: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    before = dict(os.environ)
    record_on(open_trackers("mlflow"), lambda: Record("x"))
    assert server.get_experiment_by_name("mine") is not None
    assert {**before, "MLFLOW_DISABLE_TELEMETRY": os.environ["MLFLOW_DISABLE_TELEMETRY"]} == dict(os.environ)
