// A function that does what its event says, or names the items of a batch with "bad" in them.
let calls = 0;

exports.handler = async (event, context) => {
  calls += 1;
  if (event.Records) return batch(event.Records);
  switch (event.do) {
    case "raise": throw new RangeError("that is not right");
    case "exit": return process.exit(event.status);
    case "hang": return new Promise(() => setInterval(() => {}, 1000));
    case "print": console.log("printed", event.text); return null;
    case "context": return {
      id: context.awsRequestId, name: context.functionName, version: context.functionVersion,
      arn: context.invokedFunctionArn, memory: context.memoryLimitInMB, left: context.getRemainingTimeInMillis(),
      custom: context.clientContext && context.clientContext.custom,
    };
    case "variables": return process.env;
    default: return { event, calls };
  }
};

function batch(records) {
  const failed = [];
  for (const record of records) {
    const name = record.messageId || record.kinesis.sequenceNumber;
    const body = record.body || Buffer.from(record.kinesis.data, "base64").toString();
    if (body.includes("bad")) failed.push({ itemIdentifier: name });
  }
  return { batchItemFailures: failed };
}
