"""Source adapters, one file a source, found through the entry-point group `lambent.sources`."""
