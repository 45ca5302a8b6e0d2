#!/bin/sh
# The life of a function, told by the AWS CLI to `lambent serve`: created, called, changed, published, named, deleted.
# Needs AWS_ENDPOINT_URL_LAMBDA, a region, and credentials of any kind; and, to be called, a python3 with awslambdaric.
set -eu
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cat > "$folder/handler.py" <<'PYTHON'
def handler(event, context):
    return f"Hello {event['name']}"
PYTHON
python3 -m zipfile -c "$folder/code.zip" "$folder/handler.py"

runtime=python$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
aws lambda create-function --function-name hello --runtime "$runtime" --handler handler.handler \
    --role arn:aws:iam::000000000000:role/any --zip-file "fileb://$folder/code.zip" \
    --query State --output text
aws lambda wait function-active-v2 --function-name hello
echo '{"name": "Ada"}' > "$folder/event.json"
aws lambda invoke --function-name hello --payload "fileb://$folder/event.json" "$folder/answer.json" \
    --query StatusCode --output text
cat "$folder/answer.json"
echo
aws lambda update-function-configuration --function-name hello --timeout 10 --query Timeout --output text
aws lambda wait function-updated-v2 --function-name hello
aws lambda publish-version --function-name hello --query Version --output text
aws lambda create-alias --function-name hello --name live --function-version 1 --query AliasArn --output text
aws lambda delete-function --function-name hello --query StatusCode --output text
aws lambda list-functions --query 'Functions[].FunctionName' --output text
