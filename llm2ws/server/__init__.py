"""The daemon: protocols that clients already speak, each in one file, over turns."""
