"""Read from values and gradients which logits a black box scored on which labels."""
