"""Lambda's API over HTTP: boto3 and the AWS CLI, unchanged, against an engine.

From the wire inwards: `serving.py` listens, `application.py` takes a request and gives its answer, `shapes.py` knows
the wire from botocore's model, `constraints.py` what it allows. An operation decides on a `Record`, purely, in the
module of its resource; `operations.py` fetches and stores what it decides on. Needs the extra `server`.
"""
