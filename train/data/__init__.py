"""Any file or folder as bytes: found, split, cut into windows, batched."""
