"""What a vision transformer's tensors hold, and what that makes of each in eight bits."""
