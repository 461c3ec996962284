"""Makes our launchers known to Hydra, and the names of sweeps to its configuration.

Hydra takes plugins from modules below `hydra_plugins` only, and imports all that it finds there whatever is run. Ours
are registered by name instead, in a module of that package which is made here.
"""

import sys
from types import ModuleType

from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from launch.sweep.local import LocalLauncher
from launch.sweep.names import folder_of_sweep
from launch.sweep.submitted import SubmitLauncher

PACKAGE, MODULE = "hydra_plugins", "delta"


def register_launchers() -> None:
    """To be called before Hydra runs a command that can be swept."""
    known = Plugins.instance()  # imports the plugins that others installed, so the package is there if it ever will be
    module = sys.modules.setdefault(f"{PACKAGE}.{MODULE}", ModuleType(f"{PACKAGE}.{MODULE}"))
    setattr(sys.modules.setdefault(PACKAGE, ModuleType(PACKAGE)), MODULE, module)
    for launcher in (LocalLauncher, SubmitLauncher):
        launcher.__module__ = module.__name__
        setattr(module, launcher.__name__, launcher)
        known.register(launcher)
    OmegaConf.register_new_resolver("folder_of_sweep", folder_of_sweep, replace=True)
