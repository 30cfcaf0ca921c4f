"""HTTP beneath the routes: connections, limits, access, errors, logs."""
