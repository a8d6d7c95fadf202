"""Near-duplicates: which images are copies of which, and which one of each group to keep. Ids come
out, pixels stay.
"""
