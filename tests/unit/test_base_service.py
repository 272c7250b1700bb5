"""The bundled Service, FileShareService and Status."""

from __future__ import annotations

import inspect
from typing import Any, Dict, List, Optional

import pytest

from ssh_service.services import base_service
from ssh_service.services.base_service import FileShareService, Service, Status


class Lamp(Service):
    """A service that notes when it is entered and left."""

    def __init__(
        self,
        config: Optional[Dict[str, Any]] = None,
        global_config: Optional[Dict[str, Any]] = None,
        parent: Optional[Service] = None,
        methods: Any = None,
    ) -> None:
        super().__init__(
            config, global_config, parent, self.merge_methods(methods, [self.light, self.dim])
        )
        self.events: List[str] = []
        self.fails = ""

    def light(self) -> str:
        return "on"

    def dim(self) -> str:
        return "off"

    def _enter_context(self) -> Lamp:
        if self.fails == "enter":
            raise OSError("no current")
        self.events.append("entered")
        super()._enter_context()
        return self

    def _exit_context(self, *exc_info: Any) -> Any:
        self.events.append("left")
        if self.fails == "exit":
            raise OSError("stuck")
        return super()._exit_context(*exc_info)


class Radio(Lamp):
    """The same with other names."""

    def __init__(self) -> None:
        Service.__init__(self, methods=[self.play])
        self.events: List[str] = []
        self.fails = ""

    def play(self) -> str:
        return "la"


def helpers(status: Status) -> List[str]:
    names = ("pending", "ready", "succeeded", "failed", "canceled", "timed_out")
    return [name for name in names if getattr(status, f"is_{name}")()]


@pytest.mark.parametrize("status", Status)
def test_each_status_answers_to_its_own_question_only(status: Status) -> None:
    known = status.name.lower()
    asked = [] if known in ("unknown", "running") else [known]
    assert helpers(status) == asked


def test_status_is_good_and_is_completed() -> None:
    assert [s.name for s in Status if s.is_good()] == ["PENDING", "READY", "RUNNING", "SUCCEEDED"]
    assert [s.name for s in Status if s.is_completed()] == [
        "SUCCEEDED",
        "CANCELED",
        "FAILED",
        "TIMED_OUT",
    ]


def test_export_returns_registered_methods() -> None:
    lamp = Lamp()
    assert sorted(lamp.export()) == ["dim", "light"]
    lamp.register({"glow": lamp.light})
    assert lamp.export()["glow"]() == "on"


def test_its_creators_methods_beat_its_own() -> None:
    def light() -> str:
        return "flash"

    lamp = Lamp(methods=[light])
    assert lamp.light() == "flash"
    assert lamp.dim() == "off"


def test_a_parents_methods_become_its_own() -> None:
    radio = Radio()
    mixin = Service(parent=radio)
    assert mixin.export()["play"]() == "la"
    assert getattr(mixin, "play")() == "la"


def test_mixin_enters_and_leaves_services_of_its_methods() -> None:
    lamp, radio, mixin = Lamp(), Radio(), Service()
    mixin.register(lamp.export())
    mixin.register(radio.export())
    with mixin:
        assert (lamp.events, radio.events) == (["entered"], ["entered"])
    assert (lamp.events, radio.events) == (["entered", "left"], ["entered", "left"])


def test_service_with_all_methods_replaced_is_not_entered() -> None:
    lamp, other, mixin = Lamp(), Lamp(), Service()
    mixin.register(lamp.export())
    mixin.register(other.export())
    with mixin:
        assert (lamp.events, other.events) == ([], ["entered"])


def test_entering_twice_is_allowed_and_the_inner_exit_leaves() -> None:
    lamp = Lamp()
    with lamp:
        with lamp:
            assert lamp.events == ["entered"]
        assert lamp.events == ["entered", "left"]
    with lamp:
        assert lamp.events == ["entered", "left", "entered"]


def test_exceptions_pass_through_a_context() -> None:
    with pytest.raises(KeyError):
        with Lamp():
            raise KeyError("x")


def test_when_one_cannot_be_entered_the_others_are_left() -> None:
    lamp, radio, mixin = Lamp(), Radio(), Service()
    mixin.register(lamp.export())
    mixin.register(radio.export())
    radio.fails = "enter"
    with pytest.raises(OSError, match="no current"):
        mixin.__enter__()
    assert lamp.events == ["entered", "left"]
    radio.fails = ""
    with mixin:
        assert radio.events == ["entered"]


def test_exit_error_of_one_service_does_not_skip_the_others() -> None:
    lamp, radio, mixin = Lamp(), Radio(), Service()
    mixin.register(lamp.export())
    mixin.register(radio.export())
    radio.fails = "exit"
    with pytest.raises(OSError, match="stuck"):
        with mixin:
            pass
    assert lamp.events == ["entered", "left"]


def test_methods_are_registered_before_entering() -> None:
    lamp = Lamp()
    with lamp:
        with pytest.raises(RuntimeError, match="before entering"):
            lamp.register([lamp.light])


def test_a_service_that_another_entered_is_not_entered_again() -> None:
    lamp = Lamp()
    with Service(parent=lamp):
        with pytest.raises(RuntimeError, match="another service"):
            lamp.__enter__()


def test_a_service_is_made_from_the_name_of_its_class() -> None:
    made = Service.new("tests.unit.test_base_service.Lamp", {"watts": 3})
    assert type(made).__name__ == "Lamp"
    assert made.config == {"watts": 3}


def test_a_class_that_is_no_service_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="collections.OrderedDict is not a subclass of Service"):
        Service.new("collections.OrderedDict")


def test_pprint_names_the_service_and_its_methods() -> None:
    lamp = Lamp()
    assert lamp.pprint().splitlines() == [
        f"{lamp!r} ::",
        f'  "light": {lamp!r}',
        f'  "dim": {lamp!r}',
    ]


def test_a_file_share_exports_upload_and_download_and_is_abstract() -> None:
    class Share(FileShareService):
        def upload(
            self, params: Any, local_path: Any, remote_path: Any, recursive: Any = True
        ) -> None: ...

        def download(
            self, params: Any, remote_path: Any, local_path: Any, recursive: Any = True
        ) -> None: ...

    assert sorted(Share().export()) == ["download", "upload"]
    with pytest.raises(TypeError, match="abstract"):
        FileShareService()  # type: ignore[abstract]


class TestStatus:
    """The helpers that mlos_bench 0.6.3 added."""

    @pytest.mark.parametrize("given", [Status.FAILED, "failed", " FAILED\n", "6", 6])
    def test_status_parse_known_value_is_found(self, given: Any) -> None:
        """A status, its name or its number is converted."""
        assert Status.parse(given) is Status.FAILED

    @pytest.mark.parametrize("given", ["", "fail", 8, None, "99"])
    def test_status_parse_unknown_value_is_unknown(
        self, given: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A value that means nothing is UNKNOWN, and the log says so."""
        assert Status.parse(given) is Status.UNKNOWN
        assert str(given) in caplog.text

    def test_status_completed_statuses_are_the_completed_ones(self) -> None:
        """The set and the predicate agree."""
        assert Status.completed_statuses() == {s for s in Status if s.is_completed()}
        assert [s for s in Status if s.is_running()] == [Status.RUNNING]


class TestBesideMlosBench:
    """The members that are there are those of mlos_bench."""

    def test_status_has_the_same_members_and_helpers(self) -> None:
        theirs = pytest.importorskip("mlos_bench.environments.status").Status
        assert {s.name: s.value for s in Status} == {s.name: s.value for s in theirs}
        helpers = {name for name in vars(theirs) if callable(getattr(theirs, name))}
        # Older versions lack some helpers of the newest, which are `parse`, `is_running` and
        # `completed_statuses`.
        assert {name for name in helpers if not name.startswith("_")} <= set(vars(Status))

    @pytest.mark.parametrize("name", ["Service", "FileShareService"])
    def test_methods_take_the_same_parameters(self, name: str) -> None:
        modules = {"Service": "base_service", "FileShareService": "base_fileshare"}
        module = pytest.importorskip(f"mlos_bench.services.{modules[name]}")
        theirs, ours = getattr(module, name), getattr(base_service, name)
        shared = [
            method
            for method, value in vars(theirs).items()
            if callable(getattr(theirs, method))
            and method in vars(ours)
            and inspect.isroutine(getattr(theirs, method))
            and not method.startswith("__")
        ]
        assert shared
        for method in [*shared, "__init__"]:
            assert list(inspect.signature(getattr(ours, method)).parameters) == list(
                inspect.signature(getattr(theirs, method)).parameters
            ), method

    def test_only_the_config_loader_is_not_mirrored(self) -> None:
        theirs = pytest.importorskip("mlos_bench.services.base_service").Service
        missing = {name for name in vars(theirs) if not hasattr(Service, name)}
        # The rest is Python's: `__slotnames__` of what was pickled, the marks of an ABC.
        python = {"__annotations__", "__slotnames__", "__abstractmethods__", "_abc_impl"}
        assert missing - python <= {"config_loader_service"}
