"""Images: reading, cutting, finding faces, laying out sheets."""
