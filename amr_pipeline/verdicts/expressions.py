r"""Elementary expressions in LaTeX or plain notation, parsed into trees.

Understands numbers, letters with subscripts, `+ - * / ^ !`, fractions, roots, binomials, absolute values, floors and
the elementary functions, with products written by juxtaposition. What it cannot read *without doubt* raises
`NotAnExpression`, because a misread answer is worse than one that is left to a slower reader.

Belongs here: reading. Does not belong here: what an expression is worth (`evaluation_points`) or what kind of answer
it is part of (`answer_forms`).
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

from amr_pipeline.verdicts.numerals import numeral, repeating_decimal

Node: TypeAlias = tuple
"""("number", Fraction), ("symbol", name), or (operation, operands...) with operations of `OPERATIONS`."""

OPERATIONS = frozenset({"add", "multiply", "divide", "power", "negate", "call", "root", "binomial", "factorial"})

LONGEST_EXPRESSION = 600
"""Characters; longer ones are left to symbolic algebra, or are too complex for it as well."""

DEEPEST_NESTING = 30
"""Groups, powers and arguments inside one another; readers and evaluators recurse this deep and no deeper."""

MOST_SLASHES = 20

_NAMES_OF_FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp abs floor ceil sqrt"
_NAMES_OF_LETTERS = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi "
    "rho sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar"
)
FUNCTIONS = frozenset(_NAMES_OF_FUNCTIONS.split())
_SYNONYMS = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "tg": "tan", "ctg": "cot"}
_GREEK = frozenset(_NAMES_OF_LETTERS.split())
_TIMES, _OVER = ("\\cdot", "\\times", "\\ast", "·", "×"), ("\\div", "÷")
_OPERATORS = {**dict.fromkeys(_TIMES, "*"), **dict.fromkeys(_OVER, "/"), "−": "-", "–": "-"}

_DIGITS = frozenset("0123456789.")

_PIECE = re.compile(
    r"\s*(?:(\d*\.\d*\\(?:overline|bar|dot)\{?\d+\}?|\d+(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?![\d.A-Za-z]))?|\.\d+)"
    r"|(\\[A-Za-z]+|\\[|])|([A-Za-z]+)|(\*\*|.))",
    re.DOTALL | re.ASCII,
)


_DERIVATIVE = re.compile(r"\\frac\s*\{\s*d[^{}]*\}\s*\{\s*d\s*[A-Za-z]")


class NotAnExpression(ValueError):
    """The text cannot be read as an expression without doubt."""


@lru_cache(maxsize=8192)
def parse_expression(text: str) -> Node:
    r"""The tree of an expression such as `\frac{x+2}{7}`, `2*pi/3`, `\sqrt[3]{x}^2`, `n!`, `1011_2`.

    Raises:
        NotAnExpression: it is none, or it can be read in two ways (`1/2x`, `\sin x (x+1)`).
    """
    if len(text) > LONGEST_EXPRESSION:
        raise NotAnExpression(f"{len(text)} characters")
    if _DERIVATIVE.search(text):
        raise NotAnExpression("a derivative")
    reader = _Reader(_pieces(text))
    node = reader.sum()
    if reader.peek() != "":
        raise NotAnExpression(f"{reader.peek()!r} is left over")
    return node


def symbols(node: Node) -> frozenset[str]:
    """Names of the letters in an expression, without the constants pi, e and i."""
    if node[0] == "symbol":
        return frozenset() if node[1] in ("pi", "e", "i") else frozenset({node[1]})
    if node[0] == "number":
        return frozenset()
    return frozenset().union(*(symbols(part) for part in node[1:] if isinstance(part, tuple)))


def renamed(node: Node, names: dict[str, str]) -> Node:
    """An expression with some letters under other names."""
    if node[0] == "symbol":
        return ("symbol", names.get(node[1], node[1]))
    return tuple(renamed(part, names) if isinstance(part, tuple) else part for part in node)


def has_call(node: Node, name: str) -> bool:
    """Whether a function occurs in an expression."""
    if node[0] == "call" and node[1] == name:
        return True
    return any(has_call(part, name) for part in node[1:] if isinstance(part, tuple))


def _pieces(text: str) -> list[str]:
    found: list[str] = []
    for match in _PIECE.finditer(text):
        number, command, word, other = match.groups()
        if number is not None or command is not None:
            piece = number or command
            found.append(_OPERATORS.get(piece, piece))
        elif word is not None:
            found.extend(_letters(word))
        elif other.strip():
            found.append("^" if other == "**" else _OPERATORS.get(other, other))
    return found


def _letters(word: str) -> list[str]:
    """A run of letters: a function, a constant, a capital name, or a product of single letters."""
    name = _SYNONYMS.get(word, word)
    if name in FUNCTIONS or name == "pi":
        return ["\\" + name]
    if len(word) == 1 or word.isupper():
        return [word]
    # Longer words are products only where nobody could take them for words: `xy`, `abc`, not `cat`.
    if len(word) == 2 or (len(word) == 3 and sorted(word) == list(word)):
        return list(word)
    raise NotAnExpression(f"{word!r} is a word")


_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}


class _Reader:
    """Recursive descent over pieces."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces, self._place, self._depth, self._slashes = pieces, 0, 0, 0
        self._functions = 0  # whose arguments are being read

    def peek(self) -> str:
        """The next piece, or "" at the end."""
        return self._pieces[self._place] if self._place < len(self._pieces) else ""

    def _take(self) -> str:
        piece = self.peek()
        self._place += 1
        return piece

    def _expect(self, piece: str) -> None:
        if self._take() != piece:
            raise NotAnExpression(f"no {piece!r} where one is due")

    def sum(self) -> Node:
        """Terms joined by plus and minus."""
        terms = [self._signed_term()]
        while self.peek() in ("+", "-"):
            sign = self._take()
            term = self._signed_term()
            terms.append(("negate", term) if sign == "-" else term)
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def _signed_term(self) -> Node:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self._take() == "-" else sign
        term = self._term()
        return ("negate", term) if sign < 0 else term

    def _term(self) -> Node:
        node, after_slash = self._power(), False
        while True:
            piece = self.peek()
            if piece == "/":
                self._take()
                node, after_slash = ("divide", node, self._signed_power()), True
                self._slashes += 1
                if self._slashes > MOST_SLASHES:
                    raise NotAnExpression("too many slashes")
            elif piece == "*":
                self._take()
                node, after_slash = _product(node, self._signed_power()), False
            elif self._starts_factor(piece):
                if after_slash:
                    raise NotAnExpression("a product after a slash can be read in two ways")
                before = self._pieces[self._place - 1]
                if _is_number(piece) and (_is_number(before) or before == "}"):
                    raise NotAnExpression("two numbers side by side")
                factor = self._power()
                if _is_number(before) and factor[0] == "divide" and piece == "\\frac" and _is_plain_fraction(factor):
                    node = ("add", node, factor)  # a mixed number
                else:
                    node = _product(node, factor)
            else:
                return node

    def _signed_power(self) -> Node:
        if self.peek() in ("+", "-"):
            return ("negate", self._power()) if self._take() == "-" else self._power()
        return self._power()

    @staticmethod
    def _starts_factor(piece: str) -> bool:
        if (
            piece in ("(", "[", "{", "\\{")
            or _is_number(piece)
            or (piece.isalpha() and piece.isascii())
            or piece in ("π", "√")
        ):
            return True
        return piece.startswith("\\") and piece[1:] in _ATOMS

    def _power(self) -> Node:
        self._depth += 1
        if self._depth > DEEPEST_NESTING:
            raise NotAnExpression("nested too deeply")
        node = self._raised_or_not(self._postfix(self._atom()))
        self._depth -= 1
        return node

    def _raised_or_not(self, node: Node) -> Node:
        if self.peek() == "^":
            self._take()
            node = self._postfix(self._raised(node))
        elif self.peek() in ("²", "³"):
            node = ("power", node, ("number", Fraction(2 if self._take() == "²" else 3)))
        return node

    def _raised(self, node: Node) -> Node:
        if self.peek() == "\\circ":
            if not self._functions:
                raise NotAnExpression("degrees are a unit")
            self._take()
            return ("divide", ("multiply", node, ("symbol", "pi")), ("number", Fraction(180)))
        if self.peek() == "{":
            exponent = self._group()
        elif self.peek() in ("+", "-"):
            exponent = ("negate", self._power()) if self._take() == "-" else self._power()
        else:
            exponent = self._power()
        return ("power", node, exponent)

    def _postfix(self, node: Node) -> Node:
        while self.peek() == "!":
            self._take()
            if self.peek() == "!":
                raise NotAnExpression("a double factorial")
            node = ("factorial", node)
        return node

    def _group(self) -> Node:
        opening = self._take()
        node = self.sum()
        self._expect(_CLOSING[opening])
        return node

    def _argument(self) -> Node:
        r"""What follows a command: a group, or one digit or letter (`\frac12`, `\sqrt3`)."""
        if self.peek() == "{":
            return self._group()
        piece = self.peek()
        if _is_number(piece) and piece.isdigit() and len(piece) > 1:
            self._pieces[self._place : self._place + 1] = [piece[0], piece[1:]]
        return self._nested_atom()

    def _nested_atom(self) -> Node:
        self._depth += 1
        if self._depth > DEEPEST_NESTING:
            raise NotAnExpression("nested too deeply")
        node = self._atom()
        self._depth -= 1
        return node

    def _atom(self) -> Node:
        piece = self._take()
        if _is_number(piece):
            return self._number(piece)
        if piece in ("(", "[", "{", "\\{"):
            self._place -= 1
            return self._group()
        if piece == "|":
            return self._absolute("|")
        if piece in ("√",):
            return ("root", self._power(), ("number", Fraction(2)))
        if piece == "π":
            return ("symbol", "pi")
        if piece.isalpha() and piece.isascii():
            return self._symbol(piece)
        if piece.startswith("\\") and piece[1:] in _ATOMS:
            return self._command(piece[1:])
        raise NotAnExpression(f"{piece!r} is not understood")

    def _number(self, piece: str) -> Node:
        if "\\" in piece:
            return ("number", repeating_decimal(piece))
        if self.peek() == "_":
            self._take()
            base = self._argument()
            if base[0] != "number" or (value := numeral(piece, base[1])) is None:
                raise NotAnExpression("a subscript of a number that is no base")
            return ("number", value)
        return ("number", Fraction(piece))

    def _symbol(self, name: str) -> Node:
        if self.peek() == "_":
            self._take()
            name += "_" + self._subscript()
        while self.peek() in ("'", "′"):
            self._take()
            name += "'"
        if self.peek() == "(" and name in ("f", "g", "h", "F", "G", "P", "Q"):
            raise NotAnExpression(f"{name} may be a function")
        return ("symbol", name)

    def _subscript(self) -> str:
        if self.peek() != "{":
            return self._take()
        self._take()
        parts = []
        while self.peek() not in ("}", ""):
            parts.append(self._take())
        self._expect("}")
        return "".join(parts)

    def _absolute(self, closing: str) -> Node:
        node = self.sum()
        self._expect(closing)
        return ("call", "abs", node)

    def _command(self, name: str) -> Node:
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            return ("divide", self._argument(), self._argument())
        if name in ("binom", "dbinom", "tbinom"):
            return ("binomial", self._argument(), self._argument())
        if name == "sqrt":
            return self._root()
        if name in ("lvert", "vert", "|"):
            return self._absolute("\\rvert" if name == "lvert" else "\\" + name)
        if name in ("lfloor", "lceil"):
            node = self.sum()
            self._expect("\\r" + name[1:])
            return ("call", "floor" if name == "lfloor" else "ceil", node)
        if name in FUNCTIONS:
            return self._function(name)
        return self._symbol(name)

    def _root(self) -> Node:
        order: Node = ("number", Fraction(2))
        if self.peek() == "[":
            order = self._group()
        radicand = self._group() if self.peek() == "(" else self._argument()
        return ("root", radicand, order)

    def _function(self, name: str) -> Node:
        base = power = None
        while self.peek() in ("_", "^"):
            if self._take() == "_":
                base = self._argument()
            else:
                power = self._argument()
        if power == ("negate", ("number", Fraction(1))):
            raise NotAnExpression("an inverse function or a reciprocal")
        self._functions += 1
        node: Node = ("call", name, self._applied_to())
        self._functions -= 1
        if base is not None:
            if name != "log":
                raise NotAnExpression(f"{name} with a subscript")
            node = ("divide", ("call", "ln", node[2]), ("call", "ln", base))
        return node if power is None else ("power", node, power)

    def _applied_to(self) -> Node:
        r"""The argument of a function: a group, or the factors up to the next sign, slash or function (`\sin 2x`)."""
        if self.peek() in ("(", "{", "["):
            node = self._group()
            if self.peek() == "^":
                raise NotAnExpression("a power after a function's argument can be read in two ways")
            return node
        node = self._power()
        while self._starts_factor(self.peek()) and self.peek()[1:] not in FUNCTIONS - {"sqrt"}:
            if self.peek() in ("(", "["):
                raise NotAnExpression("a group after a function's argument can be read in two ways")
            node = _product(node, self._power())
        return node


_COMMANDS = "pi frac dfrac tfrac cfrac binom dbinom tbinom lvert vert | lfloor lceil"
_ATOMS = FUNCTIONS | _GREEK | frozenset(_COMMANDS.split())


def _product(node: Node, factor: Node) -> Node:
    """A product as one flat node, so that long ones do not nest."""
    return (*node, factor) if node[0] == "multiply" else ("multiply", node, factor)


def _is_number(piece: str) -> bool:
    return piece[:1] in _DIGITS and piece not in ("", ".")


def _is_plain_fraction(node: Node) -> bool:
    return all(part[0] == "number" and part[1].denominator == 1 for part in node[1:])
