"""Sinks for audio: files, pipes and the loudspeaker.

A sink is an asynchronous context manager with `await write(data)`. It raises SinkError.
"""
