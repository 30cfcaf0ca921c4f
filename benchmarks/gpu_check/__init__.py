"""What only a GPU can tell, asked in fifteen minutes: kernels, attention, steps, faults, the vision engine."""
