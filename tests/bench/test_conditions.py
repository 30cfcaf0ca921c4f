"""What a machine made of files says of its temperature, its clocks, and of what slows it down."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.bench.conditions import ConditionsWatch, processor_name, watched


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def zone(number: int, name: str, millidegrees: int, passive: int | None = None) -> dict[str, str]:
    folder = f"sys/class/thermal/thermal_zone{number}"
    trips = (
        {}
        if passive is None
        else {f"{folder}/trip_point_0_type": "passive", f"{folder}/trip_point_0_temp": f"{passive}"}
    )
    return {f"{folder}/type": name, f"{folder}/temp": f"{millidegrees}\n", **trips}


JETSON = {
    **zone(0, "cpu-thermal", 45_000, 99_000),
    **zone(1, "gpu-thermal", 47_500, 99_000),
    "sys/class/devfreq/17000000.gpu/cur_freq": "918000000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1497600\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan",
    "sys/class/thermal/cooling_device0/cur_state": "3",
    "sys/class/thermal/cooling_device1/type": "gpu-throttle-alert",
    "sys/class/thermal/cooling_device1/cur_state": "0",
    "sys/class/hwmon/hwmon4/oc3_event_cnt": "7",
    "proc/loadavg": "1.25 0.40 0.10 2/345 6789\n",
}
"""A fan that runs throttles nothing, and events of before are not of this run."""


def test_a_cool_jetson(tmp_path: Path) -> None:
    write(tmp_path, JETSON)
    with watched(tmp_path) as watch:
        pass
    found = watch.seen()
    assert (found.zone, found.start_celsius, found.highest_celsius) == ("gpu-thermal", 47.5, 47.5)
    assert (found.gpu_mhz, found.cpu_mhz) == ((918, 918), (1497, 1497))
    assert (found.throttled, found.looked_for_throttling) == ((), True)
    assert found.samples >= 2
    assert str(found) == (
        "48 to 48 °C (gpu-thermal), GPU 918 to 918 MHz, CPU 1,497 to 1,497 MHz, not throttled, "
        "a load of 1.2 in the minute before"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (zone(0, "cpu-thermal", 99_000, 99_000), "cpu-thermal at 99 °C"),
        ({"sys/class/thermal/cooling_device1/cur_state": "1"}, "cooling device gpu-throttle-alert"),
        ({"sys/class/hwmon/hwmon4/oc3_event_cnt": "8"}, "over-current, oc3"),
    ],
)
def test_what_slowed_it_down_meanwhile_is_said_though_it_is_over(
    tmp_path: Path, change: dict[str, str], said: str
) -> None:
    write(tmp_path, JETSON)
    watch = ConditionsWatch(tmp_path)
    watch.look()
    write(tmp_path, {**change, "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n"})
    watch.look()
    write(tmp_path, JETSON)
    watch.look()
    found = watch.seen()
    assert (found.samples, found.throttled) == (3, (said,))
    assert found.gpu_mhz == (306, 918)
    assert f"throttled: {said}, a load" in str(found)


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    with watched(tmp_path) as watch:
        pass
    found = watch.seen()
    assert (found.zone, found.gpu_mhz, found.cpu_mhz) == (None, None, None)
    assert not found.looked_for_throttling
    assert str(found) == "temperature unknown, throttling unknown"


def test_the_watch_ends_with_what_it_watches(tmp_path: Path) -> None:
    write(tmp_path, JETSON)
    with pytest.raises(KeyboardInterrupt), watched(tmp_path) as watch:
        raise KeyboardInterrupt
    assert watch.samples >= 2


def test_the_processors_name(tmp_path: Path) -> None:
    assert processor_name(tmp_path) is None
    write(tmp_path, {"proc/cpuinfo": "processor\t: 0\nmodel name\t: A: quick one\nmodel name\t: B\n"})
    assert processor_name(tmp_path) == "A: quick one"
