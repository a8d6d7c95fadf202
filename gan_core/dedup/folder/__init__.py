"""Near-duplicates of any folder: read, search, write a table and a page."""
