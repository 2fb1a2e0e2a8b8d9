"""Batches with their right answers, for property tests of one's own with Hypothesis.

>>> @given(batches("hf.causal_lm"))
... def test_my_loss(case):
...     logits = case.batch.logits.requires_grad_()
...     loss = my_loss(logits, case.batch.labels)
...     loss.backward()
...     assert disagreement(case, loss, {"logits": logits.grad}) is None
"""

from shiftproof.harness.bounds.disagreement import disagreement
from shiftproof.harness.cases.batches import batches

__all__ = ["batches", "disagreement"]
