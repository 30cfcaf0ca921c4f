"""What of the rehearsal needs neither root nor an emulator."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgeq.errors import InputError
from rehearsal.__main__ import main
from rehearsal.client import read_unit
from rehearsal.compare import COSINE, SCORE, compare_canaries, compare_scores
from rehearsal.emulation import emulated, rule_line
from rehearsal.needs import CERTIFICATES, EMULATOR_RULE, lacking, require_able
from rehearsal.report import RehearsalReport, RehearsalStep, Steps, UnexpectedError
from rehearsal.root import emulated_machine, hand_over, this_machine
from rehearsal.stand_ins import NVPMODEL, POWER_MODE, RECORDED, STAND_INS
from rehearsal.story import unit_complaints

CHECKOUT = Path(__file__).resolve().parents[2]
RULE = r":qemu-aarch64:M::\x7fELF:\xff\xff:/usr/libexec/qemu-binfmt/aarch64-binfmt-P:OPF"


@pytest.fixture
def able(tmp_path: Path) -> Path:
    """The files of a machine that can rehearse."""
    texts = {"proc/filesystems": "nodev\tproc\nnodev\tbinfmt_misc\n", str(EMULATOR_RULE): RULE, CERTIFICATES: "pem"}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_machine_that_has_all(able: Path) -> None:
    assert lacking(able, 0, lambda name: f"/usr/bin/{name}") == ((), ())


def test_all_that_is_missing_is_told_at_once(able: Path) -> None:
    (able / "proc/filesystems").write_text("nodev\tproc\n", encoding="utf-8")
    (able / EMULATOR_RULE).unlink()
    (able / CERTIFICATES).unlink()
    sentences, packages = lacking(able, 1000, lambda name: None if name == "debootstrap" else name)
    assert packages == ("qemu-user-static", "ca-certificates", "debootstrap")
    words = ("root", "binfmt_misc", "emulated", "ca-certificates", "debootstrap")
    assert [word in sentence for word, sentence in zip(words, sentences, strict=True)] == [True] * 5


def test_it_is_refused_with_what_to_install(able: Path) -> None:
    (able / EMULATOR_RULE).unlink()
    with pytest.raises(InputError, match="cannot rehearse") as refused:
        require_able(able)
    assert "qemu-user-static" in refused.value.next_step


def test_the_command_refuses_what_is_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(tmp_path), "--cache", str(tmp_path / "cache")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "cache").exists()


def test_the_rule_is_the_line_without_comments() -> None:
    assert rule_line(f"# of QEMU\n{RULE}\n") == RULE


@pytest.mark.parametrize("text", ["", f"{RULE}\n{RULE}\n", RULE.removesuffix("F")])
def test_a_rule_that_would_not_work_in_a_root_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="flag F"):
        rule_line(text)


def test_what_was_registered_is_taken_back(able: Path, tmp_path: Path) -> None:
    binfmt = tmp_path / "binfmt"
    binfmt.mkdir()
    (binfmt / "register").write_text("", encoding="utf-8")
    registration = emulated(binfmt, able / EMULATOR_RULE, tmp_path / "lock")
    registration.__enter__()
    assert (binfmt / "register").read_text(encoding="utf-8") == RULE
    assert not registration.__exit__(UnexpectedError, UnexpectedError("a fault"), None)  # it goes on being raised
    assert (binfmt / "qemu-aarch64").read_text(encoding="utf-8") == "-1"


def test_what_others_registered_stays(able: Path, tmp_path: Path) -> None:
    binfmt = tmp_path / "binfmt"
    binfmt.mkdir()
    for name in ("register", "qemu-aarch64"):
        (binfmt / name).write_text("enabled", encoding="utf-8")
    with emulated(binfmt, able / EMULATOR_RULE, tmp_path / "lock"):
        pass
    assert {path.read_text(encoding="utf-8") for path in binfmt.iterdir()} == {"enabled"}


def test_the_last_of_two_rehearsals_takes_it_back(able: Path, tmp_path: Path) -> None:
    binfmt, entry = tmp_path / "binfmt", tmp_path / "binfmt/qemu-aarch64"
    binfmt.mkdir()
    (binfmt / "register").write_text("", encoding="utf-8")
    first, second, third = (emulated(binfmt, able / EMULATOR_RULE, tmp_path / "lock") for _ in range(3))
    first.__enter__()
    entry.write_text("enabled", encoding="utf-8")  # as the kernel does
    second.__enter__()
    first.__exit__(None, None, None)
    assert entry.read_text(encoding="utf-8") == "enabled"
    second.__exit__(None, None, None)
    assert entry.read_text(encoding="utf-8") == "-1"
    entry.write_text("enabled", encoding="utf-8")  # by somebody else
    with third:
        pass
    assert entry.read_text(encoding="utf-8") == "enabled"


def test_the_unit_that_is_installed_is_what_is_run() -> None:
    unit = read_unit((CHECKOUT / "jetson/edgeq.service").read_text(encoding="utf-8"))
    assert unit.command == ("/opt/edgeq/venv/bin/edgeq", "serve", "--config", "/etc/edgeq/edgeq.conf")
    assert unit.user == "edgeq"
    with pytest.raises(ValueError, match="unpack"):
        read_unit("[Service]\nUser=edgeq\n")


def test_keys_of_a_later_systemd_are_no_complaint() -> None:
    lines = [f"edgeq.service:26: Unknown key '{key}' in section [Service]" for key in ("RestartSteps", "RestartStep")]
    assert unit_complaints("\n".join([*lines, "other.service:1: Unknown key"])) == lines[1:]


def test_commands_go_into_the_root_and_to_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    monkeypatch.setenv("PYTHONPATH", "/of/this/machine")
    device = emulated_machine(Path("/cache/root"))
    assert device.command("id") == ["chroot", "/cache/root", "id"]
    become = ["setpriv", "--reuid=edgeq", "--regid=edgeq", "--init-groups", "--"]
    assert device.command("id", user="edgeq") == ["chroot", "/cache/root", *become, "id"]
    assert device.environment["PIP_INDEX_URL"] == "https://index.example/simple"
    assert "PYTHONPATH" not in device.environment
    assert this_machine().command("id") == ["id"]


def test_programs_trust_whom_this_machine_trusts(able: Path, tmp_path: Path) -> None:
    """Not by the root's own list, which ca-certificates writes again when it is set up."""
    root = tmp_path / "root"
    (root / "etc/ssl/certs").mkdir(parents=True)
    (root / CERTIFICATES).write_text("Debian's", encoding="utf-8")
    hand_over(able, root)
    environment = emulated_machine(root).environment
    trusted = {(root / environment[name][1:]).read_text(encoding="utf-8") for name in ("PIP_CERT", "SSL_CERT_FILE")}
    assert trusted == {"pem"}


def test_stand_ins_are_for_what_the_installer_looks_at() -> None:
    names = {stand_in.name for stand_in in STAND_INS}
    assert {line.split()[0] for line in (RECORDED / "packages").read_text().splitlines()} - names == {
        "build-essential",
        "git",
        "libgomp1",
    }
    assert f"NAME={POWER_MODE} " in (RECORDED / "nvpmodel.conf").read_text(encoding="utf-8")


def test_the_power_mode_that_was_set_is_told(tmp_path: Path) -> None:
    script = tmp_path / "nvpmodel"
    script.write_text(NVPMODEL.replace("/var/lib/nvpmodel", str(tmp_path)), encoding="utf-8")
    for number in ("0", "3", "10"):
        subprocess.run(["sh", script, "-m", number], check=True)
        told = subprocess.run(["sh", script, "-q"], check=True, capture_output=True, text=True).stdout
        assert told.splitlines()[-1] == number


def test_a_fault_is_told_and_the_next_step_is_taken() -> None:
    said = list[RehearsalStep]()
    steps = Steps(said.append)

    def fault() -> str:
        raise UnexpectedError("status 1")

    assert steps.take("one", lambda: "fine")
    assert not steps.take("two", fault)
    assert steps.take("three", lambda: "fine")
    assert not steps.take("four", fault, essential=True)
    assert not steps.take("five", lambda: "never")
    assert [step.result for step in said] == ["as expected", "not as expected"] * 2 + ["not run"]
    assert said[1].seen == "UnexpectedError: status 1"


def found(cosine: float, classes: list[int]) -> dict[str, Any]:
    """As `edgeq verify-engine --json` prints it, in what is compared."""
    checks = [
        {
            "int8": {"worst_cosine": cosine},
            "parity": {"worst_cosine": 0.9},
            "classes": {"engine": number},
            "same_pixels": True,
        }
        for number in classes
    ]
    return {"backend": "onnxruntime 1", "latency": {"p50_ms": 1.0}, "canaries": {"canaries": checks}}


def test_canaries_are_bounded() -> None:
    near = compare_canaries(found(1.0, [0, 1]), found(1 - COSINE / 2, [0, 1]))
    assert all(difference.within for difference in near)
    far = compare_canaries(found(1.0, [0, 1]), found(1 - COSINE * 2, [0, 2]))
    assert [difference.what.split(":")[1] for difference in far if not difference.within] == [
        " largest 1 - cosine to the workshop's INT8 logits",
        " the same class",
    ]
    assert [difference.arm64 for difference in far if difference.what == "canaries: the same class"] == ["1 of 2"]


def test_scores_are_bounded() -> None:
    here = {"a.png": {"crack": 0.75, "sound": 0.25}}
    near = compare_scores(here, {"a.png": {"crack": 0.75 - SCORE / 2, "sound": 0.25 + SCORE / 2}})
    assert [(difference.within, difference.measured) for difference in near] == [(True, None), (True, near[1].measured)]
    assert near[1].measured == pytest.approx(SCORE / 2)
    far = compare_scores(here, {"a.png": {"sound": 0.5625, "crack": 0.4375}})
    assert [(difference.within, difference.measured) for difference in far] == [(False, None), (False, 0.3125)]
    with pytest.raises(ValueError, match="other images"):
        compare_scores(here, {})


def test_a_report_is_read_back(tmp_path: Path) -> None:
    step = RehearsalStep(name="install.sh", result="as expected", seen="", seconds=1.5)
    report = RehearsalReport(
        began="2026-11-30T00:00:00Z", edgeq="0.1.0", machines={}, stand_ins=STAND_INS, left_out=(), steps=(step,),
        differences=(), passed=True,
    )  # fmt: skip
    report.save(tmp_path / "report.json")
    assert RehearsalReport.load(tmp_path / "report.json") == report


def test_make_knows_it() -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r'echo "make rehearse  .*docs/rehearsal\.md"', makefile)
