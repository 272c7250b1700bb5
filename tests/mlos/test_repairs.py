"""The single repairs of `install`, each by itself."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any, Callable, Iterator, List

import pytest
from mlos_bench.config.schemas.config_schemas import ConfigSchema
from mlos_bench.environments.local import local_fileshare_env

from ssh_service import SshAuthError, SshConnectError, SshService
from ssh_service.mlos_bench import logs, permanent, runners, schemas
from ssh_service.mlos_bench.permanent import PermanentFailures

UPSTREAM = "mlos_bench.services.remote.ssh"


class Runner:
    """A TrialRunner as of mlos_bench 0.6.3, whose set-up fails on request."""

    def __init__(self) -> None:
        self._is_running = False

    def run_trial(self, works: bool) -> str:
        assert not self._is_running
        self._is_running = True
        if not works:
            return "FAILED"
        self._is_running = False
        return "SUCCEEDED"


class Scheduler:
    """A scheduler's context, which cannot be entered when `broken`."""

    broken = False

    def __enter__(self) -> "Scheduler":
        if self.broken:
            raise RuntimeError("no storage")
        return self

    def __exit__(self, *exception: Any) -> None:
        pass


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the runners of a newer mlos_bench, with the repairs in place."""
    package = "mlos_bench.schedulers"
    for name, found in (
        ("trial_runner", SimpleNamespace(TrialRunner=Runner)),
        ("base_scheduler", SimpleNamespace(Scheduler=Scheduler)),
    ):
        monkeypatch.setitem(sys.modules, f"{package}.{name}", found)
    monkeypatch.setattr(Scheduler, "broken", False)
    undo = runners.keep_going()
    yield
    undo()


@pytest.mark.usefixtures("newer")
class TestRunners:
    """`runners.keep_going` on a newer mlos_bench."""

    def test_runner_after_failed_setup_runs_the_next_trial(self) -> None:
        """A trial whose set-up failed does not end the experiment."""
        runner = Runner()
        assert [runner.run_trial(works) for works in (False, False, True)] == [
            "FAILED",
            "FAILED",
            "SUCCEEDED",
        ]

    def test_runner_that_is_running_still_refuses(self) -> None:
        """The assertion is kept for what it is about, and the running trial keeps its mark."""
        runner = Runner()
        runner._is_running = True
        with pytest.raises(AssertionError):
            runner.run_trial(True)
        assert runner._is_running

    def test_scheduler_context_keeps_connections_between_trials(self) -> None:
        """Connections are closed when the scheduler ends, not after each trial."""
        cache = SshService.client_cache()
        with Scheduler():
            cache.enter()
            cache.exit()  # a trial's services leave their context
            cache.exit()  # no error: the scheduler still held the cache
            cache.enter()
        with pytest.raises(RuntimeError, match="more often"):
            cache.exit()

    def test_scheduler_that_cannot_start_holds_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A context that was not entered leaves no trace in the cache."""
        monkeypatch.setattr(Scheduler, "broken", True)
        with pytest.raises(RuntimeError, match="no storage"):
            Scheduler().__enter__()
        with pytest.raises(RuntimeError, match="more often"):
            SshService.client_cache().exit()


class TestPermanentFailures:
    """How trials that can only fail are slowed down."""

    @pytest.fixture
    def pauses(self, monkeypatch: pytest.MonkeyPatch) -> List[float]:
        waited: List[float] = []
        event = SimpleNamespace(wait=waited.append)
        monkeypatch.setattr(permanent, "threading", SimpleNamespace(Event=lambda: event))
        return waited

    def test_permanent_failures_in_a_row_pause_longer(
        self, pauses: List[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The pauses double up to a minute; one ERROR says what is going on."""
        failures = PermanentFailures()
        for _ in range(8):
            failures.on_failure(SshAuthError("login refused; what to do about it"))
        assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
        (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert "login refused" in record.getMessage() and "Ctrl-C" in record.getMessage()
        assert "what to do" not in record.getMessage()  # this was logged with the trial

    def test_permanent_failure_after_a_success_counts_anew(self, pauses: List[float]) -> None:
        """A host that works in between resets the pauses."""
        failures = PermanentFailures()
        for _ in range(2):
            failures.on_failure(SshAuthError("login refused"))
            failures.on_failure(SshAuthError("login refused"))
            failures.on_success()
        assert pauses == [1, 2, 1, 2]

    def test_passing_failure_does_not_pause(self, pauses: List[float]) -> None:
        """A host that is down may be up for the next trial."""
        PermanentFailures().on_failure(SshConnectError("connection refused"))
        assert pauses == []


class TestLogs:
    """mlos_bench's log."""

    def test_logged_output_is_cut_and_its_values_are_whole(self) -> None:
        """Only the text for the log is short."""
        output = logs.LoggedOutput({"stdout": "x" * 100_000 + "end", "number": 3})
        assert len(output["stdout"]) == 100_003
        assert len(f"{output}") < 3000 and "end'" in f"{output}" and "98003" in f"{output}"

    def test_download_without_host_logs_no_traceback(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One line says which copy failed and why; other errors keep their traceback."""
        undo = logs.shorten()
        logger = logging.getLogger(local_fileshare_env.__name__)
        errors: List[Exception] = [SshConnectError("web1: refused, 100%"), ValueError("other")]
        try:
            for error in errors:
                try:
                    raise error
                except Exception:
                    logger.exception("Cannot download %s to %s", "a", "b")
        finally:
            undo()
        ours, other = caplog.records
        assert ours.getMessage() == "Cannot download a to b: web1: refused, 100%"
        assert ours.exc_info is None and other.exc_info is not None


@pytest.mark.usefixtures("installed")
class TestExplain:
    """The error of a refused config."""

    @pytest.mark.parametrize(
        ("name", "config", "expected"),
        [
            ("ssh_service.SshHostService", {"ssh_usernam": "x"}, "did you mean ssh_username?"),
            (f"{UPSTREAM}.SshHostService", {"ssh_usernam": "x"}, "did you mean ssh_username?"),
            (f"{UPSTREAM}.SshFileShareService", {"ssh_prot": 22}, "did you mean ssh_port?"),
            (f"{UPSTREAM}.SshHostService", {"ssh_connect_timeout": 5}, "ssh_service.SshHost"),
            ("ssh_service.SshHostService", {"ssh_port": "x"}, "ssh_port"),
        ],
    )
    @pytest.mark.parametrize("wrap", [lambda one: one, lambda one: {"services": [one]}])
    def test_schema_wrong_setting_is_named(
        self, name: str, config: Any, expected: str, wrap: Callable[[Any], Any]
    ) -> None:
        """The error names the class and the setting, in one short line."""
        with pytest.raises(schemas.WrongServiceSettings) as caught:
            ConfigSchema.SERVICE.validate(wrap({"class": name, "config": config}))
        text = str(caught.value)
        assert name in text and expected in text and len(text) < 300 and "\n" not in text

    def test_schema_error_of_another_service_is_mlos_benchs(self) -> None:
        """Errors that do not concern our services are reported as before."""
        with pytest.raises(Exception) as caught:
            ConfigSchema.SERVICE.validate({"class": "nobody.knows.It"})
        assert not isinstance(caught.value, schemas.WrongServiceSettings)
