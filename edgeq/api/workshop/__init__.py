"""What a workshop does: inspect, plan, export, calibrate, quantize, prepare, evaluate, find sensitive layers."""
