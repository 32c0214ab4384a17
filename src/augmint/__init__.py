"""Mints new, checked image-mask pairs from a labelled medical dataset.

Every command of the command line is a function of the same name here (`list_methods` for
`methods`, which is a package); `to_*` and `from_*` exchange a case with MONAI and TorchIO. All are
imported when first asked for, so that `import augmint` costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from augmint.adapt import adapt
    from augmint.audit.run import audit
    from augmint.augment import augment
    from augmint.case import Case, Grid, IntensityMap, Provenance
    from augmint.catalogue import list_methods
    from augmint.data.dataset import Dataset, open_dataset
    from augmint.data.phantoms import make_phantoms as phantoms
    from augmint.demo import demo
    from augmint.doctor import doctor
    from augmint.errors import AugmintError
    from augmint.evaluate import evaluate
    from augmint.fit import fit
    from augmint.generate import generate
    from augmint.inspect import inspect
    from augmint.interop import from_monai, from_torchio, to_monai, to_torchio
    from augmint.nnunet import predict_nnunet, prepare_nnunet, train_nnunet
    from augmint.score import score
    from augmint.segment import segment
    from augmint.stacking import stack
    from augmint.stress import stress
    from augmint.study.prove import prove
    from augmint.study.run import study
    from augmint.survey import score_survey, survey

_WHERE: dict[str, tuple[str, str]] = {
    "AugmintError": ("augmint.errors", "AugmintError"),
    "Case": ("augmint.case", "Case"),
    "Dataset": ("augmint.data.dataset", "Dataset"),
    "Grid": ("augmint.case", "Grid"),
    "IntensityMap": ("augmint.case", "IntensityMap"),
    "Provenance": ("augmint.case", "Provenance"),
    "adapt": ("augmint.adapt", "adapt"),
    "augment": ("augmint.augment", "augment"),
    "demo": ("augmint.demo", "demo"),
    "doctor": ("augmint.doctor", "doctor"),
    "evaluate": ("augmint.evaluate", "evaluate"),
    "fit": ("augmint.fit", "fit"),
    "from_monai": ("augmint.interop", "from_monai"),
    "from_torchio": ("augmint.interop", "from_torchio"),
    "generate": ("augmint.generate", "generate"),
    "inspect": ("augmint.inspect", "inspect"),
    "list_methods": ("augmint.catalogue", "list_methods"),
    "open_dataset": ("augmint.data.dataset", "open_dataset"),
    "phantoms": ("augmint.data.phantoms", "make_phantoms"),
    "predict_nnunet": ("augmint.nnunet", "predict_nnunet"),
    "prepare_nnunet": ("augmint.nnunet", "prepare_nnunet"),
    "prove": ("augmint.study.prove", "prove"),
    "score": ("augmint.score", "score"),
    "score_survey": ("augmint.survey.score", "score_survey"),
    "segment": ("augmint.segment", "segment"),
    "stack": ("augmint.stacking", "stack"),
    "stress": ("augmint.stress", "stress"),
    "study": ("augmint.study.run", "study"),
    "audit": ("augmint.audit.run", "audit"),
    "survey": ("augmint.survey.make", "survey"),
    "to_monai": ("augmint.interop", "to_monai"),
    "to_torchio": ("augmint.interop", "to_torchio"),
    "train_nnunet": ("augmint.nnunet", "train_nnunet"),
}

__all__ = [
    "AugmintError",
    "Case",
    "Dataset",
    "Grid",
    "IntensityMap",
    "Provenance",
    "adapt",
    "audit",
    "augment",
    "demo",
    "doctor",
    "evaluate",
    "fit",
    "from_monai",
    "from_torchio",
    "generate",
    "inspect",
    "list_methods",
    "open_dataset",
    "phantoms",
    "predict_nnunet",
    "prepare_nnunet",
    "prove",
    "score",
    "score_survey",
    "segment",
    "stack",
    "stress",
    "study",
    "survey",
    "to_monai",
    "to_torchio",
    "train_nnunet",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("augmint")
    if name not in _WHERE:
        raise AttributeError(f"module 'augmint' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Package(ModuleType):
    """Keeps public names for functions.

    Importing `augmint.fit`, the module, would otherwise bind it over `augmint.fit`, the function.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _WHERE and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
