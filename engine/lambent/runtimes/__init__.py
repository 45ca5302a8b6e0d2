"""Runtimes: they run a handler and answer with an `Outcome`."""
