"""Stores: documents, event queue, leases, and the built-in queue and stream."""
