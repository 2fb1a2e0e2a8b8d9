"""Yardsticks: the losses of the reference at production speed, exact to the bounds. Candidates are timed against them.

``rows.py`` turns a spec and a batch into one class and one weight per row of logits. One pass over the logits scores
each row and leaves the gradient: ``blocks.py`` on any device, with the arithmetic of ``scorer.py``, or ``kernel.py`` in
Triton on CUDA. ``losses.py`` passes both to autograd, for given logits and for those of a linear layer. The latter
never exist all at once: ``linear.py`` makes some rows at a time, ``classes.py`` some classes.
"""

from .losses import Unsupported, linear_yardstick, yardstick

__all__ = ["Unsupported", "linear_yardstick", "yardstick"]
