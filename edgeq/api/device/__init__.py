"""What a device does as well: build an engine, verify and install a bundle, open one and ask it."""
