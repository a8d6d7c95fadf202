"""The commands of `discern`, one file each, and what they share: options, console, errors."""
