"""Where audio goes. A sink is an asynchronous context manager with `await write(data)`; it raises SinkError."""
