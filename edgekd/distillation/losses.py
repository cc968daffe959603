"""The losses of knowledge distillation: pure functions of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return the softened cross-entropy of Hinton et al. 2015 (arXiv:1503.02531), as a divergence.

    `T^2 * KL(softmax(teacher / T) || softmax(student / T))`, averaged over the samples. The factor `T^2` keeps
    the size of the gradient when the temperature changes.

    Args:
        student_logits: Shape (N, classes).
        teacher_logits: Shape (N, classes); no gradient flows into them.
        temperature: T > 0.
    """
    log_student = F.log_softmax(student_logits / temperature, dim=1)
    log_teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float, alpha: float
) -> Tensor:
    """Return `alpha * L_KD + (1 - alpha) * L_CE`: the teacher's word and the label's, weighed.

    Args:
        student_logits: Shape (N, classes).
        teacher_logits: Shape (N, classes).
        labels: Shape (N,), int64.
        temperature: T > 0 of `kd_loss`.
        alpha: Weight of the teacher's word, in [0, 1].
    """
    divergence = kd_loss(student_logits, teacher_logits, temperature)
    return alpha * divergence + (1 - alpha) * F.cross_entropy(student_logits, labels)
