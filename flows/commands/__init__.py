"""The commands of `discern`, one file each."""
