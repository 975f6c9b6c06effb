"""Perceiver IO and Perceiver AR in one: causal replicated latents over millions of
input bytes, in JAX and Equinox."""

from .adapters.byte_lm import ByteLM as ByteLM
from .adapters.byte_state import ByteState as ByteState
from .adapters.frames import FrameInput as FrameInput
from .adapters.streams import StreamInput as StreamInput
from .adapters.streams import StreamOutput as StreamOutput
from .adapters.symbols import SwitchOutput as SwitchOutput
from .adapters.symbols import SymbolInput as SymbolInput
from .adapters.symbols import SymbolOutput as SymbolOutput
from .adapters.values import ValueInput as ValueInput
from .adapters.values import ValueOutput as ValueOutput
from .adapters.values import to_levels as to_levels
from .adapters.values import to_values as to_values
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
from .mesh import make_mesh as make_mesh
from .model import CausalPerceiver as CausalPerceiver
from .parents import Perceiver as Perceiver
from .parents import PerceiverIO as PerceiverIO
from .perceiver_ar import PerceiverAR as PerceiverAR
from .sampling import Rules as Rules
from .score import log_prob as log_prob
from .state import PerceiverState as PerceiverState
from .stream_generate import sample_steps as sample_steps
from .stream_model import StreamModel as StreamModel
from .stream_model import StreamState as StreamState
from .time_axis import TimeAxis as TimeAxis


__version__ = "0.1.0"
