"""Near-duplicates by descriptors, alignment and verification on pixels."""
