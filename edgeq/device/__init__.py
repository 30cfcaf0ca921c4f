"""The devices that are known: their memory, their power modes; and a probe of the machine that edgeq runs on."""

from edgeq.device.profiles import PROFILES, THIS_MACHINE, DeviceProfile
from edgeq.device.this_machine import MemoryFiles, OpenText, device_profile, probe

__all__ = ["PROFILES", "THIS_MACHINE", "DeviceProfile", "MemoryFiles", "OpenText", "device_profile", "probe"]
