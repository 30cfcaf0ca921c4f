"""What a detector's outputs say: heads turned into boxes, scores and classes. NumPy alone, on the device too."""
