"""A worker whose trainer is a script, taken from the run's title: 'loss 3; sleep 5', so that faults need no model."""

import errno
import os
import signal
import subprocess
import sys
import time

from lora_playground.errors import TrainingError
from lora_playground.jobs import worker
from lora_playground.jobs.failures import Stopped, record
from lora_playground.runs.files import publish, write_json


def execute(run, should_stop, emit=None, attempt=None):
    run.begin(attempt)
    run.at = None  # the last step, once there is one
    try:
        with run.locked():
            run.append({"type": "phase", "phase": "loading"})
            for step in run.config().title.split(";"):
                perform(run, should_stop, attempt, *step.split())
            result = {"state": "done", "attempt": attempt}
            write_json(run.result_path, result)
        return result
    except BaseException as error:
        record(run, error)
        raise


def perform(run, should_stop, attempt, name="nothing", argument="0"):
    number = float(argument)
    if name == "sleep":  # stops when asked
        end = time.monotonic() + number
        while time.monotonic() < end:
            if should_stop():
                raise Stopped("The run was stopped.")
            time.sleep(0.01)
    elif name == "block":  # does not look at the flag
        time.sleep(number)
    elif name == "phase":
        run.append({"type": "phase", "phase": ("loading", "training", "saving", "evaluating")[int(number)]})
    elif name == "loss":
        run.append({"type": "phase", "phase": "training"})
        if run.at is None:
            run.at = max((int(path.name.split("-")[1]) for path in run.checkpoints.glob("step-*")), default=0)
            run.append({"type": "plan", "steps": int(number), "start_step": run.at})
        for step in range(run.at + 1, int(number) + 1):
            run.append({"type": "loss", "steps": [step], "losses": [1.0 / step], "eta": 1.0})
            run.at = step
    elif name == "checkpoint":  # unless an earlier attempt made it
        final = run.checkpoints / f"step-{int(number)}"
        if not final.exists():
            staged = final.with_name(f"{final.name}.tmp")
            staged.mkdir(parents=True)
            publish(staged, final)
            run.append({"type": "checkpoint", "step": int(number)})
    elif name == "save":  # stages for so long, then renames
        run.append({"type": "phase", "phase": "saving"})
        staged = run.folder / "adapter.tmp"
        staged.mkdir()
        (staged / "adapter_model.safetensors").write_bytes(b"weights")
        time.sleep(number)
        publish(staged, run.adapter)
    elif name == "gpu":
        print(f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')}")
    elif name == "first":  # only in the first attempt
        if attempt == 1:
            time.sleep(number)
    else:
        misbehave(run, name, number)


def misbehave(run, name, number):
    """The ways in which a worker can fail or leave something behind."""
    if name == "oom":
        raise MemoryError("out of memory: tried to allocate 2 GiB")
    elif name == "nan":
        raise TrainingError("The loss is NaN at step 3; halve the learning rate.")
    elif name == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    elif name == "limit":  # a real full disk, as far as the kernel is concerned
        import resource

        size = int(number)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        (run.folder / "big").write_bytes(b"x" * (size + 1))
    elif name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif name == "exit":
        print("leaving early")
        sys.stdout.flush()
        os._exit(int(number))
    elif name == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif name == "child":
        subprocess.Popen(["sleep", "600"])
    elif name == "stray":  # a grandchild in a session of its own
        subprocess.Popen(["sleep", "600"], start_new_session=True)
    elif name == "log":
        for line in range(int(number)):
            print("line", line)
    elif name == "boom":
        raise ValueError("something odd")


if __name__ == "__main__":
    worker._exit(worker.main(execute=execute, warm_up=lambda: None))
