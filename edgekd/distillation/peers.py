"""Deep mutual learning (Zhang et al. 2018, arXiv:1706.00384): students that train together and learn from each other.

To the training loop they are one student; the others are what its objective learns itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from edgekd.artifact import rounded
from edgekd.distillation.precision import computing_in
from edgekd.distillation.running import judge, run_logits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from edgekd.data.samples import Samples
    from edgekd.distillation.objective import Objective, Step
    from edgekd.distillation.precision import Precision
    from edgekd.distillation.teacher import Answers, Ask
    from edgekd.distillation.training import Trained


class PeerObjective:
    """The objectives of several students, each of which sees what the others answer. Their losses are added up."""

    def __init__(self, objectives: Sequence[Objective], peers: Sequence[nn.Module], precision: Precision) -> None:
        """Bring students together.

        Args:
            objectives: That of the student which the loop trains, then those of its peers.
            peers: The other students, to be trained as well.
            precision: In what they compute.
        """
        self.learnt = nn.ModuleList([*peers, *(objective.learnt for objective in objectives)])
        self._objectives = tuple(objectives)
        self._peers = tuple(peer.train() for peer in peers)
        self._precision = precision

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """Return the parts of every student's loss."""
        with computing_in(self._precision, step.inputs.device):
            others = [run_logits(peer, step.inputs, "a peer") for peer in self._peers]
        logits = torch.stack([step.logits, *(found.float() for found in others)])
        answers, everyone = logits.detach(), torch.arange(len(logits))
        parts: dict[str, Tensor] = {}
        for number, objective in enumerate(self._objectives):
            own = replace(step, logits=logits[number], peers=answers[everyone != number])
            parts |= {_of_student(name, number): part for name, part in objective(own).items()}
        return parts

    def weights(self, share: float) -> dict[str, float]:
        """Return those of every student's terms."""
        return {
            _of_student(name, number): weight
            for number, objective in enumerate(self._objectives)
            for name, weight in objective.weights(share).items()
        }


def _of_student(part: str, number: int) -> str:
    return f"{part} of student {number + 1}"


def asked_once(ask: Ask) -> Ask:
    """Return what answers from memory when the next student asks about the same batch."""
    last: list[tuple[Tensor, Answers]] = []

    def answer(inputs: Tensor, positions: Tensor, epoch: int) -> Answers:
        if not last or last[0][0] is not inputs:
            last[:] = [(inputs, ask(inputs, positions, epoch))]
        return last[0][1]

    return answer


def best_of(trained: Trained, peers: Sequence[nn.Module], validation: Samples) -> Trained:
    """Return the best student on the validation split: accuracy, then loss; of equals the first.

    Args:
        trained: The student that the loop trained, with the weights of the epoch it keeps.
        peers: The others, as the training left them.
        validation: Judges.

    Returns:
        `trained`, or a peer in its place: the last epoch, its own, is then the best and the one that is kept.
    """
    kept = trained.history[trained.kept_epoch]
    best = (kept.validation_top1, -kept.validation_loss)
    last = len(trained.history) - 1
    for peer in peers:
        loss, top1 = (rounded(value) for value in judge(peer, validation))
        if (top1, -loss) > best:
            best = (top1, -loss)
            epoch = replace(trained.history[last], validation_loss=loss, validation_top1=top1)
            trained = replace(
                trained,
                module=peer.eval(),
                history=(*trained.history[:last], epoch),
                best_epoch=last,
                kept_epoch=last,
            )
    return trained
