"""Pictures of masks and models: what may be seen, and what is. Only drawing needs
matplotlib."""

from .curves import plot_bits as plot_bits
from .curves import plot_rates as plot_rates
from .dependence import DEAD as DEAD
from .dependence import LEAK as LEAK
from .dependence import dependence as dependence
from .dependence import plot_dependence as plot_dependence
from .diagram import diagram as diagram
from .masks import model_masks as model_masks
from .masks import plot_mask as plot_mask
from .masks import plot_masks as plot_masks
from .masks import plot_model_masks as plot_model_masks
from .reach import plot_reach as plot_reach
from .reach import reached as reached
from .weights import attention_weights as attention_weights
from .weights import plot_weights as plot_weights
