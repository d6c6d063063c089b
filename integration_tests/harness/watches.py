"""A reader of the fabric's watches that holds the fabric to its promise."""

import threading
import time

import grpc

from harness import contracts

_KIND = contracts.enum("mycelium.fabric.v1.WatchKind")
_NAME = {number: name[len("WATCH_KIND_") :] for name, number in _KIND.items()}

_KEYS = {
    "Plans": lambda p: p.app_name,
    "Endpoints": lambda e: f"{e.app_name}/{e.instance_id}",
    "Nodes": lambda n: n.node_id,
    "Slots": lambda s: f"{s.app_name}/{s.index}/{s.generation}",
    "Events": lambda e: e.event_id,
}

# Resources of one record: their revision is that of their last change. The
# others are joined of two, and the end of the second leaves no trace in it.
_OF_ONE_RECORD = ("Endpoints", "Events")


class Watch:
    """Follows `Watch<what>` on a thread of its own and keeps what it says.

    Goes on by (epoch, revision) when the stream breaks. What contradicts the
    promise (revisions that go back, a change before a snapshot's end, anything
    twice after a resume) is collected in `violations`.
    """

    def __init__(self, fabric, what, observer=None, **request):
        self._call = getattr(fabric, f"Watch{what}")
        self._key = _KEYS[what]
        self._of_one_record = what in _OF_ONE_RECORD
        self._request = request
        self._observer = observer
        self._changed = threading.Condition()
        self._stopping = False
        self._stream = None
        self.epoch = request.pop("epoch", "")
        self.revision = request.pop("after_revision", 0)
        self._heard = None  # The epoch of what was received, not of the request.
        self.state = {}
        self.kinds = []  # Of every message, bookmarks included.
        # (revision of the message, key, object or None), snapshots left out.
        self.history = []
        self.resumes = 0
        self.resyncs = 0
        self.violations = []
        self._snapshot = None if self.revision else {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while True:
            with self._changed:
                if self._stopping:
                    return
                self._stream = self._call(
                    epoch=self.epoch, after_revision=self.revision, **self._request
                )
            try:
                for response in self._stream:
                    self._apply(response)
            except grpc.RpcError:
                pass
            with self._changed:
                if self._stopping:
                    return
                self.resumes += 1
                if self.revision == 0:
                    self._snapshot = {}
                self._changed.notify_all()
                self._changed.wait(0.05)

    def _apply(self, response):
        kind = _NAME[response.kind]
        with self._changed:
            self.kinds.append(kind)
            if kind == "RESYNC":
                self.resyncs += 1
                self._snapshot = {}
            elif kind == "SNAPSHOT":
                self._take_snapshot_part(response)
            elif kind == "SNAPSHOT_END":
                self._take_snapshot_part(response)
                self.state = self._snapshot or {}
                self._snapshot = None
                self._advance(response)
                if self._observer:
                    self._observer(self.revision, dict(self.state))
            else:
                self._take_changes(kind, response)
            self._changed.notify_all()

    def _take_snapshot_part(self, response):
        if self._snapshot is None:
            self.violations.append(f"snapshot message at {self.revision} unasked")
            self._snapshot = {}
        for change in response.changes:
            if change.WhichOneof("change") != "put":
                self.violations.append("a snapshot that deletes")
                continue
            self._snapshot[self._key(change.put)] = change.put

    def _take_changes(self, kind, response):
        if self._snapshot is not None:
            self.violations.append(f"{kind} before the snapshot's end")
        if kind == "BOOKMARK" and response.changes:
            self.violations.append("a bookmark with changes")
        before = self.revision
        self._advance(response)
        keys = set()
        for change in response.changes:
            if change.WhichOneof("change") == "put":
                value = change.put
                key = self._key(value)
                self.state[key] = value
                changed_at = value.revision
            else:
                value = None
                key = getattr(change, "delete").key
                changed_at = getattr(change, "delete").revision
                self.state.pop(key, None)
            if key in keys:
                self.violations.append(f"{key} twice in one message")
            keys.add(key)
            earliest = before + 1 if self._of_one_record or value is None else 1
            if not earliest <= changed_at <= response.revision:
                self.violations.append(
                    f"{key} changed at {changed_at}, sent between {before} and "
                    f"{response.revision}"
                )
            self.history.append((response.revision, key, value))
        if self._observer and response.changes:
            self._observer(self.revision, dict(self.state))

    def _advance(self, response):
        if self._heard == response.epoch and response.revision < self.revision:
            self.violations.append(
                f"revision went back from {self.revision} to {response.revision}"
            )
        if response.revision == 0 and response.changes:
            self.violations.append("changes without a revision")
        self.epoch = self._heard = response.epoch
        self.revision = response.revision

    def wait_for(self, condition, timeout_s=30, what="the watch shows it"):
        """Waits until `condition(state)` is true; returns its value."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                value = condition(self.state)
                if value:
                    return value
                left = deadline - time.monotonic()
                if left <= 0:
                    shown = "\n".join(f"{k}: {v}" for k, v in self.state.items())
                    text = what() if callable(what) else what
                    raise AssertionError(
                        f"not within {timeout_s} s: {text}; at revision "
                        f"{self.revision} the state is:\n{shown or '(nothing)'}"
                    )
                self._changed.wait(left)

    def wait_for_revision(self, revision, timeout_s=30):
        """Waits until everything up to `revision` has arrived."""
        self.wait_for(
            lambda _: self.revision >= revision, timeout_s, f"revision {revision}"
        )

    def stop(self):
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            if self._stream is not None:
                self._stream.cancel()
        self._thread.join(10)
