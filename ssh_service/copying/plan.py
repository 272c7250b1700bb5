"""The plan of a copy: what it would do, as ``dry_run=True`` finds out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Iterator, List, NamedTuple, Optional, Tuple

__all__ = ["CopyPlan", "PlannedAction", "sorted_plan"]

# The order of actions with the same path.
_ACTIONS = ("create", "replace", "skip", "fail", "delete", "keep")


class PlannedAction(NamedTuple):
    """
    One entry of a plan.

    Attributes
    ----------
    action : str
        ``"create"``: the entry does not exist on the target, and would be copied.
        ``"replace"``: an entry on the target would be overwritten.
        ``"skip"``: the entry would not be copied; `reason` says why.
        ``"delete"``: an entry on the target would be deleted.
        ``"keep"``: an entry that only the target has would not be deleted; `reason` says why.
        ``"fail"``: the entry cannot be copied; `reason` is the error.
    path : str
        The path on the target; for ``"fail"``, the path that the error names.
    kind : str
        ``"file"``, ``"folder"`` or ``"link"``.
    size : Optional[int]
        The bytes that would be copied; None unless a file would be copied.
    reason : str
        The reason for ``"skip"``, ``"keep"`` and ``"fail"``; empty for the others.
    """

    action: str
    path: str
    kind: str = "file"
    size: Optional[int] = None
    reason: str = ""

    def __str__(self) -> str:
        path = self.path + "/" if self.kind == "folder" else self.path
        shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in path)
        return f"{self.action:<7} {shown}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True)
class CopyPlan:
    """
    What a copy would do: the result of a copy with ``dry_run=True``.

    Iterating yields the actions; ``str(plan)`` has one line for each.

    Attributes
    ----------
    actions : Tuple[PlannedAction, ...]
        The actions, sorted by path; deletions, which come after the copy, are at the end.
        Folders that exist already are not listed.
    """

    actions: Tuple[PlannedAction, ...]

    @property
    def copied(self) -> List[str]:
        """The target paths of all entries that would be created or replaced."""
        return self.paths("create", "replace")

    @property
    def skipped(self) -> List[str]:
        """The target paths of all entries that would be left out."""
        return self.paths("skip")

    @property
    def deleted(self) -> List[str]:
        """The target paths of all entries that would be deleted."""
        return self.paths("delete")

    @property
    def failed(self) -> List[str]:
        """The paths of all entries that cannot be copied."""
        return self.paths("fail")

    @property
    def size(self) -> int:
        """The number of bytes that would be copied."""
        return sum(action.size or 0 for action in self.actions)

    def paths(self, *names: str) -> List[str]:
        """
        Return the paths of certain actions.

        Parameters
        ----------
        *names : str
            Values of `PlannedAction.action`.

        Returns
        -------
        List[str]
            The paths, in the order of `actions`.
        """
        return [action.path for action in self.actions if action.action in names]

    def moved(self, folder: str, to: str) -> CopyPlan:
        """
        Return the same plan for another target.

        Parameters
        ----------
        folder : str
            A folder that all paths lie in.
        to : str
            The folder that takes its place.

        Returns
        -------
        CopyPlan
            The plan with changed paths.
        """
        moved = (
            action._replace(path=to + action.path[len(folder) :])
            for action in self.actions
            if action.path.startswith(folder)
        )
        return CopyPlan(tuple(moved))

    def __iter__(self) -> Iterator[PlannedAction]:
        return iter(self.actions)

    def __len__(self) -> int:
        return len(self.actions)

    def __str__(self) -> str:
        return "\n".join(map(str, self.actions))


def sorted_plan(actions: Iterable[PlannedAction]) -> CopyPlan:
    """Return the plan with these actions."""
    return CopyPlan(tuple(sorted(actions, key=_position)))


def _position(action: PlannedAction) -> Tuple[bool, List[str], int]:
    is_late = action.action in ("delete", "keep")
    return is_late, action.path.split("/"), _ACTIONS.index(action.action)
