"""Text fit to be spoken: pure, incremental, no I/O."""
