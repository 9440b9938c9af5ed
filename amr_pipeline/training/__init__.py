"""Chapter 7: from a subset to packed token rows: `rendering` (loss mask), then `packing`, driven by `recipes`."""
