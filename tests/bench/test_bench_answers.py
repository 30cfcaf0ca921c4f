"""The benchmark of a vision-language bundle: counts that are exact, the report, and what is refused at once."""

from __future__ import annotations

import json
import shutil
import threading
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command import Edgeq, assert_refused

from edgeq.bench import answers, ceiling, run
from edgeq.bench.answers import AnswerFigures
from edgeq.bench.report import BenchLoad, BenchReport
from edgeq.bench.run import BenchRequest, bench
from edgeq.bundle.manifest import MANIFEST, write_manifest
from edgeq.device.power_modes import power_mode
from edgeq.errors import EngineError, InputError
from edgeq.files import sha256_file
from edgeq.runtime.scheduler.budget import MEMORY
from edgeq.runtime.scheduler.runtime import Runtime
from edgeq.runtime.vlm.api import GenerationRequest

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

ORIN = Path(__file__).resolve().parents[1] / "golden" / "doctor" / "orin-nx-jetpack-6.2"
REPEATS, WARMUP, TOKENS, CLIENTS = 6, 1, 5, 3


@pytest.fixture(scope="module")
def bundle(prepared_vlm: PreparedVlm) -> Path:
    return prepared_vlm.bundle


@pytest.fixture(scope="module")
def report(bundle: Path) -> BenchReport:
    """Of the tiny LLaVA, whose answers end by themselves after other numbers of tokens, on a simulated Orin NX."""
    load = BenchLoad(repeats=REPEATS, warmup=WARMUP, tokens=TOKENS, clients=(1, CLIENTS), batches=(1,), threads=1)
    return bench(BenchRequest(bundle, load, root=ORIN))


@pytest.fixture(scope="module")
def measured(report: BenchReport) -> AnswerFigures:
    assert report.answers is not None
    return report.answers


def test_every_answer_has_the_tokens_that_were_asked_for(measured: AnswerFigures) -> None:
    """Two rounds of three clients; each answer has five tokens, whatever the model says."""
    assert measured.answer_tokens == TOKENS
    alone, several = measured.clients
    assert (alone.clients, alone.requests, alone.tokens) == (1, REPEATS, REPEATS * TOKENS)
    assert (several.clients, several.requests, several.tokens) == (CLIENTS, 6, 6 * TOKENS)
    assert several.tokens_per_second == pytest.approx(several.tokens / several.seconds)


def test_every_run_that_counts_is_counted(measured: AnswerFigures) -> None:
    for times in (measured.preparing, measured.image, measured.first_token, measured.first_token_again, measured.token):
        assert times.runs == REPEATS
        assert times.low_ms is not None
        assert times.high_ms is not None
        assert 0 < times.low_ms <= times.p50_ms <= times.high_ms
        assert (times.p90_ms, times.p99_ms) == (None, None), "too few runs"
    assert measured.decode_tokens_per_second == pytest.approx(1e3 / measured.token.p50_ms)
    assert (measured.image_tokens, measured.context) == (4, 64)


def test_the_report_says_of_what_and_where(report: BenchReport, bundle: Path, tmp_path: Path) -> None:
    assert report.manifest_sha256 == sha256_file(bundle / MANIFEST)
    assert (report.bundle, report.kind) == (bundle.name, "vision-language")
    assert {"edgeq", "python", "torch", "transformers", "bitsandbytes", "onnxruntime"} <= report.versions.keys()
    assert report.conditions.samples >= 2
    assert (report.machine.device, report.machine.machine.platform) == ("orin-nx-16gb", "L4T 36.4.3")
    assert report.machine.power is not None
    assert (report.machine.power.name, report.machine.power.gpu_mhz) == ("25W", (306, 408))
    assert report.machine.mode == power_mode("orin-nx-16gb", "25W")
    report.save(tmp_path / "report.json")
    assert BenchReport.load(tmp_path / "report.json") == report


def test_on_a_known_device_the_power_modes_ceiling_stands_beside(report: BenchReport, measured: AnswerFigures) -> None:
    """The share of each figure is that of its own ceiling."""
    found = report.ceiling
    assert found is not None
    assert (found.source, found.bytes_per_second) == ("derived", 102.4e9)
    assert measured.decode_percent == pytest.approx(
        100 * measured.decode_tokens_per_second / found.decode_tokens_per_second
    )
    assert found.image_ms is not None
    assert measured.image_percent == pytest.approx(100 * found.image_ms / measured.image.p50_ms)
    for row in measured.clients:
        assert row.ceiling_tokens_per_second is not None
        assert row.percent == pytest.approx(100 * row.tokens_per_second / row.ceiling_tokens_per_second)
    assert "derived from orin-nx-16gb in mode 25W" in report.ceiling_note


def test_so_small_a_model_has_no_ceiling_on_a_machine_that_is_not_known(measured: AnswerFigures, bundle: Path) -> None:
    """Its weights are a few kilobytes: caches hold them."""
    limits = ceiling.find_limits(bundle, None, None, 1 << 30)
    assert limits.ceiling(measured) is None
    assert "is not known, as caches may hold all weights" in limits.note
    assert limits.measured_again(1 << 30) == limits


def test_a_machine_that_is_not_known_is_measured(
    measured: AnswerFigures, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceiling, "measured_bandwidth", lambda _free, _read: 20e9)
    limits = ceiling.find_limits(bundle, None, None, 1 << 30)
    found = limits.ceiling(measured)
    assert found is not None
    assert (found.source, found.bytes_per_second, found.prefill_tokens_per_second) == ("measured bandwidth", 20e9, None)
    assert limits.beside(measured, found).image_percent is None
    assert "as measured here, 20.0 GB/s" in limits.note
    monkeypatch.setattr(ceiling, "measured_bandwidth", lambda _free, _read: 19e9)
    assert limits.measured_again(1 << 30) == limits, "the quicker one counts"
    monkeypatch.setattr(ceiling, "measured_bandwidth", lambda _free, _read: 30e9)
    assert "30.0 GB/s" in limits.measured_again(1 << 30).note


def test_a_bundle_that_was_planned_for_no_device_has_no_ceiling(
    measured: AnswerFigures, bundle: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(bundle, tmp_path / "b")
    (other / MEMORY).unlink()
    limits = ceiling.find_limits(other, None, None, 1 << 30)
    assert (limits.ceiling(measured), limits.beside(measured, None)) == (None, measured)
    assert "prepare it with --device" in limits.note


def test_bandwidth_is_measured_beyond_the_caches(tmp_path: Path) -> None:
    """A cache of 1 MiB: 64 MiB are read where a token reads 2, and nothing is measured where it reads half of one."""
    cache = tmp_path / "sys/devices/system/cpu/cpu0/cache/index3"
    cache.mkdir(parents=True)
    (cache / "size").write_text("1024K\n")
    assert ceiling.cache_bytes(tmp_path) == 1 << 20
    assert ceiling.cache_bytes(tmp_path / "none") == 256 << 20
    found = ceiling.measured_bandwidth(256 << 20, 2 << 20, tmp_path)
    assert found is not None
    assert found > 1e6
    assert ceiling.measured_bandwidth(256 << 20, 1 << 19, tmp_path) is None
    assert ceiling.measured_bandwidth(128 << 20, 2 << 20, tmp_path) is None, "a matrix of 32 MiB is too small"


@pytest.fixture
def never_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle of which all bytes are read was not refused at once."""

    def examined(*_arguments: object, **_options: object) -> None:
        pytest.fail("its bytes were checked first")

    monkeypatch.setattr(run, "examine", examined)


@pytest.mark.usefixtures("never_checked")
class TestRefusedAtOnce:
    """Before the bundle's bytes are read."""

    def test_a_package_that_is_missing(self, edgeq: Edgeq, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(_language: Path) -> None:
            raise EngineError("it runs with torch, which is not installed", next_step="pip install")

        monkeypatch.setattr(run, "require_packages", missing)
        assert_refused(edgeq("bench", bundle), "torch, which is not installed", "pip install")

    def test_weights_that_are_larger_than_memory(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/meminfo").write_text("MemTotal: 64 kB\nMemFree: 1 kB\nMemAvailable: 1 kB\n")
        load = BenchLoad(repeats=1, warmup=0, tokens=2, clients=(1,), batches=(1,), threads=1)
        with pytest.raises(InputError, match=r"weights in .* of memory are free"):
            bench(BenchRequest(bundle, load, root=tmp_path))

    def test_what_is_no_bundle(self, edgeq: Edgeq, tmp_path: Path) -> None:
        assert_refused(edgeq("bench", tmp_path), "is not a bundle", "manifest.json")

    def test_an_image_for_a_classifier(self, edgeq: Edgeq, tmp_path: Path) -> None:
        write_manifest(tmp_path, labels=("a", "b"))
        assert_refused(edgeq("bench", tmp_path, "--question", "what?"), "answers no questions")

    @pytest.mark.parametrize(
        "flags",
        [
            ("--tokens", "1"),
            ("--clients", "0"),
            ("--clients", "257"),
            ("--repeats", "0"),
            ("--batch", "1025"),
            ("--warmup", "-1"),
        ],
    )
    def test_numbers_out_of_range(self, edgeq: Edgeq, bundle: Path, flags: tuple[str, ...]) -> None:
        assert_refused(edgeq("bench", bundle, *flags), flags[0])

    def test_two_bundles(self, edgeq: Edgeq, bundle: Path) -> None:
        assert_refused(edgeq("bench", bundle, bundle), "one BUNDLE is measured at a time")


def test_an_interrupt_writes_nothing(
    edgeq: Edgeq, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while several clients ask: their threads end, the report of before stays."""
    output, calls = tmp_path / "report.json", count()
    output.write_text("of before")

    def ask(runtime: Runtime, asked: GenerationRequest) -> object:
        """Two by one client, two pairs about one image, and then in the threads of four clients."""
        if next(calls) == 7:
            raise KeyboardInterrupt
        return real(runtime, asked)

    real = answers._ask
    monkeypatch.setattr(answers, "_ask", ask)
    done = edgeq("bench", bundle, "--repeats", "2", "--warmup", "0", "--tokens", "2", "--threads", "1", "-o", output)
    assert (done.status, done.out) == (130, "")
    assert "nothing was left behind" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert output.read_text() == "of before"
    ours = ("edgeq-runtime", "edgeq-bench", "ThreadPool")
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith(ours)] == []


def test_for_people_and_in_json(
    edgeq: Edgeq, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_photographs: Path
) -> None:
    """Within 80 columns; the file, --json and --show have the same figures."""
    monkeypatch.setenv("COLUMNS", "80")
    few = ("--repeats", "2", "--warmup", "0", "--tokens", "3", "--clients", "2", "--threads", "1")
    image = ("--image", tiny_photographs / "blue" / "blue-000.jpg", "--question", "is it blue?")
    shown = edgeq("bench", bundle, *few, *image, "-o", tmp_path / "here.json")
    assert shown.status == 0
    assert max(len(line.rstrip()) for line in shown.out.splitlines() if "─" in line or line.startswith("  ")) <= 80
    for row in ("image processor", "vision encoder", "first token", "same image again", "further token", "2 clients"):
        assert row in shown.out
    saved = BenchReport.load(tmp_path / "here.json")
    assert saved.answers is not None
    assert saved.answers.prompt_tokens == len(["<s>", *"is it blue?:"]) + 4
    again = edgeq("bench", bundle, *few, "--json")
    assert BenchReport.model_validate_json(again.out).manifest_sha256 == saved.manifest_sha256
    (tmp_path / "there.json").write_text(again.out)
    both = edgeq("bench", "--show", tmp_path / "here.json", tmp_path / "there.json")
    assert (both.status, both.err) == (0, "")
    rows = [line.split() for line in both.out.splitlines()]
    assert [row[0] for row in rows if row and row[0] in ("here", "there")] == ["here", "there"]
    assert f"{saved.answers.decode_tokens_per_second:,.0f}" in both.out


def test_what_is_no_report(edgeq: Edgeq, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"version": "edgeq.bench/2"}))
    assert_refused(edgeq("bench", "--show", tmp_path / "a.json"), "is no report of a benchmark", "edgeq.bench/1")
    assert_refused(edgeq("bench", "--show", tmp_path / "none.json"), "none.json")
