"""A handler in a submodule."""


def handler(event, context):
    return {"nested": event}
