"""INT8 graphs: where quantizers stand, on which grids, one lowering for each backend."""
