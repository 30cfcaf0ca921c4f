"""A float network as one clean ONNX graph: exported, simplified, BatchNorm folded, parity proved.

    torch_export  a Hugging Face image classifier -> ONNX, with its BatchNorm nodes still in
    simplify      constants folded, no-ops and dead code removed, any number of images (`rewrites`)
    fold          BatchNorm, and Mul and Add by channel, into the layers beside it; each folded or kept with a reason
    parity        the largest difference between two networks on real batches, against a bound

Every step takes an `onnx.ModelProto` and gives a new one back.
"""
