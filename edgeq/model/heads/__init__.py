"""What a network's outputs say, turned into boxes or into a class for each pixel. NumPy alone, on the device too."""
