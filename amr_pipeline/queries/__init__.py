"""Chapter 2: from raw text to a clean, decontaminated query; every rejection has a reason and evidence."""
