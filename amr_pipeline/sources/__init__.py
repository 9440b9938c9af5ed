"""Chapter 1: where queries come from. Records of any layout go in, rows of `raw_queries` come out."""
