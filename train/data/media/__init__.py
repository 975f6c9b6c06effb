"""Files of sound, pictures, music and arrays as bytes, and back again."""

from .config import MediaConfig as MediaConfig
from .files import decode as decode
from .files import encode as encode
from .midi import piano_roll as piano_roll
