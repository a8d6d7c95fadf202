"""What lies on disk: the store, manifests, locks."""
