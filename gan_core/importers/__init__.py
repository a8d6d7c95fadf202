"""Released weights of others as snapshots."""
