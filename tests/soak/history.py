"""What the soak's users were told, to be held against what happened on the server."""

from __future__ import annotations

import collections
import threading
from typing import Counter, Dict, List, Set


class History:
    """The outcome of each command, as the client saw it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.told: Dict[int, str] = {}  # guarded by _lock
        self.counts: Counter[str] = collections.Counter()  # guarded by _lock
        self.complaints: List[str] = []  # guarded by _lock
        self.lost_contents: Set[bytes] = set()  # digests, of copies, which one thread makes

    def begin(self) -> int:
        with self._lock:
            number = len(self.told)
            self.told[number] = "begun"
            return number

    def end(self, number: int, fate: str) -> None:
        with self._lock:
            self.told[number] = fate
            self.counts[fate] += 1

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def complain(self, text: str) -> None:
        with self._lock:
            self.complaints.append(text)

    def check(self, ran: Counter[int]) -> None:
        """Hold it against what happened on the server."""
        for number, fate in self.told.items():
            times = ran[number]
            if times > 1:
                self.complain(f"command {number} ({fate}) ran {times} times")
            if fate == "done" and not times:
                self.complain(f"command {number} is said to be done, and never ran")
            if fate == "never sent" and times:
                self.complain(f"command {number} is said never to have been sent, and ran")
            if fate == "begun":
                self.complain(f"of command {number} nothing was told")
