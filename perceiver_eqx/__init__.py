"""Perceiver IO and Perceiver AR in one: causal replicated latents over millions of
input bytes, in JAX and Equinox."""

from .adapters.byte_lm import ByteLM as ByteLM
from .adapters.byte_state import ByteState as ByteState
from .attention.attend import attend as attend
from .attention.attend import explain_engine as explain_engine
from .attention.masks import StepMask as StepMask
from .attention.prefix import prefix_attend as prefix_attend
from .attention.softmax import SoftmaxAverage as SoftmaxAverage
from .attention.softmax import empty_average as empty_average
from .attention.softmax import merge as merge
from .beams import beam_search as beam_search
from .generate import generate as generate
from .generate import stream as stream
from .model import CausalPerceiver as CausalPerceiver
from .parents import Perceiver as Perceiver
from .parents import PerceiverIO as PerceiverIO
from .perceiver_ar import PerceiverAR as PerceiverAR
from .sampling import Rules as Rules
from .score import log_prob as log_prob
from .state import PerceiverState as PerceiverState


__version__ = "0.1.0"
