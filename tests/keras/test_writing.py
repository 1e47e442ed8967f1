"""Saving that is interrupted, by a full disk or a kill: the old file stays complete."""

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
from tfp_flows.saving import atomic, atomic_write, checksum

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
    """Makes a folder read-only; root, which permission bits do not bind, becomes nobody."""
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
    """Saves, saves again in trouble, and checks that the folder is as it was before."""
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
    write(folder / name)  # once the trouble is over, it succeeds
    flows.verify(folder / name)


@EVERY
def test_the_system_limits_the_size_of_files(name, folder):
    check_refusal(name, folder, limited_files(), r"what was there before is untouched.*")


@EVERY
def test_full_disk(name, small_disk):
    check_refusal(name, small_disk, full_disk(small_disk), r"(?i)untouched.*no space left")


@EVERY
def test_read_only_folder(name, folder):
    check_refusal(name, folder, not_writable(folder), r"(?i)permission denied|read-only")


def exchanged(target, times):
    """Replaces a folder repeatedly; returns how often a watcher did not find it."""
    missed, done = [], threading.Event()

    def watch():
        while not done.is_set():
            if not (target / "saved_model.pb").exists():
                missed.append(1)

    watcher = threading.Thread(target=watch)
    for i in range(times):
        with atomic_write(target) as draft:
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
    monkeypatch.setattr(atomic, "sys", types.SimpleNamespace(platform="other"))
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


@EVERY
@pytest.mark.parametrize("relative", [False, True])
def test_a_link_stays_a_link(name, relative, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    target, link = tmp_path / "real" / name, tmp_path / "links" / name
    link.symlink_to(os.path.relpath(target, link.parent) if relative else target)
    model = small_model()
    for _ in range(2):  # a link to nothing yet, then one to a file
        getattr(model, WRITERS[name])(link)
        assert link.is_symlink() and target.exists() and not target.is_symlink()
        flows.verify(link)
    assert os.listdir(link.parent) == os.listdir(target.parent) == [name]


def written(path, content="new", **kwargs):
    with atomic_write(path, **kwargs) as draft:
        draft.write_text(content)


def test_what_else_can_be_at_the_path_of_a_file(folder):
    path = folder / "file"
    path.symlink_to(path)
    with pytest.raises(OSError, match="in a circle"):
        written(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(FileExistsError, match="it is a folder"):
        written(path)
    assert path.is_dir()
    path.rmdir()
    path.write_text("old")
    path.chmod(0o640)
    os.link(path, folder / "other")
    written(path)  # keeps the permissions; a hard link keeps the content
    assert path.stat().st_mode & 0o777 == 0o640
    assert (path.read_text(), (folder / "other").read_text()) == ("new", "old")
    with pytest.raises(FileExistsError, match="it is a file"), atomic_write(path) as draft:
        draft.mkdir()
    os.chmod(folder, 0o777)
    path.chmod(0o444)
    with not_writable(folder / "other"), pytest.raises(PermissionError, match="file is read-only"):
        written(path)
    assert path.read_text() == "new"


def test_a_model_folder_with_notes_in_it_is_not_replaced(tmp_path):
    target = tmp_path / "served"
    for name in ("saved_model.pb", "notes.txt"):
        target.mkdir(exist_ok=True)
        (target / name).write_text("mine")
    with pytest.raises(FileExistsError, match="other things"), atomic_write(target) as draft:
        draft.mkdir()
    assert (target / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError("y"), tf.errors.AbortedError(None, None, "z")]
)
def test_errors_of_verification_are_passed_on(error, tmp_path):
    def verify(draft):
        raise error

    with pytest.raises(type(error)) as raised:
        written(tmp_path / "file", verify=verify)
    assert raised.value is error
    assert os.listdir(tmp_path) == []


def test_errors_of_writing_say_what_could_not_be_written(tmp_path):
    for error in (OSError("no number"), tf.errors.ResourceExhaustedError(None, None, "disk")):
        with (
            pytest.raises(OSError, match=r"^Cannot write .*file, and what was there"),
            atomic_write(tmp_path / "file"),
        ):
            raise error


WRITE_AND_WAIT = """
import sys, time
from tfp_flows.saving import atomic_write
with atomic_write(sys.argv[1]) as draft:
    draft.write_text("half")
    print("there", flush=True)
    time.sleep(600)
"""


def test_another_writer_may_take_a_new_draft_for_a_stale_one(tmp_path, monkeypatch):
    target, make, cleared = tmp_path / "x.txt", tempfile.mkdtemp, []

    def mkdtemp(*args, **kwargs):
        folder = make(*args, **kwargs)
        if not cleared:  # before its writer could lock it
            cleared.append(folder)
            atomic.remove_stale_drafts(target)
            assert not Path(folder).exists()
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    written(target)
    assert cleared and target.read_text() == "new" and os.listdir(tmp_path) == ["x.txt"]


def test_drafts_of_killed_processes_are_removed_and_those_of_running_ones_are_not(tmp_path):
    path = tmp_path / "latest.weights.h5"
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout.readline()
        assert len(os.listdir(tmp_path)) == 2
        writers[0].kill()
        writers[0].wait()
        flows.BackupAndRestore(tmp_path).restore(small_model())
        assert len(os.listdir(tmp_path)) == 1  # that of the running one
        written(path)
        assert len(os.listdir(tmp_path)) == 2
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    written(path)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_interrupted_loading_changes_nothing(stop, tmp_path, monkeypatch):
    model, path = small_model(), tmp_path / "flow.weights.h5"
    model.compile("adam")
    model.save_weights(path)
    for variable in model.flow.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    before = [v.numpy() for v in model.flow.variables]
    original, calls = type(model).load_own_variables, []

    def stopped(self, store):
        original(self, store)
        calls.append(1)
        raise stop

    monkeypatch.setattr(type(model), "load_own_variables", stopped)
    with pytest.raises(stop):
        model.load_weights(path)
    assert calls
    for variable, value in zip(model.flow.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_weights_of_another_dtype_or_format(tmp_path):
    models = {
        d: flows.FlowModel(flows.nice((3,), 2, (4,), dtype=d)) for d in ("float32", "float64")
    }
    for dtype, other in (("float32", "float64"), ("float64", "float32")):
        for name in ("flow.keras", "flow.weights.h5"):
            getattr(models[dtype], WRITERS[name])(tmp_path / name)
            before = [v.numpy() for v in models[other].flow.variables]
            with pytest.raises(ValueError, match=f"dtype of .*: {dtype} in the file, {other} in"):
                models[other].load_weights(tmp_path / name)
            for variable, value in zip(models[other].flow.variables, before, strict=True):
                np.testing.assert_array_equal(variable, value)
    with pytest.raises(ValueError, match="completely or not at all"):
        models["float64"].load_weights(tmp_path / name, skip_mismatch=True)


@pytest.mark.parametrize(
    ("number", "match"),
    [
        (1, "in format 1, which names weights"),
        (2, "in format 2, which has other names"),
        (99, "or a newer one"),
    ],
)
def test_weights_of_another_format(number, match, tmp_path, monkeypatch):
    model, path = small_model(), tmp_path / "flow.weights.h5"
    with monkeypatch.context() as patch:
        patch.setattr(checksum, "FORMAT", number)
        model.save_weights(path)
    with pytest.raises(ValueError, match=match):
        model.load_weights(path)


def test_the_checksum_covers_all_bytes(tmp_path):
    """Those outside of the arrays too."""
    model, path = small_model(), tmp_path / "flow.weights.h5"
    model.save_weights(path)
    whole = path.read_bytes()
    for changed in (whole + b"\0", whole[:-1], whole[:-1] + b"x"):
        path.write_bytes(changed)
        for read in (flows.verify, model.load_weights):
            with pytest.raises(ValueError, match="not those that were saved"):
                read(path)
