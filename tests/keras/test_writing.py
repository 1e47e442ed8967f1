"""Saving that is cut short, by a full disk or by a kill: the old file stays, whole."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfp_flows as flows
from tfp_flows.saving import files, whole_or_not_at_all

WRITERS = {"flow.keras": "save", "flow.weights.h5": "save_weights", "served": "export"}
EVERY = pytest.mark.parametrize("name", WRITERS)


def small_model():
    flow = flows.nice((3,), 2, (16,))
    flows.initialize(flow, np.random.RandomState(0).normal(size=(8, 3)))
    return flows.FlowModel(flow)


@contextlib.contextmanager
def limited_files():
    """The system refuses to let any file grow beyond 1 KB (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def full_disk(folder):
    """Fills the file system of `folder`, which is a small one."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    yield
    filler.unlink()


@contextlib.contextmanager
def not_writable(folder):
    """Takes away the right to write; root, whom permission bits do not bind, becomes nobody."""
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def folder():
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.fixture
def small_disk(folder):
    options = ["-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def check_refusal(name, folder, trouble, match):
    """Saves, saves again in trouble, and holds the folder against what it was before."""
    model = small_model()
    write = getattr(model, WRITERS[name])
    write(folder / name)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    model.flow.trainable_variables[0].assign_add(tf.ones(3))
    with trouble, pytest.raises(OSError, match=match) as refused:
        write(folder / name)
    assert str(folder / name) in str(refused.value)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert os.listdir(folder) == [name]
    flows.verify(folder / name)
    write(folder / name)  # and once the trouble is over, it goes well
    flows.verify(folder / name)


@EVERY
def test_file_that_the_system_cuts_short(name, folder):
    check_refusal(name, folder, limited_files(), r"what was there before is untouched.*")


@EVERY
def test_full_disk(name, small_disk):
    check_refusal(name, small_disk, full_disk(small_disk), r"(?i)untouched.*no space left")


@EVERY
def test_folder_without_the_right_to_write(name, folder):
    check_refusal(name, folder, not_writable(folder), r"(?i)permission denied|read-only")


def exchanged(target, times):
    """Replaces a folder again and again; returns how often a watcher missed it."""
    missed, done = [], threading.Event()

    def watch():
        while not done.is_set():
            if not (target / "saved_model.pb").exists():
                missed.append(1)

    watcher = threading.Thread(target=watch)
    for i in range(times):
        with whole_or_not_at_all(target) as draft:
            draft.mkdir()
            (draft / "saved_model.pb").write_text(str(i))
        if i == 0:
            watcher.start()
    done.set()
    watcher.join()
    assert (target / "saved_model.pb").read_text() == str(times - 1)
    assert os.listdir(target.parent) == [target.name]
    return len(missed)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges folders in one step")
def test_a_served_folder_is_there_at_every_moment(tmp_path):
    assert exchanged(tmp_path / "served", 300) == 0


def test_folders_are_exchanged_on_other_systems_too(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "sys", types.SimpleNamespace(platform="other"))
    exchanged(tmp_path / "served", 5)


SAVE_FOREVER = """
import sys
from test_writing import WRITERS, small_model
model = small_model()
while True:
    for name, write in WRITERS.items():
        getattr(model, write)(f"{sys.argv[1]}/{name}")
    print("saved", flush=True)
"""


@pytest.mark.slow
def test_killed_while_saving(tmp_path):
    for delay in (0.1, 0.7):
        command = [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([*sys.path, os.path.dirname(__file__)])
        }
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        process.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        for name in WRITERS:
            flows.verify(tmp_path / name)
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["log_prob"]
    assert np.isfinite(served(x=tf.zeros([2, 3]))["log_prob"]).all()
