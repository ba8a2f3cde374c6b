"""Where text comes from. A source is any `AsyncIterator[str | Aside]`: there is no base class to fill in."""
