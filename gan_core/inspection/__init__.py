"""Looking inside trained networks: images and the numbers that go with them, as pure functions of a
snapshot.
"""
