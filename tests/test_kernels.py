"""Warm kernels: apart from one another, like ordinary ones to everybody else, and never stale."""

import asyncio
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager, start_new_kernel
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from support.soak import SOAK, soak

from ml_notebooks.pipelines import kernels
from ml_notebooks.pipelines.engine import execute
from ml_notebooks.pipelines.kernels import KERNEL_NAME, install_kernelspec, parents, stop_parents
from ml_notebooks.settings import KernelSettings

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="warm kernels need Linux")

SETTINGS = """
[workspace]
name = test
[kernel]
preload = numpy, scipy.linalg, pandas, pyarrow, polars, duckdb, sklearn.ensemble, joblib, matplotlib.pyplot, json
idle = {idle}
"""
LIGHT = "[workspace]\nname = test\n[kernel]\npreload = json\n"
PATIENCE = 120  # seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workspace, and a runtime folder of its own, so that no other process's parents are met."""
    install_kernelspec()
    stop_parents()  # those of other tests in this process
    root = tmp_path_factory.mktemp("warm")
    (root / "settings.ini").write_text(SETTINGS.format(idle=600))
    yield root
    stop_parents()


@pytest.fixture(scope="module")
def light(folder, tmp_path_factory):
    """A workspace whose parents import little: for what has to do with no library, where many a parent is started."""
    stop_parents()
    root = tmp_path_factory.mktemp("light")
    (root / "settings.ini").write_text(LIGHT)
    return root


@contextmanager
def kernel(folder, name=KERNEL_NAME, **options):
    """A manager and a client of a kernel that runs in `folder`."""
    manager, client = start_new_kernel(kernel_name=name, cwd=str(folder), startup_timeout=PATIENCE, **options)
    try:
        yield manager, client
    finally:
        client.stop_channels()
        if manager.has_kernel:
            manager.shutdown_kernel()


def say(client, code, timeout=PATIENCE):
    """What a cell prints; its error as an exception."""
    said = []
    reply = client.execute_interactive(
        code, timeout=timeout, output_hook=lambda message: said.append(message["content"].get("text", ""))
    )
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(said)


def interrupted(manager, client):
    """The reply to a cell that is interrupted: asked again, since IPython loses a signal that comes while it prints."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        manager.interrupt_kernel()
        with suppress(queue.Empty):
            return client.get_shell_msg(timeout=5)
    raise AssertionError(f"no reply within {PATIENCE} s")


def is_warm(manager):
    return isinstance(manager.provisioner.process, kernels.WarmProcess)


def wait_until(true, seconds=PATIENCE):
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"it did not come true within {seconds} s"
        time.sleep(0.02)


def notebook(path, *cells):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(book, path)
    return path


def sockets(manager):
    """The files of a manager's channels that are there."""
    return [file for port in manager.ports if (file := Path(f"{manager.ip}-{port}")).exists()]


def test_kernels_do_not_race_for_ports(folder):
    with kernel(folder) as (manager, client):
        files = sockets(manager)
        assert manager.transport == "ipc" and len(files) == 5
        assert {file.parent.stat().st_mode & 0o777 for file in files} == {0o700}
        manager.restart_kernel()
        client.wait_for_ready(timeout=PATIENCE)
        assert say(client, "print('here')") == "here\n" and sockets(manager) == files
    assert not any(file.exists() for file in files)


def test_a_port_that_was_asked_for_is_used(folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    manager = KernelManager(kernel_name=KERNEL_NAME, shell_port=port, cache_ports=False)
    manager.start_kernel(cwd=str(folder))
    try:
        assert (manager.transport, manager.shell_port) == ("tcp", port)
    finally:
        manager.shutdown_kernel(now=True)


# Apart from one another


STATE = """
import json, os, random, signal, sys, threading
import numpy
files, inodes = [], set()
for n in os.listdir("/proc/self/fd"):
    try:  # another thread may close a file meanwhile
        about = os.stat(f"/proc/self/fd/{n}")
        files.append(os.readlink(f"/proc/self/fd/{n}"))
        inodes.add((about.st_dev, about.st_ino))
    except FileNotFoundError:
        pass
files, inodes = sorted(files), sorted(inodes)
print(json.dumps({
    "pid": os.getpid(), "group": os.getpgid(0), "session": os.getsid(0), "cwd": os.getcwd(),
    "random": [random.random(), float(numpy.random.random()), float(numpy.random.default_rng().random())],
    "env": os.environ.get("MLNB_STEP"), "names": [name for name in dir() if name.startswith("left")],
    "files": files, "inodes": inodes, "path": sys.path, "argv": sys.argv[0], "umask": os.umask(0o022), "nice": os.nice(0),
    "signals": [signal.getsignal(number) is signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)],
    "main": __name__, "ours": "ml_notebooks" in sys.modules,
}))
"""


def test_kernels_share_no_state(folder):
    with (
        kernel(folder, env=os.environ | {"MLNB_STEP": "one"}) as (first, one),
        kernel(folder) as (second, two),
    ):
        assert is_warm(first) and is_warm(second)
        say(one, "left_behind = 1; import random, numpy, os, json; random.seed(7); numpy.random.seed(7)")
        say(one, "json.left = 1; os.environ['MLNB_STEP'] = 'changed'; open('kept.txt', 'w')")
        a, b = json.loads(say(one, STATE)), json.loads(say(two, STATE))
        held = held_by(next(parent["pid"] for parent in parents() if a["pid"] in parent["kernels"]))
    with kernel(folder, "python3") as (_, ordinary):
        c = json.loads(say(ordinary, STATE))
    for state, manager in ((a, first), (b, second)):
        assert state["pid"] == state["group"] == state["session"] and state["pid"] != os.getpid()
        assert (state["cwd"], state["main"], state["ours"]) == (str(folder), "__main__", False)
        assert (state["path"], state["signals"], state["umask"]) == (c["path"], c["signals"], c["umask"]), (
            manager
        )
    assert (a["env"], b["env"], a["names"], b["names"]) == ("changed", None, ["left_behind"], [])
    assert not set(a["random"]) & set(b["random"])
    plain = [
        [
            file
            for file in state["files"]
            if not file.startswith(("socket:", "pipe:", "anon_inode:")) and "profile_default" not in file  # its history
        ]
        for state in (b, c)
    ]
    assert set(plain[0]) <= {*plain[1], "/dev/null"}
    lines = [[held[tuple(each)] for each in state["inodes"] if tuple(each) in held] for state in (a, b)]
    assert [len(line) for line in lines] == [1, 1] and lines[0] != lines[1], (lines, held)  # each its own line to its caller
    assert len(held) >= 4 and not [file for state in (a, b) for file in state["files"] if "pidfd" in file]


def held_by(process):
    """The sockets, pipes and files that a process holds, by inode, and what they are called; the system's own aside."""
    files = {}
    for link in Path(f"/proc/{process}/fd").iterdir():
        about, name = link.stat(), os.readlink(link)
        if not name.startswith(("anon_inode:", "/dev/")):  # all of the first share one inode
            files[about.st_dev, about.st_ino] = name
    return files


def test_a_kernel_has_its_callers_limits(folder):
    code = (
        "import os, resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], os.umask(0), os.nice(0))"
    )
    script = f"""
import os, resource
os.nice(3); os.umask(0o027); resource.setrlimit(resource.RLIMIT_NOFILE, (321, 4000))
from jupyter_client.manager import run_kernel
with run_kernel(kernel_name="{KERNEL_NAME}", cwd={str(folder)!r}, startup_timeout={PATIENCE}) as client:
    client.execute_interactive({code!r}, timeout={PATIENCE})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, cwd=folder
    )
    assert done.stdout.split() == ["321", str(0o027), str(os.nice(0) + 3)], done.stdout + done.stderr


LIBRARIES = {  # library -> code, and what it prints
    "BLAS": (
        "import numpy, scipy.linalg; a = numpy.random.rand(600, 600); print((a @ a).shape, scipy.linalg.svd(a)[0].shape)",
        "(600, 600) (600, 600)",
    ),
    "OpenMP": (
        """
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
X, y = make_classification(5000, random_state=0)
print(HistGradientBoostingClassifier(max_iter=20).fit(X, y).score(X, y) > 0.8)""",
        "True",
    ),
    "joblib": (
        "from joblib import Parallel, delayed\nprint(Parallel(2)(delayed(pow)(n, 2) for n in range(4)))",
        "[0, 1, 4, 9]",
    ),
    "multiprocessing": (
        "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, 2]))",
        "[1, 2]",
    ),
    "pyarrow": (
        "import pyarrow as pa, pyarrow.compute as pc\nprint(pc.sum(pa.array(range(10**6))), pa.table({'a': [1]}).to_pandas().shape)",
        "499999500000 (1, 1)",
    ),
    "polars": (
        "import polars\nprint(polars.DataFrame({'a': range(10**5)}).lazy().group_by('a').len().collect(engine='streaming').shape)",
        "(100000, 2)",
    ),
    "duckdb": (
        "import duckdb\nprint(duckdb.sql('SELECT sum(range) FROM range(1000000)').fetchall())",
        "[(499999500000,)]",
    ),
    "matplotlib": (
        "import matplotlib\nmatplotlib.use('agg')\nimport matplotlib.pyplot as plt\nprint(len(plt.plot([1, 2])))",
        "1",
    ),
    "subprocess": (
        "import subprocess\nprint(subprocess.run(['echo', 'hello'], capture_output=True).stdout)",
        "b'hello\\n'",
    ),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_work_after_the_fork(folder, library):
    code, printed = LIBRARIES[library]
    with kernel(folder) as (manager, client):
        assert is_warm(manager)
        assert say(client, code).strip() == printed


def test_a_plot_is_shown_in_place(folder):
    done = execute(
        notebook(folder / "plot.ipynb", "import matplotlib.pyplot as plt", "plt.plot([1, 2])"),
        folder / "plot.out.ipynb",
        {},
        kernel=KERNEL_NAME,
        start_timeout=PATIENCE,
    )
    assert "image/png" in done.cells[-1].outputs[-1].data


@soak
@pytest.mark.parametrize("count", [200 if SOAK else 12])
def test_many_notebooks_leak_nothing_and_the_parent_stays_as_it_is(folder, count):
    cells = (
        "import os, random, numpy; print(os.environ['MARK'], random.random(), numpy.random.random(), 'mark' in dir())",
        "mark = os.environ['MARK']; numpy.mark = mark; print(os.getcwd())",
    )
    path = notebook(folder / "many.ipynb", *cells)

    def run(number):
        env = os.environ | {"MARK": f"mark-{number}"}
        done = execute(
            path, folder / f"many.{number}.out.ipynb", {}, kernel=KERNEL_NAME, env=env, start_timeout=PATIENCE
        )
        return done.cells[0].outputs[0].text.split()

    run(0)
    (before,) = parents()
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(run, range(1, count + 1)))
    (after,) = parents()
    assert [words[0] for words in said] == [f"mark-{number}" for number in range(1, count + 1)]
    assert {words[3] for words in said} == {"False"}
    numbers = [number for words in said for number in words[1:3]]
    assert len(set(numbers)) == 2 * count
    assert (after["pid"], after["forked"]) == (before["pid"], before["forked"] + count)
    assert after["memory"] < before["memory"] * 1.02
    wait_until(lambda: parents()[0]["kernels"] == [])
    assert threading.active_count() < 50


def test_the_parent_opens_nothing(folder):
    with kernel(folder) as (manager, client):
        say(client, "1")
        (parent,) = parents()
        links = [
            os.readlink(f"/proc/{parent['pid']}/fd/{n}") for n in os.listdir(f"/proc/{parent['pid']}/fd")
        ]
        names = Path(f"/proc/{parent['pid']}/environ").read_text()
        assert manager.provisioner.process.pid in parent["kernels"]
    sockets = [link for link in links if not link.endswith((".log", "/dev/null"))]
    assert len(sockets) == 3 and all(
        link.startswith(("socket:", "anon_inode:[pidfd]")) for link in sockets
    ), links
    assert "MLNB_" not in names  # nor does it carry anybody's secrets


SPILL = """
import polars, threading, time
from pathlib import Path
most, files = 0, lambda: sum(path.is_file() for path in Path("spilled").rglob("*"))
def watch():
    global most
    while most is not None: most = max(most, files()); time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
rows = polars.LazyFrame({"a": range(4_000_000)}).with_columns(b=(polars.col("a") * 7919) % 1000003)
rows.sort("b").collect(engine="streaming")
print(most > 0)
"""


def test_what_polars_spills_to_the_disk_is_deleted(tmp_path):
    (tmp_path / "settings.ini").write_text("[workspace]\n[kernel]\npreload = polars\n")
    (tmp_path / "spilled").mkdir()
    ours = {"POLARS_OOC_MEMORY_BUDGET_MB": "20", "POLARS_OOC_SPILL_MIN_BYTES": "1000", "POLARS_OOC_SPILL_DIR": str(tmp_path / "spilled")}
    with kernel(tmp_path, env=os.environ | ours) as (manager, client):
        assert is_warm(manager) and say(client, SPILL) == "True\n"
        wait_until(lambda: say(client, "print(files())") == "0\n", 30)
    stop_parents()


ENVIRONMENT = """
import json, pandas, plotly.io, matplotlib.pyplot, tqdm.auto, ipywidgets
print(json.dumps([
    pandas.get_option("display.max_columns"), plotly.io.renderers.default, matplotlib.get_backend(), tqdm.auto.tqdm.__mro__[1].__module__,
    sorted(get_ipython().kernel.comm_manager.targets), repr(pandas.DataFrame({str(n): [n] for n in range(19)})),
]))
"""


def test_libraries_know_that_they_are_in_a_notebook(tmp_path):
    (tmp_path / "settings.ini").write_text(
        "[workspace]\n[kernel]\npreload = pandas, plotly.io, matplotlib.pyplot, tqdm.auto, ipywidgets, shap\n"
    )
    with kernel(tmp_path) as (manager, warm), kernel(tmp_path, "python3") as (_, ordinary):
        assert is_warm(manager) and say(warm, ENVIRONMENT) == say(ordinary, ENVIRONMENT)
    stop_parents()


def test_what_a_notebook_left_open_is_written_out_and_its_exit_handlers_run(light):
    cells = (
        "f = open('left.txt', 'w'); f.write('all of it')",
        "import atexit; atexit.register(open('ran.txt', 'w').write, 'yes')",
    )
    with kernel(light) as (_, client):
        for cell in cells:
            say(client, cell)
    assert ((light / "left.txt").read_text(), (light / "ran.txt").read_text()) == ("all of it", "yes")


# Like an ordinary kernel


@pytest.mark.parametrize("name", [KERNEL_NAME, "python3"])
def test_interrupt_restart_shutdown_and_kill_are_those_of_an_ordinary_kernel(light, name):
    with kernel(light, name) as (manager, client):
        first = say(client, "import os; print(os.getpid())")
        request = client.execute("print('waiting', flush=True)\nimport time; time.sleep(1000)")
        while client.get_iopub_msg(timeout=PATIENCE)["content"].get("text") != "waiting\n":
            pass
        reply = interrupted(manager, client)
        assert (reply["parent_header"]["msg_id"], reply["content"]["ename"]) == (request, "KeyboardInterrupt")
        manager.restart_kernel()
        client.wait_for_ready(timeout=PATIENCE)
        second = say(client, "import os; print(os.getpid(), 'f' in dir())")
        assert manager.is_alive() and second.split() != [first.strip(), "False"]
        os.kill(int(second.split()[0]), signal.SIGKILL)
        wait_until(lambda: not manager.is_alive())
        manager.restart_kernel()
        client.wait_for_ready(timeout=PATIENCE)
        assert say(client, "print(1 + 1)") == "2\n"
        pid = manager.provisioner.process.pid
    assert not manager.is_alive()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_the_kernel_after_a_dead_one_is_not_told_to_end(light):
    with kernel(light) as (manager, client):
        os.kill(int(say(client, "import os; print(os.getpid())")), signal.SIGKILL)
        wait_until(lambda: not manager.is_alive())
        manager.request_shutdown(restart=True)
        assert manager._control_socket is None  # with which the request would have waited for the next
        manager.restart_kernel()
        client.wait_for_ready(timeout=PATIENCE)
        assert say(client, "print(1 + 1)") == "2\n"


async def within_jupyterlab(folder):
    """What JupyterLab's server does with a kernel, in the order of a user's day: the process ids it had."""
    manager = AsyncMappingKernelManager(root_dir=str(folder), connection_dir=str(folder), default_kernel_name=KERNEL_NAME)
    name = await manager.start_kernel()
    one, processes = manager.get_kernel(name), []

    async def here():
        """Note that a warm kernel answers, and return its client."""
        client = one.client()
        client.start_channels()
        await client.wait_for_ready(timeout=PATIENCE)
        reply = await client.execute_interactive("1 + 1", timeout=PATIENCE, output_hook=lambda message: None)
        assert is_warm(one) and reply["content"]["status"] == "ok"
        processes.append(one.provisioner.process.pid)
        return client

    client = await here()
    client.execute("print('waiting', flush=True)\nimport time; time.sleep(1000)")
    while (await client.get_iopub_msg(timeout=PATIENCE))["content"].get("text") != "waiting\n":
        pass
    reply = None
    while reply is None:  # IPython loses a signal that comes while it prints
        await manager.interrupt_kernel(name)
        with suppress(queue.Empty):
            reply = await client.get_shell_msg(timeout=5)
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    client.stop_channels()
    await manager.restart_kernel(name)
    (await here()).stop_channels()
    os.kill(processes[-1], signal.SIGKILL)  # and the server starts another by itself
    while getattr(one.provisioner.process, "pid", processes[-1]) == processes[-1]:
        await asyncio.sleep(0.1)
    (await here()).stop_channels()
    await manager.shutdown_kernel(name)
    assert name not in manager
    return processes


def test_a_kernel_of_jupyterlab_is_warm_all_day(light):
    processes = asyncio.run(asyncio.wait_for(within_jupyterlab(light), PATIENCE))
    assert len({*processes}) == 3
    wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))


def test_a_kernel_that_exits_by_itself_tells_its_status(light):
    with kernel(light) as (manager, client):
        process = manager.provisioner.process
        client.execute("import os; os._exit(7)")
        wait_until(lambda: process.poll() is not None)
        assert process.returncode == 7


def test_a_kernel_ends_with_its_caller(light):
    script = f"""
import os, sys, time
from jupyter_client.manager import KernelManager, start_new_kernel
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
manager, client = start_new_kernel(kernel_name="{KERNEL_NAME}", cwd={str(light)!r}, startup_timeout={PATIENCE})
print(manager.provisioner.process.pid, flush=True)
time.sleep(1000)
"""
    caller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=light)
    pid = int(caller.stdout.readline())
    caller.kill()
    caller.wait()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_papermill_and_nbval_run_a_notebook_by_the_kernels_name(light):
    path = notebook(light / "plain.ipynb", "import sys, numpy\nprint('numpy' in sys.modules)")
    command = [
        "papermill",
        str(path),
        str(light / "plain.out.ipynb"),
        "-k",
        KERNEL_NAME,
        "--no-progress-bar",
    ]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=PATIENCE, cwd=light
    )
    assert done.returncode == 0, done.stderr
    command = [
        "pytest",
        "--nbval-lax",
        "--nbval-kernel-name",
        KERNEL_NAME,
        "-p",
        "no:cacheprovider",
        "-q",
        str(path),
    ]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=PATIENCE, cwd=light
    )
    assert "1 passed" in done.stdout, done.stdout


# The parent


def test_starts_at_the_same_time_share_one_parent(light):
    stop_parents()
    wait_until(lambda: not parents())
    path = notebook(light / "one.ipynb", "print(1)")
    with ThreadPoolExecutor(4) as pool:
        runs = [
            pool.submit(
                execute, path, light / f"one.{n}.ipynb", {}, kernel=KERNEL_NAME, start_timeout=PATIENCE
            )
            for n in range(4)
        ]
        assert [run.result().cells[0].outputs[0].text for run in runs] == ["1\n"] * 4
    (parent,) = parents()
    assert parent["forked"] == 4


THREADS = ["main"]  # of a parent with everything in it; a thread that is not here would be missing in a kernel


def test_the_parent_has_no_threads_that_a_kernel_would_lack(tmp_path):
    path = Path(tempfile.mkdtemp()) / "parent.sock"
    env = os.environ | dict.fromkeys(("JE_ARROW_MALLOC_CONF", "_RJEM_MALLOC_CONF"), "background_thread:false")
    modules = f"{KernelSettings().preload},polars,numpy,scipy.linalg"
    command = [sys.executable, "-Xfrozen_modules=off", "-m", "ml_notebooks.pipelines.warm", str(path), "60", modules]
    subprocess.run(command, cwd=path.parent, env=env, check=True)
    wait_until(lambda: kernels.ask(path, kernels.STATUS))  # it answers once it has imported everything
    status = json.loads(kernels.ask(path, kernels.STATUS))
    found = {int(task.name): (task / "comm").read_text().strip() for task in Path(f"/proc/{status['pid']}/task").iterdir()}
    kernels.ask(path, kernels.STOP)
    assert {"duckdb", "polars", "mlflow", "scipy.linalg"} <= {*status["loaded"]}
    assert ["main" if task == status["pid"] else name for task, name in found.items()] == THREADS


def test_a_killed_parent_leaves_its_kernels_and_the_next_request_starts_another(light):
    with kernel(light) as (manager, client):
        say(client, "kept = 41")
        (parent,) = parents()
        os.kill(parent["pid"], signal.SIGKILL)
        wait_until(lambda: not parents())
        assert say(client, "print(kept + 1)") == "42\n" and manager.is_alive()
        with kernel(light) as (other, theirs):
            assert is_warm(other) and say(theirs, "print('kept' in dir())") == "False\n"
        (successor,) = parents()
        assert successor["pid"] != parent["pid"]
    assert not manager.is_alive()


def test_an_idle_parent_ends_itself(tmp_path):
    (tmp_path / "settings.ini").write_text("[workspace]\n[kernel]\npreload = wave\nidle = 1\n")
    before = {parent["pid"] for parent in parents()}
    with kernel(tmp_path) as (manager, client):
        assert is_warm(manager) and say(client, "import time; time.sleep(2); print('here')") == "here\n"
        (ours,) = [parent["pid"] for parent in parents() if parent["pid"] not in before]
    wait_until(lambda: not Path(f"/proc/{ours}").exists())
    assert ours not in {parent["pid"] for parent in parents()}


def test_a_changed_environment_gets_a_new_parent_and_ends_the_old_one(light, monkeypatch):
    with kernel(light) as (_, client):
        say(client, "1")
        (old,) = parents()
        state = [*kernels._installed_state(), ("a package", 1)]
        monkeypatch.setattr(kernels, "_installed_state", lambda: state)
        with kernel(light) as (manager, theirs):
            assert is_warm(manager) and say(theirs, "print(2)") == "2\n"
        wait_until(lambda: old["pid"] not in {parent["pid"] for parent in parents()})
        assert say(client, "print('still here')") == "still here\n"
    stop_parents()


def test_a_new_parent_takes_away_what_killed_processes_left(light, monkeypatch):
    runtime, old = kernels.runtime_folder(), time.time() - 7200
    left, new, log = runtime / "k01234567-1", runtime / "k89abcdef-1", runtime / "0123456789ab-0123456789ab.log"
    for path in (left, new):
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    log.touch()
    with kernel(light) as (manager, client):
        assert say(client, "print(1)") == "1\n"
        used = [Path(f"{manager.ip}-{number}") for number in range(1, 6)]
        for path in (left, log, *filter(Path.exists, used)):
            os.utime(path, (old, old))
        state = [*kernels._installed_state(), ("another package", 1)]
        monkeypatch.setattr(kernels, "_installed_state", lambda: state)
        with kernel(light):
            assert not left.exists() and not log.exists() and new.exists()
            assert say(client, "print(2)") == "2\n" and any(map(Path.exists, used))
    new.unlink()
    stop_parents()


def test_the_installed_state_changes_with_the_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels.site, "getsitepackages", lambda: [str(tmp_path)])
    before = kernels._installed_state()
    (tmp_path / "shop-1.0.dist-info").mkdir()
    assert kernels._installed_state() != before == before


def test_a_module_that_is_being_edited_is_not_preloaded(light):
    path = light / "prices.py"
    env = os.environ | {"PYTHONPATH": str(light)}
    (light / "settings.ini").write_text(LIGHT.replace("json", "json, prices"))
    try:
        for price in (1, 2):
            path.write_text(f"price = {price}{'0' * price}\n")
            with kernel(light, env=env) as (manager, client):
                assert is_warm(manager)
                assert say(
                    client, "import sys; print('prices' in sys.modules)\nimport prices; print(prices.price)"
                ).split() == [
                    "False",
                    f"{price}{'0' * price}",
                ]
    finally:
        (light / "settings.ini").write_text(LIGHT)
        stop_parents()


def test_another_user_is_refused(light, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    with kernel(light) as (_, client):
        say(client, "1")
        (socket,) = kernels.runtime_folder().glob("*.sock")
    assert kernels.runtime_folder().stat().st_mode & 0o777 == 0o700
    script = f"""
import os, socket
line = socket.socket(socket.AF_UNIX)
line.connect({str(socket)!r})
os.setuid(65534)
again = socket.socket(socket.AF_UNIX)
try: again.connect({str(socket)!r})
except PermissionError: print("the folder is closed")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "the folder is closed\n", done.stderr


def test_a_process_of_another_user_that_got_in_is_hung_up_on(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    path = Path(tempfile.mkdtemp()) / "parent.sock"
    command = [sys.executable, "-m", "ml_notebooks.pipelines.warm", str(path), "60", "wave"]
    script = f"""
import os, socket, sys
os.setuid(int(sys.argv[1]))
line = socket.socket(socket.AF_UNIX)
line.connect({str(path)!r})
line.send(b"s")
print(line.recv(100)[:1])
"""
    subprocess.run(command, cwd=path.parent, check=True)
    wait_until(path.exists)
    path.parent.chmod(0o755)
    path.chmod(0o777)
    ask = [sys.executable, "-c", script]
    asked = [
        subprocess.run([*ask, user], capture_output=True, text=True, timeout=PATIENCE) for user in ("0", "65534")
    ]
    kernels.ask(path, kernels.STOP)
    assert [done.stdout for done in asked] == ["b'{'\n", "b''\n"], asked


def test_an_ordinary_kernel_starts_where_a_warm_one_cannot(light, monkeypatch, caplog):
    monkeypatch.setattr(
        kernels, "runtime_folder", lambda: (_ for _ in ()).throw(PermissionError("somebody else's folder"))
    )
    with kernel(light) as (manager, client):
        assert not is_warm(manager) and say(client, "print(3)") == "3\n"
    assert "An ordinary kernel starts instead of a warm one: somebody else's folder" in caplog.text


COMMAND = [sys.executable, "-m", "ipykernel_launcher", "-f", "connection.json"]


@pytest.mark.parametrize(
    ("command", "options", "reason"),
    [
        (COMMAND, {"env": {}, "cwd": "."}, ""),
        ([sys.executable, "-m", "another_kernel"], {}, f"it is not an IPython kernel of {sys.executable}"),
        (["/bin/sh", *COMMAND[1:]], {}, f"it is not an IPython kernel of {sys.executable}"),
        (COMMAND, {"preexec_fn": print}, "the option `preexec_fn` is not understood"),
    ],
)
def test_what_a_warm_kernel_cannot_be(command, options, reason):
    assert kernels._obstacle(command, options) == reason


def test_where_processes_have_no_descriptors_an_ordinary_kernel_starts_and_the_log_says_so(light, monkeypatch, caplog):
    monkeypatch.delattr(os, "pidfd_open")
    with kernel(light) as (manager, client):
        assert not is_warm(manager) and say(client, "print(3)") == "3\n"
    assert f"An ordinary kernel starts instead of a warm one: {sys.platform} has no process descriptors" in caplog.text


def test_the_command_installs_the_kernel_and_shows_and_stops_its_parents(light, mlnb, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "prefix", str(tmp_path))
        assert str(tmp_path) in mlnb("kernel", "install", cwd=light).stdout
    spec = json.loads((tmp_path / "share" / "jupyter" / "kernels" / KERNEL_NAME / "kernel.json").read_text())
    assert (spec["display_name"], spec["metadata"]["kernel_provisioner"]) == ("Python 3 (warm)", {"provisioner_name": "mlnb-warm"})
    (tmp_path / "settings.ini").write_text("[workspace]\n[kernel]\npreload = wave\n")
    with tempfile.TemporaryDirectory() as runtime, monkeypatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", runtime)
        with kernel(tmp_path) as (_, client):
            say(client, "1")
            (row,) = json.loads(mlnb("kernel", "status", "--json", cwd=tmp_path).stdout)
            assert (row["kernels"], row["forked"]) == (1, 1)
            assert mlnb("kernel", "stop", cwd=tmp_path).stdout == "Stopped 1.\n"
            wait_until(lambda: not parents())
            assert say(client, "print('goes on')") == "goes on\n"


@pytest.mark.parametrize(("argv", "installed"), [([sys.executable, "of", "another", "environment"], 1), (kernels._SPEC["argv"], 0)])
def test_the_first_run_installs_the_kernel_where_there_is_none_of_this_environment(light, monkeypatch, argv, installed):
    calls = []
    monkeypatch.setitem(kernels._SPEC, "argv", argv)
    monkeypatch.setattr(kernels, "install_kernelspec", lambda: calls.append(argv))
    kernels.ensure_kernelspec()
    assert len(calls) == installed


def test_a_folder_that_is_not_ours_alone_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = kernels.runtime_folder()
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="only this user may enter"):
        kernels.runtime_folder()
