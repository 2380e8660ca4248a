from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bkctl.bench import measure
from bkctl.bench.measure import CommandFailedError, run_measured

MIB = 1 << 20


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def test_a_command_is_measured(tmp_path: Path) -> None:
    measured = run_measured("it", python("print('done', sum(range(10**6)))"), tmp_path)
    assert measured.stdout.startswith("done")
    assert measured.wall > 0
    assert measured.cpu > 0
    assert measured.peak > MIB
    assert list(tmp_path.iterdir()) == []


def test_the_peak_is_that_of_the_largest_process_not_ours_nor_a_sum(tmp_path: Path) -> None:
    ours = bytearray(os.urandom(MIB) * 300)
    child = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = b\"1\" * (100 << 20)'])"
    )
    measured = run_measured("it", python(f"x = b'1' * (60 << 20); {child}"), tmp_path)
    assert len(ours) == 300 * MIB
    assert 100 * MIB < measured.peak < 150 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands over such processes")
def test_processes_that_nobody_waited_for_count_and_are_waited_for(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    later = f"import sys; sys.stdin.read(); x = b'1' * (90 << 20); open({str(mark)!r}, 'w')"
    script = (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {later!r}], stdin=subprocess.PIPE)\n"
    )
    measured = run_measured("it", python(script), tmp_path)
    assert mark.exists()
    assert measured.peak > 90 * MIB


def test_settings_of_the_user_stay_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BKCTL_RATE_LIMIT", "1")
    script = "import os; print([name for name in os.environ if name.startswith('BKCTL_')])"
    assert run_measured("it", python(script), tmp_path).stdout == "[]\n"


def test_a_failure_is_told_with_its_last_line(tmp_path: Path) -> None:
    script = "import sys; print('first\\nbkctl: last', file=sys.stderr); sys.exit(3)"
    with pytest.raises(CommandFailedError, match=r"^it ended with exit code 3: last$") as caught:
        run_measured("it", python(script), tmp_path)
    assert (caught.value.code, caught.value.reason) == (3, "last")


def test_a_signal_is_told(tmp_path: Path) -> None:
    script = "import os; os.kill(os.getpid(), 9)"
    with pytest.raises(CommandFailedError, match=r"^it ended with signal 9"):
        run_measured("it", python(script), tmp_path)


def test_a_command_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CommandFailedError, match="nonesuch"):
        run_measured("it", [tmp_path / "nonesuch"], tmp_path)


def test_an_interrupt_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both processes hold the pipe open, so its end is read when both are gone.
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    inner = "import time; print('ready', flush=True); time.sleep(600)"
    script = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {inner!r}], close_fds=False, "
        f"stdout={writer})\n"
    )

    class Interrupted(subprocess.Popen[str]):
        calls = 0

        def communicate(self, *args: object, **kwargs: object) -> tuple[str, str]:
            self.calls += 1
            if self.calls == 1:
                os.close(writer)
                assert os.read(reader, 5) == b"ready"
                raise KeyboardInterrupt
            return super().communicate()

    def popen(*args: object, **kwargs: object) -> Interrupted:
        return Interrupted(*args, **kwargs, close_fds=False)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr("bkctl.bench.measure.subprocess.Popen", popen)
    with contextlib.closing(os.fdopen(reader, "rb")) as pipe:
        with pytest.raises(KeyboardInterrupt):
            run_measured("it", python(script), tmp_path)
        assert pipe.read().strip() == b""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's death")
def test_a_killed_parent_leaves_no_process(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    inner = f"import os, time; os.write({writer}, b'ready'); time.sleep(600)"
    gauge = Path(measure.__file__).with_name("gauge.py")
    command = [sys.executable, str(gauge), str(tmp_path / "result"), sys.executable, "-c", inner]
    outer = f"import subprocess; subprocess.run({command!r}, close_fds=False)"
    parent = subprocess.Popen([sys.executable, "-c", outer], close_fds=False)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read(5) == b"ready"
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert pipe.read() == b""
