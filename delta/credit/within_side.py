"""DelTA without the other side: the paper's ablation, a token counts by how typical it is of its own side alone."""

from dataclasses import dataclass

from torch import Tensor

from delta.credit.discriminative import DiscriminativeConfig, Sides
from delta.credit.estimator import Credit, CreditInputs
from delta.credit.space import TokenSpace


@dataclass(kw_only=True, slots=True)
class WithinSideConfig(DiscriminativeConfig):
    """Closeness to the own centroid only (`credit=within_side`), else as DelTA."""

    def estimate(self, inputs: CreditInputs) -> Credit:
        """The estimator over the global batch."""
        return self.estimate_with(within_side_margins, inputs)


def within_side_margins(space: TokenSpace, centroids: Tensor, sides: Sides) -> Tensor:
    """(S,) closeness to the own centroid.

        m = mean of |v' - mu_own|^2 over the own side - |v - mu_own|^2

    arXiv:2605.21467, ablations. A margin compares two distances and so has a natural zero; a single distance has none,
    and without subtracting the side's mean every sigmoid would be near 0.
    """
    towards = space.project(centroids[0]).where(sides.positive, space.project(centroids[1]))
    closeness = 2 * towards - space.squared_norms()  # up to |mu_own|^2, which the mean takes away
    return closeness - sides.of(sides.mean(closeness))
