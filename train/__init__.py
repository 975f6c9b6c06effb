"""The trainer: pure functions over the library, and a command line."""
