"""The device's real scripts and commands, rehearsed on an emulated arm64 machine; see docs/rehearsal.md."""
