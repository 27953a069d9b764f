"""One module per schema version, named v<number>_<what>.py."""
