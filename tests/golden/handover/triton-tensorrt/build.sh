#!/bin/sh
# Builds engines with TensorRT's own command line, on the device that will run them. No precision flag: a strongly typed
# network computes in the types that its graph has.
set -eu
cd "$(dirname "$0")"

mkdir -p classifier/1

trtexec \
  --onnx=model.int8.trt.onnx \
  --saveEngine=classifier/1/model.plan \
  --stronglyTyped \
  --noTF32 \
  --memPoolSize=workspace:256M \
  --minShapes=pixel_values:1x3x16x16 \
  --optShapes=pixel_values:4x3x16x16 \
  --maxShapes=pixel_values:8x3x16x16
