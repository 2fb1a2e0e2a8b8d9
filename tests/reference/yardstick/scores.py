"""The scores that every way of scoring rows is tried with: each modifier alone, and together."""

from shiftproof.reference.spec import Score

SCORES = {
    "plain": Score(),
    "smoothing": Score(label_smoothing=0.1),
    "smoothing over others": Score(label_smoothing=0.1, smoothing_over="others"),
    "z-loss": Score(z_loss=0.01),
    "softcap": Score(softcap=5.0),
    "scale": Score(logit_scale=0.5),
    "class weights": Score(class_weights=True),
    "dft": Score(dft=True),
    "dft of mapped logits": Score(dft=True, softcap=5.0, logit_scale=1.5, class_weights=True),
    "all": Score(label_smoothing=0.1, z_loss=0.01, softcap=5.0, logit_scale=0.5, class_weights=True),
}
