"""A class for each pixel: masks as labels, mIoU, and INT8's pixels beside FP32's."""
