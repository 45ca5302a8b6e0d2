"""What the recordings' functions do: tell their context and environment, count their calls, raise."""

import os

count = -1
BEGAN_WITH = dict(os.environ)


def told(event, context):
    return {
        "ctx": {
            "function_name": context.function_name,
            "function_version": context.function_version,
            "invoked_function_arn": context.invoked_function_arn,
            "memory_limit_in_mb": context.memory_limit_in_mb,
            "aws_request_id": context.aws_request_id,
            "log_group_name": context.log_group_name,
            "log_stream_name": context.log_stream_name,
            "remaining_time_in_millis": context.get_remaining_time_in_millis(),
        },
        "environment": dict(os.environ),
        "packages": [],
    }


def counted(event, context):
    global count
    count += 1
    return {"counter": count}


def failed(event, context):
    raise Exception("Failed: some_error_msg")


def began(event, context):
    return {"environment": BEGAN_WITH}


def echoed(event, context):
    return event
