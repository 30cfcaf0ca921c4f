"""TensorRT: build engines from a bundle on the device, and run them. Nothing here imports it before it is asked for."""
