"""Kernels and other processes of ours: what they must not see of the user's, and where their sockets are."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jind_nb.core import processes
from jind_nb.core._compat import kernel_manager, own_kernel_spec, own_kernels_only
from jind_nb.core.processes import (
    LONGEST_SOCKET,
    own_folder,
    own_settings,
    python_module,
    short_places,
    writable_caches,
)
from jind_nb.errors import InputError


@pytest.fixture
def others_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel named python3 that is another program, as modules of a cluster and shared installs have it."""
    folder = tmp_path / "share" / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text('{"argv": ["/bin/false", "{connection_file}"], "display_name": "other"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")


@pytest.mark.usefixtures("others_kernel")
def test_a_kernel_is_never_found_by_name() -> None:
    """Lost otherwise: the run, to a Python without this package; or a result, to other versions."""
    by_manager = kernel_manager(kernel_name="python3").kernel_spec
    assert by_manager is not None
    by_page = own_kernels_only()().get_kernel_spec("python3")
    for spec in (own_kernel_spec(), by_manager, by_page):
        assert spec.argv[:4] == [sys.executable, "-P", "-m", "ipykernel_launcher"]


def test_a_module_in_the_working_directory_is_not_run(tmp_path: Path) -> None:
    """Lost otherwise: the user's trust, to a file that came with somebody's data."""
    (tmp_path / "json.py").write_text("raise SystemExit('executed')")
    done = subprocess.run([*python_module("json.tool"), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_settings_of_the_user_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: a stage, to what somebody's IPython does at its start, or to LaTeX that is not there."""
    for name in (*processes.OF_THE_USER, "IPYTHONDIR", "MATPLOTLIBRC", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "users"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen = own_settings(tmp_path / "settings")
    assert str(tmp_path / "users") not in seen.values()
    assert (seen["OMP_NUM_THREADS"], seen["PYTHONSAFEPATH"]) == ("1", "1")
    assert Path(seen["MATPLOTLIBRC"]).read_text() == ""


def test_a_long_tmpdir_still_gives_short_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: every run, to "File name too long (ipc://…)" where TMPDIR is a job's folder."""
    long = tmp_path / ("x" * 82)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with own_folder(short_places()) as folder:
        assert len(os.fsencode(f"{folder}/1_preprocess-ipc-5")) <= LONGEST_SOCKET
    assert not folder.exists()


def test_a_place_that_is_full_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: a night's runs, to somebody else's full /tmp."""
    one, two = tmp_path / "one", tmp_path / "two"
    two.mkdir()
    with own_folder([one, two]) as folder:
        assert folder.parent == two
    with pytest.raises(InputError, match="TMPDIR: no folder"), own_folder([one]):
        pass


def test_folders_of_killed_processes_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost otherwise: /tmp, folder by folder; or the sockets of a run that is at work."""
    killed = subprocess.run(
        [
            sys.executable, "-c",
            "import os, sys; from pathlib import Path; from jind_nb.core.processes import own_folder\n"
            "with own_folder([Path(sys.argv[1])]): os.kill(os.getpid(), 9)",
            str(tmp_path),
        ],
        check=False,
    )  # fmt: skip
    assert killed.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    with own_folder([tmp_path]) as at_work:
        monkeypatch.setattr(processes, "SECONDS_UNTIL_LEFT", -1)
        with own_folder([tmp_path]) as folder:
            assert sorted(tmp_path.iterdir()) == sorted([at_work, folder])


@pytest.mark.parametrize("installed", ["writable", "not writable"])
def test_without_a_home_there_is_a_place_for_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str
) -> None:
    """Lost otherwise: every run in a container or a job whose HOME cannot be written, to a function that "cannot be cached"."""
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/proc/nobody")
    for name in ("MPLCONFIGDIR", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "umap" / "__pycache__").mkdir(parents=True)
    spec = type("Spec", (), {"origin": str(tmp_path / "umap" / "__init__.py")})
    monkeypatch.setattr(processes, "find_spec", lambda _: spec if installed == "writable" else None)
    with writable_caches():
        assert Path(os.environ["MPLCONFIGDIR"]).parent.is_dir()
        assert ("NUMBA_CACHE_DIR" in os.environ) == (installed == "not writable")
    assert "MPLCONFIGDIR" not in os.environ
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with writable_caches():
        assert not {"MPLCONFIGDIR", "NUMBA_CACHE_DIR"} & set(os.environ)


def test_predict_does_not_wait_for_dask_and_leaves_it_to_whoever_needs_it() -> None:
    """It takes a third of a second to import, in which nothing else is done."""
    script = (
        "import sys; from jind_nb.core import _compat; _compat.this_process_is_ours(); _compat.import_anndata(); "
        "import jind_nb.commands.predict; assert 'dask.array' not in sys.modules; import dask.array"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=100)


def test_predict_waits_for_no_part_of_torch_that_only_training_needs_and_alignment_has_it() -> None:
    """It takes a quarter of a second to import; METHOD `reference` cannot align without it."""
    script = (
        "import contextlib, sys, jind_nb.cli; sys.argv = ['jind-nb', 'predict', 'no_model', 'no.h5ad', *sys.argv[1:]]\n"
        "with contextlib.suppress(SystemExit): jind_nb.cli.main()\n"
        "assert ('torch._prims' in sys.modules) == ('--align' in sys.argv)\n"
        "import torch\n"
        "if '--align' in sys.argv: torch.optim.Adam([torch.zeros(1, requires_grad=True)])"
    )
    for options in ([], ["--align"]):
        subprocess.run([sys.executable, "-c", script, *options], check=True, timeout=100)
