"""Which precision where, and why."""
