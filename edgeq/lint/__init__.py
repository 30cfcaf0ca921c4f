"""What TensorRT would make of an ONNX file, by the published rules: one file for each kind of rule."""
