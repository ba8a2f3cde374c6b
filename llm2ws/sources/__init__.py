"""Sources of text. A source is any `AsyncIterator[str | Aside]`: there is no base class to inherit from."""
