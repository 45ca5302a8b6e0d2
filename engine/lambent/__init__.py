"""lambent: AWS Lambda's event-source and invocation semantics, for functions that run anywhere."""
