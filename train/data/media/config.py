"""How media are made bytes."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MediaConfig:
    """What the bytes of sound, pictures and music are."""

    audio: Literal["mu-law", "16-bit"] = "mu-law"
    """A byte a sample, by mu-law; or two, the higher first, silence being 0x80 0x00."""
    sample_rate: int | None = None
    """Samples a second that audio must have; None takes any, and writes 8000."""
    image_size: tuple[int, int] | None = None
    """Height and width that pictures are resized to; None keeps each one's own."""
    gray: bool = False
    """One byte a pixel, its brightness, instead of red, green and blue."""
    steps_per_quarter: int = 4
    """Steps of MIDI to a quarter note."""
    voices: int = 4
    """Bytes of a step of MIDI, each a note or 1 for none."""

    def __post_init__(self):
        for name, least, most in (
            ("sample_rate", 1, 1 << 24),
            ("steps_per_quarter", 1, 256),
            ("voices", 1, 126),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(
                    f"`{name}` must be between {least} and {most}, got {value}."
                )
        if self.image_size is not None and min(self.image_size) < 1:
            raise ValueError(
                "`image_size` must be a height and a width of at least 1, got "
                f"{self.image_size}."
            )
