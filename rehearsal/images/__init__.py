"""The container images, built and run: `python -m rehearsal.images`."""
