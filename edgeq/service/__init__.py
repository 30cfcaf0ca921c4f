"""A bundle behind HTTP: chat, classes, reports, health and metrics; and a folder that is watched."""
