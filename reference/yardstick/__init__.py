"""The losses of the reference at production speed, exact to the bounds: what a candidate's speed is measured against.

A spec and a batch come to one class and one weight a row of logits (``rows.py``); one pass over the logits scores each
row and leaves the gradient (``blocks.py`` on any device, with the arithmetic of ``scorer.py``; ``kernel.py`` in Triton
on CUDA); ``losses.py`` hands both to autograd, for logits that are given and for those of a linear layer, which never
exist all at once (``linear.py``, some rows at a time; ``classes.py``, some classes).
"""

from .losses import Unsupported, linear_yardstick, yardstick

__all__ = ["Unsupported", "linear_yardstick", "yardstick"]
