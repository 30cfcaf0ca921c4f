"""A device that boots: QEMU's arm64 machine, Debian's kernel, systemd, a real ext4; see docs/rehearsal.md."""
