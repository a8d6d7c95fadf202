"""The tests; a package, because wheels of other projects install a package of this name."""
