"""Measurements that need a GPU; each says what it found it on."""
