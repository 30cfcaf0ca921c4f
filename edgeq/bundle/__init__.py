"""What passes from the workshop to the device."""
