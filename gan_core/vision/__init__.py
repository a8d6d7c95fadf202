"""Pictures: reading, cutting, finding faces, laying out sheets."""
