"""The answers under the suite's reference, which those under the other conditions are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from robustlab.core.keys import sample_keys
from robustlab.evaluate.comparison import Comparison, LogitCache, compare, read_comparison
from robustlab.evaluate.conditions import Condition
from robustlab.evaluate.outcomes import logits_of
from robustlab.evaluate.plan import Plan, Shard, Subject
from robustlab.evaluate.sampling import show_to_all
from robustlab.evaluate.store import Store, digest

Clean = Callable[[range], tuple[Tensor, Tensor]]


class Reference:
    """Compares cells with the reference of a plan. Comparisons are measurements of their own in the store.

    The cells themselves do not know of the reference: another one compares the same cells.
    """

    def __init__(self, plan: Plan, store: Store, models: Mapping[str, nn.Module], clean: Clean) -> None:
        self._plan = plan
        self._store = store
        self._models = models
        self._clean = clean
        self._cache = LogitCache()
        self.condition = plan.suite.reference_condition

    def compares(self, condition: Condition) -> bool:
        """Whether cells of the condition are compared: there is a reference, and nobody makes the model fail."""
        return self.condition is not None and not condition.adversarial

    def stored(self, condition: Condition, subject: Subject, shard: Shard) -> Comparison | None:
        """The comparison of a cell if the store has it."""
        found = self._store.measurement(self._key(condition, subject, shard))
        return None if found is None else read_comparison(found, len(shard))

    def put(self, condition: Condition, subject: Subject, shard: Shard, comparison: Comparison) -> None:
        """Commit the comparison of a cell."""
        self._store.put_measurement(self._key(condition, subject, shard), "comparison", comparison.payload())

    def compare(self, condition: Condition, subject: Subject, ids: range, logits: Tensor) -> Comparison:
        """Compare logits (n, K) of samples `ids` with those under the reference."""
        assert self.condition is not None, "only called where there is a reference"
        if condition.key == self.condition.key:
            self._cache.put(subject.name, ids, logits)
            return compare(logits, logits)
        known = self._cache.get(subject.name, ids)
        if known is None:
            images, labels = self._clean(ids)
            keys = sample_keys(self._plan.seed, self.condition.key, ids)
            shown = show_to_all(self.condition, self._plan.data, ids, images, labels, keys)
            known = logits_of(self._models[subject.name], shown.images)
            self._cache.put(subject.name, ids, known)
        return compare(known, logits)

    def _key(self, condition: Condition, subject: Subject, shard: Shard) -> str:
        assert self.condition is not None, "only called where there is a reference"
        return digest(
            {
                "kind": "comparison",
                "cell": self._plan.key(subject, condition, shard),
                "reference": self._plan.key(subject, self.condition, shard),
            }
        )
