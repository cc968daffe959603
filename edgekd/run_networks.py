"""How one network of a run is made: built from a seed, trained once, kept in a file and loaded from it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekd.artifact import Artifact, Origin
from edgekd.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from edgekd.data.splits import Splits
    from edgekd.distillation.state import Checkpoints
    from edgekd.distillation.training import Augmentation, Trained
    from edgekd.recipe import ModelSettings, Recipe, TrainingSettings
    from edgekd.stages import Stages

TRAINING_LIBRARIES = ("numpy", "torch")


class Training(NamedTuple):
    """A trained network.

    Attributes:
        seed: Of its first weights, the order of samples and their augmentation.
        origin: What it was made from.
        weights: Its file.
    """

    seed: int
    origin: Origin
    weights: Artifact

    @property
    def rank(self) -> tuple[float, float]:
        """Accuracy on the validation split of the epoch that is kept, then the loss there: the larger, the better."""
        kept = self.weights.metrics["history"][self.weights.metrics["kept_epoch"]]
        return kept["validation_top1"], -kept["validation_loss"]


class NetworkStages:
    """Networks of one recipe, as stages of one folder."""

    def __init__(self, recipe: Recipe, splits: Splits, stages: Stages, data_parents: Mapping[str, str]) -> None:
        """Take what they are made from.

        Args:
            recipe: Says how.
            splits: The samples.
            stages: Where artifacts lie.
            data_parents: What every stage that sees the data depends on.
        """
        self.recipe = recipe
        self.splits = splits
        self.contract = splits.contract
        self.stages = stages
        self.data_parents = data_parents

    def train_on_labels(
        self, model: ModelSettings, settings: TrainingSettings, title: str, seed: int, checkpoints: Checkpoints
    ) -> Trained:
        """Train a network without a teacher."""
        from edgekd.distillation.objective import LabelObjective
        from edgekd.distillation.training import train_network

        return train_network(
            self.build(model, seed),
            self.splits.train,
            self.splits.validation,
            LabelObjective(settings.label_smoothing),
            settings=settings,
            augmentation=self.augmentation(),
            seed=seed,
            checkpoints=checkpoints,
            title=title,
            progress=self.stages.progress,
        )

    def trained(
        self,
        role: str,
        file: str,
        model: ModelSettings,
        effective: Mapping[str, Any],
        parents: Mapping[str, str],
        make: Callable[[Checkpoints], Trained],
        seed: int,
        every_s: float,
    ) -> Training:
        """Return a network that is trained once, and taken from its file where that is known.

        Args:
            role: What messages call it, and its stage.
            file: Where its weights go.
            model: Its architecture.
            effective: The settings that decide the result.
            parents: What it depends on besides the data.
            make: Trains it, given where to save and resume.
            seed: Of everything.
            every_s: Seconds between two checkpoints.

        Raises:
            ModelError: its training fails.
        """
        from edgekd.distillation.state import Checkpoints
        from edgekd.models import count_parameters, dump_weights

        origin = Origin(
            stage=role,
            settings={**self.architecture(model), **effective, "seed": seed},
            parents={**self.data_parents, **parents},
            libraries=(*TRAINING_LIBRARIES, "onnxruntime")
            if any(name.endswith(".onnx") for name in parents)
            else TRAINING_LIBRARIES,
        )
        checkpoint = self.stages.folder / "checkpoints" / f"{Path(file).stem}.pt"

        def train() -> tuple[bytes, dict[str, Any]]:
            try:
                trained = make(Checkpoints(path=checkpoint, key=origin.key, every_s=every_s))
                content = dump_weights(trained.module)
            except ModelError as error:
                raise ModelError(f"{role} ({model.model}): {error}") from error
            return content, {"parameters": count_parameters(trained.module), **trained.metrics()}

        elsewhere = [place for place in (weights_file(role), weights_file(role, seed)) if place != file]
        weights = self.stages.make(file, origin, train, elsewhere=elsewhere, together=True)
        if self.stages.processes.is_main:
            with suppress(OSError):
                checkpoint.unlink()
                checkpoint.parent.rmdir()
        return Training(seed, origin, weights)

    def build(self, model: ModelSettings, seed: int | None = None) -> nn.Module:
        """Return a new network, its weights drawn from the seed: the recipe's by default."""
        import torch

        from edgekd.models import build

        with torch.random.fork_rng():
            torch.manual_seed(self.recipe.seed if seed is None else seed)
            return build(
                model.model,
                classes=len(self.contract.labels),
                shape=self.contract.shape,
                arguments=model.arguments,
                folder=self.recipe.folder,
            )

    def load(self, model: ModelSettings, weights: Artifact) -> nn.Module:
        """Return a network with an artifact's weights."""
        from edgekd.models import load_weights

        module = self.build(model)
        load_weights(module, weights.path)
        return module

    def architecture(self, model: ModelSettings) -> dict[str, Any]:
        """Return what decides a network's form, as JSON data: its name, and the content of a user's own code."""
        from edgekd.models import source_digest

        digest = source_digest(model.model, self.recipe.folder)
        own = {} if digest is None else {"source": digest}
        return {"model": model.model, "arguments": dict(model.arguments), **own}

    def augmentation(self) -> Augmentation:
        """Return what is done to the training samples."""
        from edgekd.distillation.training import Augmentation

        return Augmentation(crop_padding=self.recipe.data.crop_padding, flip=self.recipe.data.flip)


def weights_file(role: str, seed: int | None = None) -> str:
    """Return where a role's weights lie; with a seed, where those of one among several seeds do."""
    return f"{role}.safetensors" if seed is None else f"seeds/{role}-{seed}.safetensors"
