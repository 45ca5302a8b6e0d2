"""A function that does what its event says: `{"do": "exit", ...}`. Run by awslambdaric in a process of its own."""

import base64
import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys

TMP = os.environ.get("TMPDIR", "/tmp")
calls = 0


def handler(event, context):
    global calls
    calls += 1
    if "Records" in event:
        return batch(event["Records"])
    return globals()["do_" + event.get("do", "echo")](event, context)


def batch(records):
    failed = []
    for record in records:
        if "body" in record:
            name, body = record["messageId"], record["body"]
        else:
            name, body = record["kinesis"]["sequenceNumber"], base64.b64decode(record["kinesis"]["data"]).decode()
        with open("seen", "a") as seen:
            seen.write(body + "\n")
        if "bad" in body:
            failed.append({"itemIdentifier": name})
    return {"batchItemFailures": failed}


def do_echo(event, context):
    return {"event": event, "calls": calls}


def do_context(event, context):
    return {
        "name": context.function_name,
        "version": context.function_version,
        "arn": context.invoked_function_arn,
        "memory": context.memory_limit_in_mb,
        "id": context.aws_request_id,
        "group": context.log_group_name,
        "stream": context.log_stream_name,
        "custom": context.client_context and context.client_context.custom,
        "left": context.get_remaining_time_in_millis(),
        "trace": os.environ["_X_AMZN_TRACE_ID"],
    }


def do_raise(event, context):
    raise ValueError("that is not right")


def do_exit(event, context):
    os._exit(event["status"])


def do_signal(event, context):
    os.kill(os.getpid(), event["number"])


def do_segfault(event, context):
    ctypes.string_at(0)


def do_hang(event, context):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "left" in event:
        with open(TMP + "/left", "w") as file:
            file.write(event["left"])
    while True:
        signal.pause()


def do_read(event, context):
    with open(TMP + "/left") as file:
        return {"left": file.read(), "calls": calls}


def do_wait(event, context):
    """Until somebody opens the FIFO of this name for writing; says that it waits by opening another."""
    with open(event["file"] + ".waits", "w"):
        pass
    with open(event["file"]) as file:
        file.read()
    return {"calls": calls, "pid": os.getpid()}


def do_print(event, context):
    sys.stdout.buffer.write(event["text"].encode("latin-1"))
    sys.stdout.flush()


def do_return(event, context):
    large = "x" * (7 * 1024 * 1024)
    return {"nan": float("nan"), "set": {1}, "bytes": b"x", "large": large, "surrogate": "\ud800"}[event["what"]]


def do_environment(event, context):
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    descriptors = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
    return {
        "variables": dict(os.environ),
        "folder": os.getcwd(),
        "user": os.getuid(),
        "session": os.getsid(0) == os.getpid(),
        "descriptors": sorted(os.readlink(each) for each in descriptors if os.path.lexists(each)),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "size": resource.getrlimit(resource.RLIMIT_FSIZE),
        "address_space": resource.getrlimit(resource.RLIMIT_AS),
        "no_new_privileges": status["NoNewPrivs"].strip(),
        "capabilities": status["CapEff"].strip(),
        "umask": status["Umask"].strip(),
        "path": sys.path,
    }


def do_backwards(event, context):
    return os.environ[event["name"]][::-1]


def do_layers(event, context):
    import in_layer

    with open("/opt/file" if os.path.exists("/opt/file") else "nowhere") as file:
        return {"module": in_layer.WHO, "file": file.read()}


def do_allocate(event, context):
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1024) * 8192))
        select.select([], [], [], 0.01)


DAEMON = """
import os, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
with open(%r + ".new", "w") as file: file.write(str(os.getpid()))
os.rename(%r + ".new", %r)
time.sleep(600)
"""


def do_fork(event, context):
    """A daemon that left the session and the pipes, and a child that holds them; gives their numbers."""
    file, nowhere = event["file"], subprocess.DEVNULL
    subprocess.run([sys.executable, "-c", DAEMON % (file, file, file)], check=True, stdout=nowhere, stderr=nowhere)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    while not os.path.exists(file):
        select.select([], [], [], 0.005)
    if "status" in event:
        os._exit(event["status"])
    with open(file) as found:
        return {"daemon": int(found.read()), "child": child.pid}


def do_vandal(event, context):
    """Breaks what it can of its own process."""
    os.chdir("/")
    os.umask(0o777)
    os.environ.clear()
    for number in range(3, 64):
        with contextlib.suppress(OSError):
            os.close(number)


def do_connect(event, context):
    """Asks another environment's Runtime API."""
    with socket.create_connection(("127.0.0.1", event["port"]), timeout=5) as connection:
        connection.sendall(event["request"].encode())
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                answer += piece
    return {"answer": answer.decode("latin-1")}


def do_port(event, context):
    return int(os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")[1])


def do_json(event, context):
    return json.loads(event["text"])


def do_allocating_child(event, context):
    subprocess.run([sys.executable, "-c", "import time; x = b'x' * (400 << 20); time.sleep(20)"], check=False)
    select.select([], [], [], 20)


def do_forks(event, context):
    children = []
    try:
        while len(children) < event["times"]:
            if (pid := os.fork()) == 0:
                select.select([], [], [], 20)
                os._exit(0)
            children.append(pid)
    except OSError:
        pass
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(children)


def do_nameless_daemon(event, context):
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.setsid()
        if (daemon := os.fork()) == 0:
            os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(20)"], {})
        os.write(writer, str(daemon).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return int(os.read(reader, 20))
