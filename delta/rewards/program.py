"""Programs: find the one a response commits to. Nothing here runs or parses it as Python.

Models write programs as fenced Markdown blocks, often several: a sketch, the program, an example of its use, output.
A block that is a whole program, one that defines something or reads standard input, goes before one that is not; then
one marked as Python before an unmarked one before any other; of equals the last one counts. A response without a fence
is taken as a program itself, and a block that was cut off counts only where there is no complete one.
"""

import re
from dataclasses import dataclass

_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})(?P<info>.*)")
_PYTHON = {"python", "py", "python3", "py3"}
_WHOLE = re.compile(
    r"^\s*(?:async\s+def|def|class)\s+\w|^\w+\s*(?::[^=\n]+)?=\s*lambda\b"  # defines something
    r"|\binput\s*\(|\bstdin\b|\bopen\(\s*0\b|\bfileinput\b",  # reads
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class _Block:
    tag: str
    text: str
    is_closed: bool

    @property
    def rank(self) -> tuple[bool, bool, int]:
        return self.is_closed, bool(_WHOLE.search(self.text)), 2 if self.tag in _PYTHON else int(not self.tag)


def extract_program(response: str) -> str | None:
    """The source text of the program that the response commits to; None if it is empty.

    Args:
        response: What the policy wrote, with any line ends.

    Returns:
        The program, its lines ended by newlines. It need not compile.
    """
    lines = response.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    blocks = [block for block in _blocks(lines) if block.text.strip()]
    if blocks:
        return max(enumerate(blocks), key=lambda item: (item[1].rank, item[0]))[1].text
    if any(_opening(line) for line in lines):  # nothing in any of them
        return None
    program = "\n".join(lines)
    return program if program.strip() else None


def _opening(line: str) -> re.Match[str] | None:
    fence = _FENCE.fullmatch(line)
    return None if fence is None or (fence["marks"][0] == "`" and "`" in fence["info"]) else fence


def _blocks(lines: list[str]) -> list[_Block]:
    """Fenced blocks as CommonMark reads them, but at any indentation, which is then taken off their lines."""
    blocks: list[_Block] = []
    fence: re.Match[str] | None = None
    content: list[str] = []
    for line in lines:
        if fence is None:
            fence, content = _opening(line), []
        elif _closes(line, fence):
            blocks.append(_block(fence, content, is_closed=True))
            fence = None
        else:
            content.append(line)
    if fence is not None:
        blocks.append(_block(fence, content, is_closed=False))
    return blocks


def _closes(line: str, fence: re.Match[str]) -> bool:
    """A fence of the same marks, at least as many, without a word; deeper ones are text, of a docstring for example."""
    marks = line.strip()
    depth = len(line) - len(line.lstrip())
    return marks.startswith(fence["marks"]) and not marks.strip(fence["marks"][0]) and depth <= len(fence["indent"]) + 3


def _block(fence: re.Match[str], content: list[str], *, is_closed: bool) -> _Block:
    words = fence["info"].strip().strip("{}.").lower().split()
    indent = fence["indent"]
    text = "\n".join(line[len(indent) :] if line[: len(indent)].isspace() else line for line in content)
    return _Block(words[0].rstrip(",:}") if words else "", text + "\n", is_closed)
