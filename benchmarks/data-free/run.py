"""How much of a data-trained student's accuracy a student reaches that never saw the data.

    python benchmarks/data-free/run.py [RECIPE] [-o FOLDER] [--set KEY=VALUE]...

The recipe's teacher is trained once; one student is distilled on the training split, another on images made from the
teacher. Both are trained alike and keep their last epoch. The figures go to results.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edgekd.data.splits import open_splits
from edgekd.distillation.running import accuracy
from edgekd.models import build, load_weights
from edgekd.pipeline import distill_recipe
from edgekd.recipe_file import load_recipe

HERE = Path(__file__).parent


def main() -> None:
    """Run the study and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=HERE / "digits.toml")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/data-free"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.set)
    assert recipe.distill.data_free is not None, "the recipe must have a section [distill.data_free]"
    with_data = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"data_free": None})})
    splits = open_splits(recipe.data, recipe.seed)

    def top1(model: str, weights: Path) -> float:
        module = build(model, classes=len(splits.contract.labels), shape=splits.contract.shape)
        load_weights(module, weights)
        return round(accuracy(module, splits.test), 4)

    figures = {}
    for name, settings in {"with_data": with_data, "data_free": recipe}.items():
        figures[name] = top1(recipe.student.model, distill_recipe(settings, arguments.output).path)
    result = {
        "recipe": recipe.effective_sections(),
        "test_samples": len(splits.test),
        "teacher_top1": top1(recipe.teacher.model, arguments.output / "teacher.safetensors"),
        "student_top1": figures,
        "share_of_data_trained": round(figures["data_free"] / figures["with_data"], 4),
    }
    path = HERE / f"results-{recipe.name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "recipe"}, indent=2))


if __name__ == "__main__":
    main()
