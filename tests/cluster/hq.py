"""A HyperQueue without its command `hq`, which PyPI's package lacks: the engine, and what `hq job submit-file` does, through the package's API.

hq.py cluster DIR CORES      a server and a worker, until killed; says `ready`
hq.py job submit-file FILE   submits to the server of $HQ_SERVER_DIR
hq.py wait JOB               until a job is done, whatever becomes of its tasks
"""

import os
import sys
import time
import tomllib

from hyperqueue import Client, Job
from hyperqueue.cluster import LocalCluster, WorkerConfig
from hyperqueue.ffi.protocol import ResourceRequest
from hyperqueue.job import SubmittedJob


def cluster(folder, cores):
    with LocalCluster(folder) as local:
        local.start_worker(WorkerConfig(cores=int(cores)))
        print("ready", flush=True)
        while True:
            time.sleep(1)


def submit(file):
    with open(file, "rb") as opened:
        described = tomllib.load(opened)
    job = Job(name=described["name"], max_fails=None)
    tasks = {}
    for task in described["task"]:
        (request,) = task["request"]
        unknown = set(task) - {"id", "command", "cwd", "stdout", "stderr", "env", "deps", "request", "time_limit"}
        unknown |= set(request) - {"resources"}
        if unknown:
            sys.exit(f"{file}: HyperQueue does not know {unknown}")
        resources = dict(request["resources"])
        tasks[task["id"]] = job.program(
            task["command"],
            cwd=task["cwd"],
            stdout=task["stdout"],
            stderr=task["stderr"],
            env=task["env"],
            deps=[tasks[number] for number in task.get("deps", [])],
            resources=ResourceRequest(cpus=resources.pop("cpus"), resources=resources),
        )
    print(Client(os.environ["HQ_SERVER_DIR"]).submit(job).id)


def wait(number):
    client = Client(os.environ["HQ_SERVER_DIR"])
    client.wait_for_jobs([SubmittedJob(job=Job(), id=int(number))], raise_on_error=False)


match sys.argv[1:]:
    case ["cluster", folder, cores]:
        cluster(folder, cores)
    case ["job", "submit-file", file]:
        submit(file)
    case ["wait", number]:
        wait(number)
    case _:
        sys.exit(__doc__)
