"""Near-duplicates: which images are duplicates of which, and which one of each group to keep. Ids
come out, pixels stay.
"""
