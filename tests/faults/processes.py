"Commands that are started to be killed."
import os
import signal
import subprocess

def start(arguments):
    "In a process group of its own, so that all of its processes can be killed at once."
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
                            start_new_session=True)


def finish(arguments, code=0):
    process = start(arguments)
    output = process.communicate(timeout=900)[0]
    assert process.returncode == code, output[-4000:]
    return output


def kill(process, number=signal.SIGKILL):
    try: os.killpg(process.pid, number)
    except ProcessLookupError: pass
    process.communicate()
