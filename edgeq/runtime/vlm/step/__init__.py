"""What a decode step is made of: its shapes, graphs, layers, and transfers."""
