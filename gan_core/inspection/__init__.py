"""Looking inside trained networks: pictures and the numbers that go with them, as pure functions of a snapshot."""
