"""Every parameter cut into equal parts, one for each rank: a layout that two numbers say.

ZeRO stage 3 cuts so. As a list, what 4,096 ranks hold of 1,000 parameters would be four million
fragments, which every rank would have to read.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

Range = tuple[str, int, int]
"""A parameter, an offset in it, and how many elements from there on."""


class Share(NamedTuple):
    """Part `number` of `of` parts of every parameter. The last ones are shorter, or empty."""

    number: int
    of: int

    def offset(self, elements: int) -> int:
        """Where this part of so many elements begins."""
        return min(self.number * part_size(elements, self.of), elements)

    def length(self, elements: int) -> int:
        """How many of so many elements are this part."""
        return min(part_size(elements, self.of), elements - self.offset(elements))

    def ranges(self, parameters: Mapping[str, int]) -> Iterable[Range]:
        """This part of each parameter, given by its elements, where there is anything of it."""
        return (
            (name, self.offset(elements), length)
            for name, elements in parameters.items()
            if (length := self.length(elements))
        )


def part_size(elements: int, parts: int) -> int:
    """Elements of the largest of the parts."""
    return -(-elements // parts)
