"""The losses of knowledge distillation: pure functions of tensors, one family a module.

- `labels`: of logits, by the labels alone.
- `response`: of logits. Each sample may have a weight.
- `feature`: of feature maps at one place of both networks.
- `relation`: of how the samples of a batch lie to each other.

Half-precision tensors are computed with in float32. No gradient flows into what the teacher gave. Losses and
gradients are finite for finite input, up to 1e15 in size, also where a formula's own is not: equal rows, features
that are all zero.
"""
