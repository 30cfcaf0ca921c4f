"""Objects on images: labels from COCO or YOLO, mAP, and INT8's detections beside FP32's."""
