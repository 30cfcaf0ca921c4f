"""ONNX graphs: reading, naming, roles of nodes, element types, wiring."""
